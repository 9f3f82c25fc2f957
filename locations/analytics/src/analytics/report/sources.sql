-- Where the files came from: the addresses that trip-data/ lies under.
SELECT DISTINCT regexp_replace(loads.source_url, '/trip-data/[^/]*$', '') AS address
FROM taxi_trips_loads AS loads
JOIN reported ON reported.service = loads.service AND reported.month = loads.file_month
ORDER BY ALL;
