-- Every row of the file with the first rule it breaks, or null. `reason` decides between trips and quarantine.
CREATE OR REPLACE TEMP VIEW classified AS
SELECT
  * EXCLUDE (unreadable, absurd),
  CASE
    WHEN unreadable THEN 'unreadable_value'
    WHEN absurd AND NOT (
      isfinite(trip_distance) AND isfinite(total_amount) AND isfinite(fare_amount) AND isfinite(extra)
      AND isfinite(mta_tax) AND isfinite(tip_amount) AND isfinite(tolls_amount) AND isfinite(ehail_fee)
      AND isfinite(improvement_surcharge) AND isfinite(congestion_surcharge) AND isfinite(airport_fee)
      AND isfinite(cbd_congestion_fee)
    ) THEN 'unreadable_value'
    WHEN pickup_at IS NULL OR dropoff_at IS NULL OR pickup_zone_id IS NULL OR dropoff_zone_id IS NULL
      THEN 'missing_value'
    -- Trips reported some days late, or just after midnight, are real; 2008 and 2041 are not.
    WHEN pickup_at < file_month - getvariable('late_reporting')::INTERVAL
      OR pickup_at >= file_month + INTERVAL 1 MONTH + getvariable('early_reporting')::INTERVAL
      THEN 'outside_file_month'
    WHEN dropoff_at <= pickup_at THEN 'no_duration'
    WHEN dropoff_at > pickup_at + INTERVAL 30 DAY THEN 'implausible_duration'
    WHEN pickup_zone_id NOT BETWEEN 1 AND 265 OR dropoff_zone_id NOT BETWEEN 1 AND 265 THEN 'unknown_zone'
    WHEN trip_distance < 0 OR trip_distance > 1000 THEN 'implausible_distance'
    WHEN absurd AND greatest(
      abs(total_amount), abs(fare_amount), abs(extra), abs(mta_tax), abs(tip_amount), abs(tolls_amount), abs(ehail_fee),
      abs(improvement_surcharge), abs(congestion_surcharge), abs(airport_fee), abs(cbd_congestion_fee)
    ) > 10000 THEN 'implausible_amount'
    -- Refunds and voids: each mirrors a row with the positive amounts.
    WHEN total_amount < 0 THEN 'negative_amount'
  END AS reason
FROM canonical;
