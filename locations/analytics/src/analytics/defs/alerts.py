"""Tells the team that a run of this location failed."""

from taxi_shared.alerts import failure_alerts

analytics_failure_alerts = failure_alerts("analytics")
