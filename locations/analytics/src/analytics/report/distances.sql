-- What trips cost, by their length. Amounts in USD.
SELECT
  service,
  strftime(month, '%Y-%m') AS month,
  distance_band,
  from_miles,
  trips,
  coalesce(fare_amount, 0) AS fare_amount,
  card_trips,
  coalesce(card_fare_amount, 0) AS card_fare_amount,
  coalesce(card_tip_amount, 0) AS card_tip_amount
FROM fares_by_distance
JOIN reported USING (service, month)
ORDER BY ALL;
