"""Rows of ratios, and the table that is made of them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured ratio.

    Attributes
    ----------
    name
        Short and stable: names the row in `./codeloc bench NAME`, in RESULTS.md and where it got worse.
    what, against
        What was measured here, and what it is held against.
    ours, theirs
        The two figures, in the same unit.
    at_most
        What `ours / theirs` may be.
    clearly_worse
        A ratio above this fails the run: the target with room for what a machine adds by chance.
    """

    name: str
    what: str
    against: str
    ours: float
    theirs: float
    unit: str
    at_most: float
    clearly_worse: float

    @property
    def ratio(self) -> float:
        """Ours by theirs; where theirs is nothing, 0 if ours is nothing too."""
        if self.theirs:
            return self.ours / self.theirs
        return float("inf") if self.ours else 0.0

    @property
    def is_met(self) -> bool:
        """Whether the target is."""
        return self.ratio <= self.at_most

    @property
    def is_worse(self) -> bool:
        """Whether it is clearly missed."""
        return self.ratio > self.clearly_worse


HEADINGS = ("", "measured", "against", "ours", "theirs", "ratio", "target", "")


def cells(row: Row) -> tuple[str, ...]:
    """A row as it is shown."""
    return (
        row.name,
        row.what,
        row.against,
        f"{row.ours:,.3g} {row.unit}",
        f"{row.theirs:,.3g} {row.unit}",
        f"{row.ratio:.2f}",
        f"≤ {row.at_most:g}",
        "met" if row.is_met else "missed",
    )


def markdown(rows: Iterable[Row]) -> str:
    """The table as RESULTS.md has it."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(cells(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
