-- Every zone of the borough once, with its shape and all its pickups; zones without any are there too.
SELECT
  zones.zone_id,
  zones.zone,
  zones.borough,
  zones.geometry_wkt,
  coalesce(sum(demand.trips), 0)::BIGINT AS trips,
  coalesce(sum(demand.trips) FILTER (demand.service = 'yellow'), 0)::BIGINT AS yellow_trips,
  coalesce(sum(demand.trips) FILTER (demand.service = 'green'), 0)::BIGINT AS green_trips,
  coalesce(round(fsum(demand.total_amount), 2), 0) AS total_amount
FROM ingestion.raw.taxi_zones AS zones
LEFT JOIN marts.zone_hourly_demand AS demand ON demand.zone_id = zones.zone_id
WHERE zones.borough = $borough AND zones.geometry_wkt IS NOT NULL
GROUP BY ALL
ORDER BY trips DESC, zones.zone_id
