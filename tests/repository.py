"""The repository as the tests of its form see it: which files it holds, and where each is found once installed."""

import subprocess
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
# In the repository → once installed.
FOLDERS = {"textenv": "textenv", "wrappers": "textenv/wrappers", "agents": "textenv/agents"}


def files(*folders: str) -> list[str]:
    """Paths of all files that git tracks, or would track, below `folders` (all folders when none is given)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({path for path in listed.split("\0") if path and (ROOT / path).is_file()})


def installed_path(path: str) -> str:
    """`wrappers/critic.py` is installed as `textenv/wrappers/critic.py`."""
    folder, rest = path.split("/", 1)
    return f"{FOLDERS[folder]}/{rest}"


def module_name(path: str) -> str:
    """`agents/ppo/token_ppo.py` is imported as `textenv.agents.ppo.token_ppo`; a package by its folder."""
    parts = PurePosixPath(installed_path(path)).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def library_modules() -> dict[str, str]:
    """Module name → path of every module of the library."""
    return {module_name(path): path for path in files(*FOLDERS) if path.endswith(".py")}
