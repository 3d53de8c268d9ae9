-- Minutes late by the weather at the airport and the hour of departure: the worst thing that
-- the report of that hour says.

INSERT OVERWRITE DIRECTORY '${RUNYARD_DATA}/flight_delays/delays_by_weather' USING json
SELECT
    CASE
        WHEN NOT has_weather THEN 'no report'
        WHEN visibility < 3 THEN 'poor visibility'
        WHEN precip > 0 THEN 'rain or snow'
        WHEN wind_speed >= 20 THEN 'strong wind'
        ELSE 'fair'
    END AS weather,
    COUNT(*) AS flights,
    COUNT_IF(cancelled) AS cancelled,
    COUNT(arr_delay) AS arrived,
    SUM(arr_delay) AS delay_minutes,
    CAST(AVG(arr_delay) AS DECIMAL(8, 2)) AS mean_delay
FROM parquet.`${RUNYARD_DATA}/flight_delays/clean`
GROUP BY 1
ORDER BY mean_delay DESC;

SELECT weather, flights, cancelled, arrived, mean_delay
FROM json.`${RUNYARD_DATA}/flight_delays/delays_by_weather`
ORDER BY mean_delay DESC;
