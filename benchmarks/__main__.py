"""`python -m benchmarks`, or `./codeloc bench`: measures, prints the table, and writes it into RESULTS.md."""

import argparse
import importlib
import os
import platform
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import psutil

from benchmarks import table
from benchmarks.workplace import ROOT, BenchmarkError, python

if TYPE_CHECKING:
    from benchmarks.table import Row

RESULTS = Path(__file__).parent / "RESULTS.md"
# Each is a module with `measure(short)`, in the order in which they are measured.
NAMES = ["loading", "starting", "stock", "concurrency", "containers"]
# Curves instead of ratios.
SCALE = "scale"
# Left out unless they are asked for: they build images.
NEED_DOCKER = {"containers"}
# Left out of the short form: they say nothing of small data, or take minutes.
LONG = {"stock", "concurrency", "containers", SCALE}


def main() -> int:
    """Measure what was asked for; 1 if a ratio is clearly worse than its target."""
    # What was started is ended and removed in either case.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    everything = [*NAMES, SCALE]
    parser = argparse.ArgumentParser(prog="./codeloc bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(everything)}; without one, all"
    )
    parser.add_argument("--short", action="store_true", help="what CI measures: small data; RESULTS.md stays as it is")
    parser.add_argument("--docker", action="store_true", help="the deployment with Docker Compose too")
    given = parser.parse_args()
    if unknown := set(given.names) - set(everything):
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(everything)}")
    left_out = (set() if given.docker else NEED_DOCKER) | (LONG if given.short else set())
    names = given.names or [name for name in everything if name not in left_out]

    rows: list[Row] = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        try:
            measured = module.measure(given.short)
        except BenchmarkError as error:
            print(f"{name} could not be measured: {error}", file=sys.stderr)
            return 2
        if name == SCALE:
            text = module.markdown(measured)
        else:
            rows += measured
            text = table.markdown(measured)
        print(text, flush=True)
        if not given.short:
            _write(name, text)
    worse = [row for row in rows if row.is_worse]
    for row in worse:
        print(
            f"{row.name}: {row.ratio:.2f} times {row.against}, clearly more than the target of {row.at_most:g}",
            file=sys.stderr,
        )
    return 1 if worse else 0


def _write(name: str, text: str) -> None:
    """Put what was measured between its lines in RESULTS.md."""
    begin, end = f"<!-- {name}: written by ./codeloc bench {name} -->", f"<!-- end of {name} -->"
    whole = RESULTS.read_text(encoding="utf-8")
    inside = f"{begin}\n{_where()}\n\n{text}{end}"
    found, times = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: inside, whole, flags=re.DOTALL)
    if times != 1:
        raise BenchmarkError(f"{RESULTS} lacks the lines {begin} and {end}")
    RESULTS.write_text(found, encoding="utf-8")


def _where() -> str:
    """Machine, versions and command, in a line."""
    asked = "import dagster, sys; print(dagster.__version__, sys.version.split()[0])"
    dagster, interpreter = subprocess.run(
        [python("host"), "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    # What the measurements before this one have written there is no change of what is measured.
    others = ["--", ".", f":(exclude){RESULTS.relative_to(ROOT)}"]
    if subprocess.run(["git", "diff", "--quiet", "HEAD", *others], cwd=ROOT, check=False).returncode:
        commit += "-dirty"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    versions = f"Dagster {dagster}, DuckDB {duckdb.__version__}, Python {interpreter}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {memory}; {versions}; commit {commit}"


if __name__ == "__main__":
    sys.exit(main())
