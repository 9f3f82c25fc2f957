-- The months of the period that are loaded. The mart alone cannot tell: beside each month that is loaded it has
-- the few trips of the months next to it that came in the same file.
CREATE TEMP TABLE loaded AS
SELECT service, file_month AS first_day
FROM ingestion.raw.taxi_trips_loads
WHERE list_contains(getvariable('services'), service)
  AND file_month BETWEEN date_trunc('month', getvariable('from_day')) AND getvariable('to_day')
INTERSECT
SELECT service, date_trunc('month', pickup_hour)::DATE
FROM marts.zone_hourly_demand;

-- Per weekday (1 is Monday) and hour of the pickup: how many such days of the period are loaded, the trips on
-- all of them, and the trips in that hour of an average one.
WITH period AS (
  SELECT unnest(generate_series(getvariable('from_day'), getvariable('to_day'), INTERVAL 1 DAY))::DATE AS day
), weekdays AS (
  SELECT isodow(day) AS weekday, count(*) FILTER (date_trunc('month', day) IN (SELECT first_day FROM loaded)) AS days
  FROM period
  GROUP BY ALL
), pickups AS (
  SELECT isodow(pickup_hour) AS weekday, hour(pickup_hour) AS hour, sum(trips) AS trips
  FROM marts.zone_hourly_demand
  WHERE borough = getvariable('borough')
    AND list_contains(getvariable('services'), service)
    AND pickup_hour >= getvariable('from_day')
    AND pickup_hour < getvariable('to_day') + INTERVAL 1 DAY
  GROUP BY ALL
)
SELECT
  weekday,
  hours.hour,
  weekdays.days,
  coalesce(pickups.trips, 0)::BIGINT AS trips,
  coalesce(pickups.trips, 0) / nullif(weekdays.days, 0) AS trips_per_hour
FROM weekdays
CROSS JOIN (SELECT unnest(range(24)) AS hour) AS hours
LEFT JOIN pickups USING (weekday, hour)
ORDER BY weekday, hours.hour;
