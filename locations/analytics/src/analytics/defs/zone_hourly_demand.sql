-- Every trip once, in the hour and zone of its pickup, whichever month's file it came in.
SELECT
  trips.service,
  trips.pickup_zone_id AS zone_id,
  date_trunc('hour', trips.pickup_at) AS pickup_hour,
  zones.zone,
  zones.borough,
  count(*) AS trips,
  -- Every addend has two decimals: so the sum is exact, in whichever order the threads add.
  round(fsum(trips.total_amount), 2) AS total_amount
FROM ingestion.raw.taxi_trips AS trips
JOIN requested
  ON requested.service = trips.service
  AND requested.first_day = date_trunc('month', trips.pickup_at)
JOIN ingestion.raw.taxi_zones AS zones ON zones.zone_id = trips.pickup_zone_id
-- The days of all requested months, so that only the files of those months are read.
WHERE trips.pickup_at >= getvariable('first_day') AND trips.pickup_at < getvariable('day_after')
GROUP BY ALL
ORDER BY ALL
