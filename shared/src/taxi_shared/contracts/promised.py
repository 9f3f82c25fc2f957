"""What consumers were promised last, so that a change that breaks them fails in the producer's own tests.

`promised.json` holds each table's version, columns, key, partitions and what is refused of its rows, as they were last
promised. A change of a contract is either an addition or another rule, for which
`python -m taxi_shared.contracts.promised` brings the file up to date, or it takes something away: then the users of
what goes are named, from the SQL in the other locations' folders. It is kept until nobody uses it, or the contract has
another major version.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from taxi_shared.contracts import TableContract, contract, tables

FILE: Final = Path(__file__).with_name("promised.json")
COMMAND: Final = "python -m taxi_shared.contracts.promised"

Promise = Mapping[str, Any]


def promise(table: TableContract) -> dict[str, Any]:
    """What a consumer may build on."""
    return {
        "version": table.version,
        "columns": {column.name: [column.type, column.required] for column in table.columns},
        "key": list(table.key),
        "partitioned_by": list(table.partitioned_by),
        "refused": {rule.name: rule.expected for rule in table.rules if rule.blocking},
    }


def promised() -> dict[str, Promise]:
    """What was promised last, by table."""
    found: dict[str, Promise] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def broken(before: Promise, now: Promise | None) -> Iterator[tuple[str | None, str]]:
    """What of a promise is not kept: the column that it is about, or None for the whole table, and how."""
    if now is None:
        yield None, "the table has no contract any longer"
        return
    for name, (type_, required) in before["columns"].items():
        if name not in now["columns"]:
            yield name, f"column {name} is gone"
            continue
        new_type, still_required = now["columns"][name]
        if new_type != type_:
            yield name, f"column {name} becomes {new_type} (it is {type_})"
        if required and not still_required:
            yield name, f"column {name} may become null"
    for what in ("key", "partitioned_by"):
        if before[what] != now[what]:
            yield None, f"{what} becomes {', '.join(now[what]) or 'none'} (it is {', '.join(before[what]) or 'none'})"


def users(locations: Path, owner: str, table: str, column: str | None) -> list[str]:
    """The SQL files of other locations that read a table, or a column of it.

    Parameters
    ----------
    locations
        The folder of all locations.
    """
    from taxi_shared.description import columns_read

    known = [contract(name) for name in tables()]
    if table not in {found.table for found in known}:
        known.append(_gone(table))
    found = []
    for file in sorted(locations.glob("*/src/**/*.sql")):
        location = file.relative_to(locations).parts[0]
        if location == owner:
            continue
        read = columns_read([file.read_text(encoding="utf-8")], known).get(table)
        if read is not None and (column is None or column in read):
            found.append(f"{location}'s {file.stem} ({file.relative_to(locations)})")
    return found


def problems(locations: Path, owner: str) -> list[str]:
    """Why a team's contracts, as they are now, may not be brought out; nothing if they may.

    Parameters
    ----------
    locations
        The folder of all locations.
    owner
        The team.
    """
    before = promised()
    now = {name: contract(name) for name in tables()}
    texts: list[str] = []
    for name, found in now.items():
        if found.owner == owner:
            texts += problems_of(name, before.get(name), promise(found), locations, owner)
    return texts


def problems_of(name: str, before: Promise | None, now: Promise, locations: Path, owner: str) -> Iterator[str]:
    """The same for one table, as it was promised and as it is now."""
    breaks = list(broken(before, now)) if before is not None else []
    raised = before is not None and _major(now) > _major(before)
    for column, what in breaks:
        using = users(locations, owner, name, column)
        if using and not raised:
            yield (
                f"contract of {name}: {what}, and {', '.join(using)} uses it. Offer the new form beside it, as a table"
                " of its own, until nobody does"
            )
        elif not raised:
            yield f"contract of {name}: {what}: its version must become {_major(before or now) + 1}.0.0"
    if not breaks and before != now:
        same = before is not None and before["version"] == now["version"]
        first = "give it a new version, and then" if same else "as"
        what = "; ".join(_other_rules(before, now)) if before is not None else ""
        says = f"has other rules than were promised ({what})" if what else "promises more than before"
        yield f"contract of {name} {says}: {first} {COMMAND} in shared/ writes it down"
    elif raised:
        yield f"contract of {name} has a new major version: {COMMAND} in shared/ writes it down"


def _other_rules(before: Promise, now: Promise) -> Iterator[str]:
    """What is refused of a table's rows now and was not, or no longer."""
    was, is_now = before["refused"], now["refused"]
    for rule in [*is_now, *(rule for rule in was if rule not in is_now)]:
        if rule not in was:
            yield f"+ {rule}: {is_now[rule]}"
        elif rule not in is_now:
            yield f"- {rule}: {was[rule]}"
        elif was[rule] != is_now[rule]:
            yield f"~ {rule}: {was[rule]} -> {is_now[rule]}"


def _major(found: Promise) -> int:
    return int(str(found["version"]).split(".")[0])


def _gone(table: str) -> TableContract:
    """Stands for a table that has no contract any longer."""
    from datetime import timedelta

    return TableContract(table, "0.0.0", "", "", (), (), (), timedelta(0))


def main() -> int:
    """Write down what is promised now; refused where something that was promised is used and goes."""
    folder = Path(__file__).resolve().parents[4] / "locations"
    before, now = promised() if FILE.exists() else {}, {name: promise(contract(name)) for name in tables()}
    refused = []
    for name, was in before.items():
        if name in now and _major(now[name]) > _major(was):
            continue
        owner = contract(name).owner if name in now else ""
        for column, what in broken(was, now.get(name)):
            using = users(folder, owner, name, column)
            if using:
                refused.append(f"{name}: {what}, and {', '.join(using)} uses it")
    if refused:
        print("\n".join(["not written:", *refused]), file=sys.stderr)  # noqa: T201
        return 1
    FILE.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
