-- Trips from and to the airports.
WITH monthly AS (
  SELECT
    service,
    date_trunc('month', day)::DATE AS month,
    airport,
    direction,
    sum(trips)::BIGINT AS trips,
    sum(duration_seconds)::BIGINT AS duration_seconds,
    round(coalesce(fsum(fare_amount), 0), 2) AS fare_amount
  FROM airport_trips
  GROUP BY ALL
)
SELECT * REPLACE (strftime(month, '%Y-%m') AS month)
FROM monthly
JOIN reported USING (service, month)
ORDER BY ALL;
