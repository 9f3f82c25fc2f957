-- How far the data reaches, per service: newest file, when it was loaded (UTC), hour of the newest pickup (New York).
SELECT
  loads.service,
  strftime(max(loads.file_month), '%Y-%m') AS newest_file,
  strftime(arg_max(loads.loaded_at, loads.file_month), '%Y-%m-%dT%H:%M') AS loaded_at,
  strftime(any_value(demand.newest_hour), '%Y-%m-%dT%H:%M') AS newest_pickup
FROM load_quality AS loads
LEFT JOIN (SELECT service, max(pickup_hour) AS newest_hour FROM zone_hourly_demand GROUP BY service) AS demand
  ON demand.service = loads.service
WHERE loads.outcome = 'kept'
GROUP BY loads.service
ORDER BY ALL;
