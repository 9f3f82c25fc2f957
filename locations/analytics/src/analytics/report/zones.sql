-- Every zone, in the order of `pickups`.
SELECT zone_id, zone, borough
FROM taxi_zones
ORDER BY zone_id;
