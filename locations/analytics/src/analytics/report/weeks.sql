-- Whole weeks, each under the month it begins in. One of which a month is not loaded would look like a slump.
SELECT weeks.service, strftime(begins.month, '%Y-%m') AS month, strftime(weeks.week, '%Y-%m-%d') AS week, weeks.trips
FROM trips_by_week AS weeks
JOIN reported AS begins
  ON begins.service = weeks.service AND begins.month = date_trunc('month', weeks.week)
JOIN reported AS ends
  ON ends.service = weeks.service AND ends.month = date_trunc('month', weeks.week + INTERVAL 6 DAY)
ORDER BY ALL;
