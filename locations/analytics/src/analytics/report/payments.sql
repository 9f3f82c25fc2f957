-- What trips cost, by way of payment. Amounts in USD.
SELECT
  service,
  strftime(month, '%Y-%m') AS month,
  payment,
  trips,
  coalesce(fare_amount, 0) AS fare_amount,
  coalesce(tip_amount, 0) AS tip_amount,
  coalesce(total_amount, 0) AS total_amount
FROM fare_economics
JOIN reported USING (service, month)
ORDER BY ALL;
