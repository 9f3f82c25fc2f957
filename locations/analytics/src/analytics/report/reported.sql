-- The months the report is about, of each service. Files hold a few trips of the months beside theirs, so a month is
-- there when its own file is loaded and the marts have caught up with it: the other months' trips alone are far fewer.
CREATE OR REPLACE TEMP VIEW reported AS
SELECT loads.service, loads.file_month AS month
FROM load_quality AS loads
LEFT JOIN (
  SELECT service, month, sum(trips) AS trips FROM fare_economics GROUP BY ALL
) AS marts ON marts.service = loads.service AND marts.month = loads.file_month
WHERE loads.outcome = 'kept' AND coalesce(marts.trips, 0) >= loads.row_count / 2
QUALIFY dense_rank() OVER (ORDER BY loads.file_month DESC) <= getvariable('newest_months');
