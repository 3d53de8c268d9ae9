-- One row per flight, with what the other tables know about it. Each join is a left join on
-- a key of the right side: it must neither lose a flight nor make two of one.

INSERT OVERWRITE DIRECTORY '${RUNYARD_DATA}/flight_delays/clean' USING parquet
SELECT
    MAKE_DATE(f.year, f.month, f.day) AS day,
    f.carrier,
    a.name AS airline,
    f.flight,
    f.tailnum,
    f.origin,
    f.dest,
    d.name AS destination,
    f.distance,
    p.manufacturer,
    p.seats,
    f.dep_time IS NULL AS cancelled,
    f.dep_delay,
    -- NULL for flights that were cancelled or diverted: they are in no mean.
    f.arr_delay,
    w.origin IS NOT NULL AS has_weather,
    w.precip,
    w.visib AS visibility,
    w.wind_speed
FROM parquet.`${RUNYARD_DATA}/flight_delays/flights` AS f
LEFT JOIN parquet.`${RUNYARD_DATA}/flight_delays/airlines` AS a ON a.carrier = f.carrier
LEFT JOIN parquet.`${RUNYARD_DATA}/flight_delays/airports` AS d ON d.faa = f.dest
LEFT JOIN parquet.`${RUNYARD_DATA}/flight_delays/planes` AS p ON p.tailnum = f.tailnum
LEFT JOIN parquet.`${RUNYARD_DATA}/flight_delays/weather` AS w
    ON w.origin = f.origin AND w.time_hour = f.time_hour;

SELECT
    COUNT(*) AS flights,
    COUNT_IF(cancelled) AS cancelled,
    COUNT_IF(arr_delay IS NULL AND NOT cancelled) AS diverted,
    COUNT_IF(airline IS NULL) AS without_airline,
    COUNT_IF(manufacturer IS NULL) AS without_plane,
    COUNT_IF(NOT has_weather) AS without_weather
FROM parquet.`${RUNYARD_DATA}/flight_delays/clean`;
