-- What became of the rows of each file.
SELECT quality.service, strftime(quality.file_month, '%Y-%m') AS month, quality.outcome, quality.row_count
FROM load_quality AS quality
JOIN reported ON reported.service = quality.service AND reported.month = quality.file_month
ORDER BY ALL;
