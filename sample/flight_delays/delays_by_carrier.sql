-- Minutes late on arrival, by carrier. Flights that never arrived are counted, but are in no
-- mean. Sums stand beside the means so that the check below can add them up.

INSERT OVERWRITE DIRECTORY '${RUNYARD_DATA}/flight_delays/delays_by_carrier' USING json
SELECT
    carrier,
    airline,
    COUNT(*) AS flights,
    COUNT(arr_delay) AS arrived,
    SUM(arr_delay) AS delay_minutes,
    CAST(AVG(arr_delay) AS DECIMAL(8, 2)) AS mean_delay
FROM parquet.`${RUNYARD_DATA}/flight_delays/clean`
GROUP BY carrier, airline
ORDER BY mean_delay DESC;

SELECT carrier, airline, flights, arrived, mean_delay
FROM json.`${RUNYARD_DATA}/flight_delays/delays_by_carrier`
ORDER BY mean_delay DESC;
