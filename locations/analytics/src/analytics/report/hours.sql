-- Pickups in the 168 hours of the week, Monday 0:00 first, per service and month.
WITH counted AS (
  SELECT
    service,
    date_trunc('month', pickup_hour)::DATE AS month,
    24 * (isodow(pickup_hour) - 1) + hour(pickup_hour) AS hour_of_week,
    sum(trips)::BIGINT AS trips
  FROM zone_hourly_demand
  GROUP BY ALL
)
SELECT
  service,
  strftime(month, '%Y-%m') AS month,
  list(coalesce(counted.trips, 0) ORDER BY hour_of_week) AS trips
FROM reported
CROSS JOIN (SELECT unnest(range(168)) AS hour_of_week)
LEFT JOIN counted USING (service, month, hour_of_week)
GROUP BY ALL
ORDER BY ALL;
