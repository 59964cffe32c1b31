"""The sdist and the wheel: what is in them, and that they serve where nothing of this checkout is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from support import Server
from support.processes import GENEROUS
from support.server import wait_until_ready

ROOT = Path(__file__).parents[2]
APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from a package"]
"""
pytestmark = pytest.mark.timeout(600)  # compilers and package indexes have their own pace


def run(*command: str | Path, cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_venv(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout, and the wheel that pip builds from it where nothing else is: it is built
    once, and is what a pip install of the sdist installs."""
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"  # a copy: another Python may be building in this one meanwhile
    ours = shutil.ignore_patterns(".git", ".venv*", "results", "__pycache__", "*.so", "*.egg-info", "asan", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=ours)
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, checkout, cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    pip = make_venv(folder / "venv") / "bin" / "pip"
    run(pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, sdist, cwd=folder)
    return folder


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return make_venv(tmp_path / "venv")


def names(package: Path) -> set[str]:
    if package.suffix == ".whl":
        return set(zipfile.ZipFile(package).namelist())
    with tarfile.open(package) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


FOR_TESTS = "pyserve_workers/http1/parser."  # the parser as Python functions


def in_package(source: Path) -> str:
    return source.relative_to(ROOT).as_posix().partition("/")[2]


def test_the_wheel_holds_what_runs_and_nothing_else(packages: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    held = names(wheel)
    # Every module of the checkout is there, as Python or as machine code.
    for source in ROOT.glob("*/pyserve*/**/*.py"):
        assert in_package(source) in held
    for source in ROOT.glob("*/pyserve*/**/*.pyx"):
        module = in_package(source).removesuffix("pyx")
        built = [name for name in held if name.startswith(module) and name.endswith(".so")]
        assert bool(built) == (module != FOR_TESTS), module
    assert {"pyserve/py.typed", "pyserve_workers/py.typed"} <= held
    stubs = {in_package(stub) for stub in ROOT.glob("*/pyserve*/**/*.pyi")} - {f"{FOR_TESTS}pyi"}
    assert {name for name in held if name.endswith(".pyi")} == stubs
    kinds = {Path(name).suffix for name in held if ".dist-info/" not in name}
    assert kinds == {".py", ".pyi", ".so", ".typed"}
    assert {name.partition("/")[0] for name in held if ".dist-info/" not in name} == {"pyserve", "pyserve_workers"}


def test_the_sdist_holds_what_builds(packages: Path) -> None:
    (sdist,) = packages.glob("*.tar.gz")
    held = names(sdist)
    sources = [path for kind in ("pyx", "pxd", "pyi", "h", "c", "py") for path in ROOT.glob(f"*/pyserve*/**/*.{kind}")]
    assert {str(path.relative_to(ROOT)) for path in sources} <= held
    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "deploy/systemd/pyserve.service"} <= held
    assert not [name for name in held if name.endswith((".so", ".pyc", ".sqlite3"))]


def test_the_wheel_says_what_it_is(packages: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    text = archive.read(metadata).decode()
    assert "\nName: pyserve\n" in text
    assert "\nRequires-Python: >=3.11\n" in text
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].partition(">")[0] for line in required) == ["click", "setproctitle"]
    points = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert "pyserve = pyserve.__main__:main" in points
    assert "sync = pyserve_workers.classes.sync:SyncWorker" in points


def test_it_installs_and_serves_in_a_clean_environment(packages: Path, venv: Path, tmp_path: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    run(venv / "bin" / "pip", "install", "--quiet", wheel, cwd=tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    (site / "hello.py").write_text(APP)
    where = run(venv / "bin" / "python", "-c", "import pyserve.system.linux as n; print(n.__file__)", cwd=site)
    assert where.startswith(str(venv))
    assert "pyserve" in run(venv / "bin" / "pyserve", "--version", cwd=site)

    command = [str(venv / "bin" / "pyserve"), "hello", "--workers", "2", "--bind", "127.0.0.1:0"]
    server = Server(command, site, dict(os.environ), tmp_path / "log")
    try:
        wait_until_ready(server)
        assert server.get("/").text == "hello from a package"
        server.signal(signal.SIGTERM)
        assert server.wait(GENEROUS) == 0
        assert server.processes() == []
    except BaseException:
        print(server.log)
        raise
    finally:
        server.kill()
