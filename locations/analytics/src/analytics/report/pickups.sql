-- Pickups in every zone, by zone_id, per service and month.
WITH counted AS (
  SELECT service, date_trunc('month', pickup_hour)::DATE AS month, zone_id, sum(trips)::BIGINT AS trips
  FROM zone_hourly_demand
  GROUP BY ALL
)
SELECT
  service,
  strftime(month, '%Y-%m') AS month,
  list(coalesce(counted.trips, 0) ORDER BY zone_id) AS trips
FROM reported
CROSS JOIN (SELECT zone_id FROM taxi_zones)
LEFT JOIN counted USING (service, month, zone_id)
GROUP BY ALL
ORDER BY ALL;
