-- Names from TLC's lookup ("NA" and "N/A" are values there), shapes by OBJECTID; see taxi_zones.
INSERT INTO raw.taxi_zones (zone_id, zone, borough, service_zone, geometry_wkt)
SELECT
  lookup.LocationID::SMALLINT,
  lookup.Zone,
  lookup.Borough,
  lookup.service_zone,
  valid_multipolygon(shapes.the_geom)
FROM read_csv(
  getvariable('taxi_zone_lookup'), all_varchar = true, header = true, delim = ',', quote = '"', nullstr = ''
) AS lookup
LEFT JOIN read_csv(
  getvariable('taxi_zones'), all_varchar = true, header = true, delim = ',', quote = '"', max_line_size = 10000000
) AS shapes
  ON shapes.OBJECTID::SMALLINT = lookup.LocationID::SMALLINT
ORDER BY lookup.LocationID::SMALLINT;
