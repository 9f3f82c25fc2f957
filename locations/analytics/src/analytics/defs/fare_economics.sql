-- Every trip once, in the month of its pickup and under the way it was paid.
SELECT
  trips.service,
  date_trunc('month', trips.pickup_at)::DATE AS month,
  CASE
    WHEN trips.payment_type IS NULL THEN 'not reported'
    WHEN trips.payment_type = 0 THEN 'flex fare'
    WHEN trips.payment_type = 1 THEN 'card'
    WHEN trips.payment_type = 2 THEN 'cash'
    WHEN trips.payment_type = 3 THEN 'no charge'
    WHEN trips.payment_type = 4 THEN 'dispute'
    WHEN trips.payment_type = 6 THEN 'voided'
    ELSE 'unknown'
  END AS payment,
  count(*) AS trips,
  -- Every addend has two decimals: so the sum is exact, in whichever order the threads add.
  round(fsum(trips.trip_distance), 2) AS distance_miles,
  sum(date_diff('second', trips.pickup_at, trips.dropoff_at)) AS duration_seconds,
  round(fsum(trips.fare_amount), 2) AS fare_amount,
  round(fsum(trips.tip_amount), 2) AS tip_amount,
  round(fsum(trips.tolls_amount), 2) AS tolls_amount,
  round(fsum(trips.total_amount), 2) AS total_amount
FROM ingestion.raw.taxi_trips AS trips
JOIN requested
  ON requested.service = trips.service
  AND requested.first_day = date_trunc('month', trips.pickup_at)
-- The days of all requested months, so that only the files of those months are read.
WHERE trips.pickup_at >= getvariable('first_day') AND trips.pickup_at < getvariable('day_after')
GROUP BY ALL
ORDER BY ALL
