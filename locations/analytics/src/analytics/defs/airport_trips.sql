-- Every trip from or to an airport, on the day of its pickup; from one airport to another it counts at both.
SELECT
  trips.service,
  trips.pickup_at::DATE AS day,
  airports.zone AS airport,
  ends.direction,
  count(*) AS trips,
  -- Every addend has two decimals: so the sum is exact, in whichever order the threads add.
  round(fsum(trips.trip_distance), 2) AS distance_miles,
  sum(date_diff('second', trips.pickup_at, trips.dropoff_at)) AS duration_seconds,
  round(fsum(trips.fare_amount), 2) AS fare_amount,
  round(fsum(trips.tip_amount), 2) AS tip_amount,
  round(fsum(trips.total_amount), 2) AS total_amount
FROM ingestion.raw.taxi_trips AS trips
JOIN requested
  ON requested.service = trips.service
  AND requested.first_day = date_trunc('month', trips.pickup_at)
CROSS JOIN (VALUES ('from'), ('to')) AS ends (direction)
JOIN ingestion.raw.taxi_zones AS airports
  ON airports.zone_id = if(ends.direction = 'from', trips.pickup_zone_id, trips.dropoff_zone_id)
WHERE
  airports.service_zone IN ('Airports', 'EWR')
  -- The days of all requested months, so that only the files of those months are read.
  AND trips.pickup_at >= getvariable('first_day')
  AND trips.pickup_at < getvariable('day_after')
GROUP BY ALL
ORDER BY ALL
