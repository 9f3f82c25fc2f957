"""What Compose writes on containers, and how images and servers are named: for the gate and for deploys."""

# Compose's own labels.
PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
# Where a location's servers listen, in their containers: `taxi_shared.server`.
SOCKETS = "/run/codeserver"


def repository(image: str) -> str:
    """An image's name without tag and digest: the same for each version of a location."""
    name = image.split("@", 1)[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name
