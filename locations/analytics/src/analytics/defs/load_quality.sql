-- What became of the rows of each requested month's file: kept, or quarantined with their reason.
SELECT
  loads.service,
  loads.file_month,
  'kept' AS outcome,
  loads.rows_kept AS row_count,
  loads.loaded_at
FROM ingestion.raw.taxi_trips_loads AS loads
JOIN requested ON requested.service = loads.service AND requested.first_day = loads.file_month

UNION ALL

SELECT
  loads.service,
  loads.file_month,
  odd.reason AS outcome,
  count(*) AS row_count,
  loads.loaded_at
FROM ingestion.raw.taxi_trips_loads AS loads
JOIN requested ON requested.service = loads.service AND requested.first_day = loads.file_month
JOIN ingestion.raw.taxi_trips_quarantine AS odd
  ON odd.service = loads.service AND odd.file_month = loads.file_month
GROUP BY ALL
ORDER BY ALL
