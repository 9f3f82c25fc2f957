"""Run by host's environment: an embedded Postgres with a platform's roles and nothing in it, until its input ends.

What is measured in one process needs the lakes' catalog, and not the rest of a platform beside it.
"""

import json
import pwd
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
from codeloc import postgres
from codeloc.home import Home
from codeloc.postgres import Server

LOCATIONS = ["ingestion", "analytics"]


def main(folder: Path, port: int) -> None:
    """Say the connection string of ingestion's catalog once it is there."""
    home = Home(folder)
    home.make()
    roles = ("postgres", postgres.DAGSTER, postgres.READER, postgres.BI, *LOCATIONS)
    passwords = {role: secrets.token_hex(8) for role in roles}
    postgres.initialize(home, passwords["postgres"], lambda _text: None)
    user = postgres.system_user()
    account = pwd.getpwnam(user) if user else None
    started = subprocess.Popen(
        postgres.command(home, port),
        user=user,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        server = Server("127.0.0.1", port, "postgres", passwords["postgres"])
        _wait_for(server)
        postgres.provision(server, LOCATIONS, passwords, {}, None)
        catalog = server.connection_string(postgres.WAREHOUSE, "ingestion", passwords["ingestion"])
        sys.stdout.write(json.dumps({"catalog": catalog}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        # SIGINT is Postgres' fast shutdown: it does not wait for whoever is still connected.
        started.send_signal(2)
        started.wait(60)


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with server.administer("postgres"):
                return
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
