"""A command's own process begins and ends quickly, and loses nothing by that."""

import gc
import subprocess
import sys

import pytest

from ditto import imports

LEFT = """
import atexit, sys, threading, time
class Left:
    def __del__(self):
        print("taken apart")
left = [Left()]
left.append(left)
atexit.register(print, "said at exit")
sys.argv = ["ditto-music", {argument!r}]
{more}
from ditto.cli.process import run
run()
"""


def ended(argument: str, more: str = "") -> subprocess.CompletedProcess[str]:
    program = LEFT.format(argument=argument, more=more)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("--nothing", 2)])
def test_the_process_ends_with_all_said_and_nothing_taken_apart(argument: str, status: int) -> None:
    done = ended(argument)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == "said at exit"
    assert ("No such option" in done.stderr) == (status == 2)


def test_a_thread_that_works_is_waited_for() -> None:
    work = "threading.Thread(target=lambda: (time.sleep(1), print('work done'))).start()"
    done = ended("--version", work)
    assert done.returncode == 0, done.stderr
    assert {"work done", "said at exit"} <= set(done.stdout.splitlines())


def test_words_of_an_exit_are_said() -> None:
    more = "import ditto.cli; ditto.cli.main = lambda: sys.exit('it went wrong')"
    done = ended("--version", more)
    assert (done.returncode, done.stderr) == (1, "it went wrong\n")


def test_a_mistake_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "ditto", "generate", "--intensity", "nonsense", "-o", "x.wav"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_a_reader_that_leaves_is_no_mistake_of_ours() -> None:
    command = f"{sys.executable} -m ditto --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.split() in (["0"], ["120"], ["1"]), done.stderr
    assert "Traceback" not in done.stderr


def collections_in(block: bool) -> int:
    """Return how often garbage is looked for while many objects are made."""
    seen: list[str] = []

    def look(phase: str, info: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(look)
    try:
        if block:
            with imports.importing():
                made = [[i] for i in range(50_000)]
        else:
            made = [[i] for i in range(50_000)]
    finally:
        gc.callbacks.remove(look)
    assert len(made) == 50_000
    return len(seen)


def test_imports_are_not_interrupted_and_the_collector_goes_on_after_them() -> None:
    assert collections_in(block=False) > collections_in(block=True)
    assert gc.isenabled()


def test_within_another_program_nothing_is_kept_from_the_collector() -> None:
    program = (
        "import gc, sys, ditto.cli\n"
        "sys.argv = ['ditto-music', 'models', '--help']\n"
        "try:\n    ditto.cli.main()\nexcept SystemExit:\n    pass\n"
        "print(gc.isenabled(), gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True 0", done.stderr
