-- The requested months anew. A trip belongs to the month of its pickup, whichever month's file it came in.
DELETE FROM marts.zone_hourly_demand
WHERE (service, date_trunc('month', pickup_hour)::DATE) IN (SELECT service, first_day FROM requested);

INSERT INTO marts.zone_hourly_demand BY NAME
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
ORDER BY ALL;

-- What became of each requested month: service, first day, rows, trips.
SELECT requested.service, requested.first_day, count(mart.trips), coalesce(sum(mart.trips), 0)::BIGINT
FROM requested
LEFT JOIN marts.zone_hourly_demand AS mart
  ON mart.service = requested.service
  AND mart.pickup_hour >= requested.first_day
  AND mart.pickup_hour < requested.first_day + INTERVAL 1 MONTH
GROUP BY ALL;
