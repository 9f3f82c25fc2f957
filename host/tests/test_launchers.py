import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from codeloc.home import Home
from codeloc.launchers import ProcessRunLauncher


def test_several_threads_let_go_of_a_run_that_ended(tmp_path: Path) -> None:
    Home(tmp_path).make()
    both = threading.Barrier(2, timeout=30)

    class Child(subprocess.Popen[bytes]):
        def poll(self) -> int | None:
            found = super().poll()
            # Both threads know that it has ended before one of them goes on.
            both.wait()
            return found

    with Child(["true"]) as child:
        child.wait()
        launcher = ProcessRunLauncher(str(tmp_path))
        launcher._children["a run"] = child
        log = launcher._log("a run")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        with ThreadPoolExecutor(2) as threads:
            for collected in [threads.submit(launcher._collect) for _ in range(2)]:
                collected.result()
        assert not log.exists()
        assert launcher._children == {}
