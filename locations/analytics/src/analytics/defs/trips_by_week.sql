-- The requested weeks anew. A trip belongs to the week of its pickup, whichever month's file it came in.
DELETE FROM marts.trips_by_week WHERE (service, week) IN (SELECT service, first_day FROM requested);

INSERT INTO marts.trips_by_week BY NAME
SELECT
  trips.service,
  requested.first_day AS week,
  count(*) AS trips,
  sum(trips.passenger_count) AS passengers,
  -- Every addend has two decimals: so the sum is exact, in whichever order the threads add.
  round(fsum(trips.trip_distance), 2) AS distance_miles,
  round(fsum(trips.fare_amount), 2) AS fare_amount,
  round(fsum(trips.tip_amount), 2) AS tip_amount,
  round(fsum(trips.total_amount), 2) AS total_amount
FROM ingestion.raw.taxi_trips AS trips
JOIN requested
  ON requested.service = trips.service
  AND requested.first_day = date_trunc('week', trips.pickup_at)
-- The days of all requested weeks, so that only the files of those months are read.
WHERE trips.pickup_at >= getvariable('first_day') AND trips.pickup_at < getvariable('day_after')
GROUP BY ALL
ORDER BY ALL;

-- What became of each requested week: service, first day, rows, trips.
SELECT requested.service, requested.first_day, count(mart.trips), coalesce(sum(mart.trips), 0)::BIGINT
FROM requested
LEFT JOIN marts.trips_by_week AS mart ON mart.service = requested.service AND mart.week = requested.first_day
GROUP BY ALL;
