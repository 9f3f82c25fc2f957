-- The months the report is about: of each service those whose file is loaded.
SELECT service, strftime(month, '%Y-%m') AS month
FROM reported
ORDER BY ALL;
