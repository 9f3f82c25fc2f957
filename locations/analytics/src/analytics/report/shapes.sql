-- The shape of every zone, for the map.
SELECT zone_id, zone, borough, geometry_wkt
FROM taxi_zones
ORDER BY zone_id;
