-- Every trip once, in the week of its pickup, whichever month's file it came in.
SELECT
  trips.service,
  date_trunc('week', trips.pickup_at)::DATE AS week,
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
ORDER BY ALL
