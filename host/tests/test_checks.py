"""Commands that run at the same time: what they print, how they ended, and that an interrupt ends all of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from codeloc import checks

# Says its name, waits until the other one has, says it again.
MEET = """
import sys, time
from pathlib import Path
name, other = sys.argv[1:]
print(name, flush=True)
Path(name).touch()
deadline = time.monotonic() + 30
while not Path(other).exists():
    if time.monotonic() > deadline:
        sys.exit("the other one is not there")
    time.sleep(0.01)
print(name, file=sys.stderr)
sys.exit(name == "second")
"""

# Each of three tells by a file that it is there, and by another one that it was interrupted.
RUN = """
import sys
from pathlib import Path
from codeloc import checks
from codeloc.platform import default_signals

code = '''
import sys, time
from pathlib import Path
try:
    Path(sys.argv[1], "began").touch()
    time.sleep(300)
except KeyboardInterrupt:
    Path(sys.argv[1], "interrupted").touch()
'''
default_signals()
commands = [checks._Command("package", name, [sys.executable, "-c", code, name], Path()) for name in sys.argv[1:]]
try:
    checks._run(commands, 2, {}, lambda line: None)
except KeyboardInterrupt:
    print("all ended")
"""


def test_two_run_at_once_and_what_they_print_is_not_mixed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    commands = [
        checks._Command("package", name, [sys.executable, "-c", MEET, name, other], tmp_path)
        for name, other in (("first", "second"), ("second", "first"))
    ]
    done = checks._run(commands, 2, dict(os.environ), said.append)
    assert [(check.package, check.name, check.passed) for check in done] == [
        ("package", "first", True),
        ("package", "second", False),
    ]
    assert capfd.readouterr().out.split() in (["first"] * 2 + ["second"] * 2, ["second"] * 2 + ["first"] * 2)
    assert said[:2] == ["package: first", "package: second"]


def test_alone_it_prints_as_it_goes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    command = checks._Command("package", "hello", [sys.executable, "-c", "print('hello')"], tmp_path)
    assert [check.passed for check in checks._run([command], 1, dict(os.environ), said.append)] == [True]
    assert (said, capfd.readouterr().out) == (["package: hello"], "hello\n")


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_an_interrupt_reaches_all_that_runs_and_begins_nothing(tmp_path: Path, sent: str) -> None:
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-c", RUN, *(folder.name for folder in folders)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not all((folder / "began").exists() for folder in folders[:2]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.Signals[sent])
        printed, _ = process.communicate(timeout=60)
    assert printed == "all ended\n"
    assert [sorted(file.name for file in folder.iterdir()) for folder in folders] == [
        ["began", "interrupted"],
        ["began", "interrupted"],
        [],
    ]
