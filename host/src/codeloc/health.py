"""What the containers' health checks ask, every few seconds: little is imported.

Usage: `python -m codeloc.health daemon`, `... http://127.0.0.1:3000/server_info`, or `... /a/unix.sock`.
"""

import os
import sys
import time

# Seconds. Each of the daemon's loops is heard of every 30.
_LONGEST_SILENCE = 90


def require_daemon(postgres_url: str) -> None:
    """See that the daemon of this container was heard of lately; an exception where it was not."""
    import psutil
    import psycopg2

    # An earlier container's heartbeats don't count.
    started = psutil.Process(1).create_time()
    connection = psycopg2.connect(postgres_url.replace("+psycopg2", "", 1), connect_timeout=3)
    try:
        with connection.cursor() as cursor:
            # The column is UTC without saying so.
            cursor.execute("SELECT max(extract(epoch FROM timestamp)) FROM daemon_heartbeats")
            row = cursor.fetchone()
    finally:
        connection.close()
    heard = float(row[0]) if row and row[0] is not None else 0
    if heard < max(started, time.time() - _LONGEST_SILENCE):
        raise SystemExit(f"nothing was heard of the daemon for {time.time() - heard:.0f} s")


def require_answer(url: str) -> None:
    """See that a server on loopback answers; an exception where it does not."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, timeout=3).close()


def require_engine(path: str) -> None:
    """See that a Docker engine answers through a Unix socket; an exception where it does not."""
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(3)
        connection.connect(path)
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        answer = connection.recv(4096)
    if b" 200 " not in answer.splitlines()[0]:
        raise SystemExit(f"{path} answers {answer.decode(errors='replace')}")


if __name__ == "__main__":
    if sys.argv[1] == "daemon":
        require_daemon(os.environ["DAGSTER_POSTGRES_URL"])
    elif sys.argv[1].startswith("/"):
        require_engine(sys.argv[1])
    else:
        require_answer(sys.argv[1])
