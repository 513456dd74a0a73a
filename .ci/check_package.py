"""
What `make check-package` does: build, look inside, install in fresh environments, run from another folder.

gloom's one unusual file is the plugin in twisted/plugins, a folder that belongs
to another package: a wheel, an sdist and an editable install each have their
own way to lose it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

CHECKOUT = Path(__file__).resolve().parent.parent
PLUGIN = "twisted/plugins/gloom_plugin.py"
# One pip for all environments: making one in each takes longer than the installing.
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]


class Problem(Exception):
    """The package is not as it should be; the text says how."""


def run(command: Sequence[str | Path], directory: Path) -> str:
    """
    Return what *command* prints.

    Raises:
        Problem: It failed; the text has what it printed.
    """
    # PYTHONPATH would let a package work that holds too little.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise Problem(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def require(holds: bool, problem: str) -> None:
    """Raise `Problem` unless it *holds*."""
    if not holds:
        raise Problem(problem)


def copy_checkout(target: Path) -> None:
    """Copy what git has or would take, add the one file that twistd leaves there, and nothing that hides it."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], CHECKOUT)
    for name in listed.split("\0"):
        if name != ".gitignore" and (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)
    (target / "twisted" / "plugins" / "dropin.cache").write_bytes(b"stale")


def build(source: Path, target: Path) -> None:
    """Leave an sdist and a wheel in *target*; the wheel is built from the sdist, as an installer would."""
    run([sys.executable, "-m", "build", "--outdir", target, source], target)


def check_names(names: set[str], archive: str) -> None:
    """See that the plugin is there, and nothing that would break Twisted or be stale."""
    require(PLUGIN in names, f"{archive} lacks {PLUGIN}")
    require("gloom/py.typed" in names, f"{archive} lacks gloom/py.typed: its types would not be seen")
    for name in names:
        require("dropin.cache" not in name, f"{archive} has {name}, which twistd writes where it is installed")
        require(not re.fullmatch(r"twisted/(.*/)?__init__\.py", name), f"{archive} has {name}, which hides Twisted")


def check_archives(wheel: Path, sdist: Path) -> None:
    """See that both hold what they should, and the wheel nothing else."""
    with ZipFile(wheel) as opened:
        names = set(opened.namelist())
    check_names(names, "the wheel")
    strays = {name.partition("/")[0] for name in names} - {"gloom", "twisted"}
    require(all(name.endswith(".dist-info") for name in strays), f"the wheel has {strays} besides its two folders")
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    check_names(names, "the sdist")
    for name in ("tests/conftest.py", "docs/protocol.md", "deploy/gloom.service", "Makefile", "README.md", "LICENSE"):
        require(name in names, f"the sdist lacks {name}")


def check_install(directory: Path, arguments: Sequence[str | Path]) -> None:
    """Install into a new environment in *directory*, and run both commands from a folder that has nothing."""
    venv.create(directory / "venv")
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    programs = directory / "venv" / "bin"
    run([*PIP, "--python", programs / "python", "install", *arguments], elsewhere)
    for runner in ([programs / "twistd"], [programs / "python", "-m", "twisted"]):
        text = run([*runner, "gloom", "--help"], elsewhere)
        require("--master-port" in text, f"twistd gloom --help prints no options:\n{text}")
    version = run([programs / "python", "-c", "import gloom; print(gloom.__version__)"], elsewhere).strip()
    for program in ("twistd", "gloom"):
        words = ["gloom", "--version"] if program == "twistd" else ["--version"]
        text = run([programs / program, *words], elsewhere)
        require(version in text, f"{program} {' '.join(words)} prints no {version}:\n{text}")


def timed(name: str, step: Callable[[], object]) -> None:
    """Do *step*, and print how long it took."""
    begun = time.monotonic()
    step()
    print(f"  {name}: {time.monotonic() - begun:.1f} s", flush=True)


def check(work: Path) -> None:
    """Do all of it in the empty folder *work*."""
    source, built = work / "source", work / "built"
    for folder in (source, built):
        folder.mkdir()
    copy_checkout(source)
    timed("build", lambda: build(source, built))
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    timed("look inside", lambda: check_archives(wheel, sdist))
    installs: dict[str, list[str | Path]] = {"wheel": [wheel], "sdist": [sdist], "editable": ["--editable", source]}

    def install(kind: str) -> None:
        (work / kind).mkdir()
        timed(f"install and run, {kind}", lambda: check_install(work / kind, installs[kind]))

    with ThreadPoolExecutor() as pool:
        list(pool.map(install, installs))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="gloom-package-") as work:
        try:
            check(Path(work))
        except Problem as problem:
            sys.exit(f"the package is not right: {problem}")
