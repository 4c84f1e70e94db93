"""The distribution holds every module and data file, and what it installs can be imported without the checkout."""

import hashlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.repository import FOLDERS, ROOT, files, installed_path, library_modules

pytestmark = pytest.mark.xdist_group("packaging")  # one worker, one build


def build(source: Path, out: Path, *options: str) -> Path:
    """Build offline with the setuptools that is installed; the newest wheel in `out` is returned."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, str]:
    """File name → digest of everything in a wheel except its own list of digests."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks: the build leaves its traces there, and nothing untracked can help it."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run_installed(installed: Path, code: str) -> str:
    """Run code that finds textenv in `installed` first, from a folder that is not the checkout."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=installed.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    held = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert held == {installed_path(path) for path in files(*FOLDERS)}, "see packages and package-data in pyproject.toml"


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
        assert "textenv = textenv.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_sdist_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    assert contents(build(checkout, tmp_path)) == contents(wheel)  # without --wheel: the sdist, and a wheel out of it


@pytest.mark.slow
def test_every_module_and_public_name_imports_from_the_installed_wheel_alone(installed: Path) -> None:
    code = f"""
import importlib
for name in {sorted(library_modules())!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(installed)!r}), module.__file__
    for public in getattr(module, "__all__", []):
        getattr(module, public)
print("imported")
"""
    assert run_installed(installed, code).split() == ["imported"]


@pytest.mark.slow
def test_the_command_of_the_installed_wheel_prints_its_help(installed: Path) -> None:
    code = "import sys; sys.argv = ['textenv', '--help']\nfrom textenv.cli import main\nmain()"
    assert "Usage" in run_installed(installed, code)


def test_no_dependency_is_forgotten_by_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {requirement.split(">")[0].split("[")[0].strip().lower().replace("_", "-") for requirement in wanted}
    assert names - {"textenv"} <= pinned
