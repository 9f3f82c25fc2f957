"""The benchmarks' short form: the ratios that say the same on small data keep their targets, also on CI's machine."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.table import Row
from conftest import run_codeloc


def test_the_short_form_keeps_its_targets() -> None:
    done = run_codeloc("bench", "--short", timeout=900)
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if " ≤ " in line]
    assert len(rows) >= 5


@pytest.mark.parametrize(
    ("ours", "code", "said"),
    [
        (1.0, 0, "met"),
        # Missed by what a machine may add by chance.
        (1.4, 0, "missed"),
        (1.6, 1, "clearly more than the target of 1.2"),
    ],
)
def test_a_ratio_that_got_clearly_worse_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ours: float, code: int, said: str
) -> None:
    row = Row("a row", "something", "something else", ours, 1.0, "s", at_most=1.2, clearly_worse=1.5)
    monkeypatch.setitem(sys.modules, "benchmarks.loading", SimpleNamespace(measure=lambda _short: [row]))
    monkeypatch.setattr(sys, "argv", ["bench", "--short", "loading"])
    assert benchmarks.main() == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_what_is_not_there_is_refused_with_what_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "nothing"])
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main()
    assert "choose from loading, starting" in capsys.readouterr().err


def test_nothing_by_nothing_is_no_failure() -> None:
    row = Row("probes", "failed", "failed", 0, 0, "probes", at_most=0, clearly_worse=0)
    assert row.is_met
    assert not row.is_worse
    assert not Row("probes", "failed", "failed", 1, 0, "probes", at_most=0, clearly_worse=0).is_met
