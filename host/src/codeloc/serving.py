"""Whether a code server answers, and which version of a location a process of Dagster has loaded."""

from pathlib import Path

# Of Dagster's code servers, in gRPC's own protocol of health checks.
_SERVICE = "DagsterApi"


def answers(socket: Path) -> bool:
    """Whether a code server serves on a Unix socket."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    if not socket.exists():
        return False
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=_SERVICE), timeout=3
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def version_of(image: str | None) -> str | None:
    """The version in the name that a code server gives its code: what stands behind the last colon."""
    return image.rpartition(":")[2] or None if image else None


def daemon_key(location: str) -> str:
    """The cursor in Dagster's storage under which the daemon tells which version of a location it has loaded."""
    return f"codeloc/served/{location}"
