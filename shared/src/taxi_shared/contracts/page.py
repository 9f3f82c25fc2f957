"""The contracts as a page to read: `python -m taxi_shared.contracts.page > ../docs/contracts.md` writes it."""

from collections.abc import Iterator

from taxi_shared.contracts import TableContract, contract, tables

_HEAD = """\
# Contracts

What each team promises of its tables. Made from `shared/src/taxi_shared/contracts/*.odcs.yaml` (Open Data Contract
Standard) by `python -m taxi_shared.contracts.page`; a test keeps it current.
"""


def markdown() -> str:
    """The page, as Markdown."""
    found = [contract(table) for table in tables()]
    lines = [_HEAD, *(f"- [{table.table}](#{table.table.replace('.', '')}): {table.description}" for table in found)]
    for table in found:
        lines += ["", *_section(table)]
    return "\n".join(lines) + "\n"


def _section(table: TableContract) -> Iterator[str]:
    yield f"## {table.table}"
    yield ""
    yield f"{table.description}. {table.limitations}".strip()
    yield ""
    yield f"Version {table.version}{', deprecated' if table.deprecated else ''}, kept by team {table.owner}."
    yield f"Key: {', '.join(table.key)}. Out of date {table.latest.days} days after its last update."
    yield ""
    yield "| column | type | null | what it is |"
    yield "|---|---|---|---|"
    for column in table.columns:
        yield f"| {column.name} | {column.type} | {'no' if column.required else 'yes'} | {column.description} |"
    yield ""
    yield "| rule | must be | or else |"
    yield "|---|---|---|"
    for rule in table.rules:
        yield f"| {rule.name} | {rule.expected} | {'refused' if rule.blocking else 'told'} ({rule.dimension}) |"
    yield ""
    for change in table.changes:
        yield f"- {change.version} ({change.day}): {change.what}"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201
