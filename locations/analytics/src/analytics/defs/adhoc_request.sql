-- The months of the period that are loaded and that the mart has caught up with. Beside those it has a few trips of the
-- months next to them, which came in the same files; they are far fewer than a month's own.
CREATE TEMP TABLE loaded AS
SELECT loads.service, loads.file_month AS first_day
FROM marts.load_quality AS loads
LEFT JOIN (
  SELECT service, date_trunc('month', pickup_hour)::DATE AS month, sum(trips) AS trips
  FROM marts.zone_hourly_demand
  GROUP BY ALL
) AS demand ON demand.service = loads.service AND demand.month = loads.file_month
WHERE loads.outcome = 'kept'
  AND coalesce(demand.trips, 0) >= loads.row_count / 2
  AND list_contains(getvariable('services'), loads.service)
  AND loads.file_month BETWEEN date_trunc('month', getvariable('from_day')) AND getvariable('to_day');

-- Per weekday (1 is Monday) and hour of the pickup: such days of the period, trips on all of them, and on an average
-- one. Services may have different months loaded: each is averaged over its own.
WITH period AS (
  SELECT unnest(generate_series(getvariable('from_day'), getvariable('to_day'), INTERVAL 1 DAY))::DATE AS day
), such_days AS (
  SELECT loaded.service, isodow(period.day) AS weekday, count(*) AS days
  FROM period
  JOIN loaded ON loaded.first_day = date_trunc('month', period.day)
  GROUP BY ALL
), pickups AS (
  SELECT demand.service, isodow(demand.pickup_hour) AS weekday, hour(demand.pickup_hour) AS hour, sum(demand.trips) AS trips
  FROM marts.zone_hourly_demand AS demand
  JOIN loaded ON loaded.service = demand.service AND loaded.first_day = date_trunc('month', demand.pickup_hour)
  WHERE demand.borough = getvariable('borough')
    AND demand.pickup_hour >= getvariable('from_day')
    AND demand.pickup_hour < getvariable('to_day') + INTERVAL 1 DAY
  GROUP BY ALL
)
SELECT
  weekdays.weekday,
  hours.hour,
  coalesce(max(such_days.days), 0) AS days,
  coalesce(sum(pickups.trips), 0)::BIGINT AS trips,
  sum(coalesce(pickups.trips, 0) / such_days.days) AS trips_per_hour
FROM (SELECT DISTINCT isodow(day) AS weekday FROM period) AS weekdays
CROSS JOIN (SELECT unnest(range(24)) AS hour) AS hours
LEFT JOIN such_days ON such_days.weekday = weekdays.weekday
LEFT JOIN pickups
  ON pickups.service = such_days.service AND pickups.weekday = weekdays.weekday AND pickups.hour = hours.hour
GROUP BY ALL
ORDER BY weekdays.weekday, hours.hour
