"""What both deployments in containers are asked: an asset that does nothing, and a sensor for the code server."""

from dagster import SensorEvaluationContext, SkipReason, asset, sensor


@asset
def contained() -> None:
    """Nothing."""


@sensor(target=contained)
def probed(context: SensorEvaluationContext) -> SkipReason:
    """Looks when it is asked to, and finds nothing."""
    return SkipReason("nothing to do")
