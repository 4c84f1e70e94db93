"""Threads are settled where a program starts, before torch is imported, and nowhere else."""

import os
import subprocess
import sys

import pytest

from tests.repository import ROOT
from textenv.threads import MOST, SPINS, physical_cores

SETTLED = ("OMP_NUM_THREADS", "TEXTENV_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
TELL = "import os, torch; print(torch.get_num_threads(), os.environ.get('OMP_WAIT_POLICY'))"


def run(code: str, **environment: str) -> tuple[str, str]:
    """What a fresh Python prints: (stdout, stderr)."""
    bare = {name: value for name, value in os.environ.items() if name not in SETTLED}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=bare | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


def test_importing_the_library_settles_nothing() -> None:
    out, said = run("import os, textenv; print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('OMP_WAIT_POLICY'))")
    assert (out, said) == ("None None", "")


def test_without_a_wish_there_is_a_thread_a_core_and_a_line_says_so() -> None:
    out, said = run(f"from textenv.threads import set_threads; set_threads(); {TELL}")
    count = min(physical_cores(), MOST)
    assert out == f"{count} PASSIVE"
    assert said.startswith(f"torch: {count} thread")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("argument", "environment", "count"),
    [
        ("", {"OMP_NUM_THREADS": "3"}, 3),
        ("", {"OMP_NUM_THREADS": "3,1"}, 3),
        ("", {"OMP_NUM_THREADS": "3", "TEXTENV_THREADS": "2"}, 2),
        ("5", {"OMP_NUM_THREADS": "3", "TEXTENV_THREADS": "2"}, 5),
    ],
)
def test_a_wish_counts_and_is_not_commented(argument: str, environment: dict[str, str], count: int) -> None:
    code = f"import os; from textenv.threads import set_threads; set_threads({argument}); print(os.environ['OMP_NUM_THREADS'])"
    assert run(code, **environment) == (str(count), "")


def test_a_policy_of_waiting_that_is_set_stays() -> None:
    code = "import os; from textenv.threads import set_threads; set_threads(); print(os.environ['OMP_WAIT_POLICY'])"
    out, said = run(code, OMP_WAIT_POLICY="ACTIVE")
    assert out == "ACTIVE"
    assert "waiting ACTIVE" in said


@pytest.mark.parametrize(
    ("environment", "spins"), [({}, str(SPINS)), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_threads_spin_for_a_moment_unless_told_otherwise(environment: dict[str, str], spins: str) -> None:
    code = "import os; from textenv.threads import set_threads; set_threads(2); print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(code, **environment)[0] == spins


def test_it_counts_after_torch_was_imported_too() -> None:
    assert run(f"import torch; from textenv.threads import set_threads; set_threads(3); {TELL}")[0].startswith("3 ")


@pytest.mark.parametrize("count", ["0", "-2", "many", "1.5"])
def test_what_is_no_number_of_threads_is_named(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from textenv.threads import set_threads

    monkeypatch.setenv("TEXTENV_THREADS", count)
    with pytest.raises(ValueError, match=f"TEXTENV_THREADS='{count}' is no number of threads; give 1 or more"):
        set_threads()


def test_the_command_line_settles_them_before_its_command_imports_torch() -> None:
    code = (
        "import sys; from textenv.cli import app, main\n"
        f"app.command('tell')(lambda: exec({TELL!r}))\n"
        "assert 'torch' not in sys.modules; sys.argv = ['textenv', '--threads', '1', 'tell']; main()"
    )
    assert run(code) == ("1 PASSIVE", "")


def test_the_command_line_names_a_bad_number_in_one_line() -> None:
    code = "import sys; sys.argv = ['textenv', 'list']; from textenv.cli import app; print(app(standalone_mode=False))"
    code_of_exit, said = run(code, TEXTENV_THREADS="many")
    assert code_of_exit == "2"
    assert said == "error: TEXTENV_THREADS='many' is no number of threads; give 1 or more"
