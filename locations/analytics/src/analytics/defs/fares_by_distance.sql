-- Every trip once, in the month of its pickup and the band of its length.
SELECT
  trips.service,
  date_trunc('month', trips.pickup_at)::DATE AS month,
  -- A meter that shows nothing for a trip shows 0.
  CASE
    WHEN trips.trip_distance IS NULL OR trips.trip_distance = 0 THEN 'none recorded'
    WHEN trips.trip_distance < 1 THEN '0 to 1'
    WHEN trips.trip_distance < 2 THEN '1 to 2'
    WHEN trips.trip_distance < 3 THEN '2 to 3'
    WHEN trips.trip_distance < 5 THEN '3 to 5'
    WHEN trips.trip_distance < 10 THEN '5 to 10'
    WHEN trips.trip_distance < 20 THEN '10 to 20'
    ELSE '20 and more'
  END AS distance_band,
  -- The first word is where the band begins.
  try_cast(split_part(distance_band, ' ', 1) AS DOUBLE) AS from_miles,
  count(*) AS trips,
  -- Every addend has two decimals: so the sum is exact, in whichever order the threads add.
  round(fsum(trips.trip_distance), 2) AS distance_miles,
  round(fsum(trips.fare_amount), 2) AS fare_amount,
  round(fsum(trips.total_amount), 2) AS total_amount,
  -- Cash tips are not recorded.
  count(*) FILTER (trips.payment_type = 1) AS card_trips,
  round(fsum(trips.fare_amount) FILTER (trips.payment_type = 1), 2) AS card_fare_amount,
  round(fsum(trips.tip_amount) FILTER (trips.payment_type = 1), 2) AS card_tip_amount
FROM ingestion.raw.taxi_trips AS trips
JOIN requested
  ON requested.service = trips.service
  AND requested.first_day = date_trunc('month', trips.pickup_at)
-- The days of all requested months, so that only the files of those months are read.
WHERE trips.pickup_at >= getvariable('first_day') AND trips.pickup_at < getvariable('day_after')
GROUP BY ALL
ORDER BY trips.service, month, from_miles
