"""The names by which pyserve was called, and where the links on them lead."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pyserve.system import called


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A link to the first of two releases, each with a virtual environment. The process is in the first."""
    for number in "12":
        binaries = tmp_path / "releases" / number / "venv" / "bin"
        binaries.mkdir(parents=True)
        for name in ("pyserve", "python", "python3"):
            (binaries / name).touch()
    link = tmp_path / "current"
    link.symlink_to("releases/1")
    monkeypatch.setattr(called, "_interpreter", None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "releases/1/venv/bin/python"))
    monkeypatch.delenv("PWD")
    monkeypatch.chdir(link)
    return link


def deploy(current: Path, number: str) -> None:
    current.unlink()
    current.symlink_to(f"releases/{number}")


def test_the_shells_name_of_the_directory_is_kept(
    tmp_path: Path, current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/pyserve"])
    release = str(tmp_path / "releases" / "1")
    assert called.directory({"PWD": str(current)}) == str(current)
    assert called.directory({"PWD": str(tmp_path)}) == release
    assert called.directory({"PWD": str(tmp_path / "gone")}) == release
    assert called.directory({"PWD": "."}) == release
    assert called.directory({}) == release


def test_without_the_shell_the_directory_has_the_name_that_the_script_was_called_by(
    current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(current / "venv/bin/pyserve")])
    assert called.directory({}) == str(current)
    assert called.directory({"PWD": str(current.resolve())}) == str(current.resolve())  # who says so wants it


def test_a_directory_that_was_removed_is_what_has_its_name_now(tmp_path: Path, current: Path) -> None:
    deploy(current, "2")
    shutil.rmtree(tmp_path / "releases" / "1")
    assert called.directory({"PWD": str(current)}) == str(current)
    assert called.directory({}) == "/"


@pytest.mark.parametrize(
    "argv, orig_argv, pwd",
    [
        ("CURRENT/venv/bin/pyserve", "RELEASE/venv/bin/python", False),
        ("venv/bin/pyserve", "RELEASE/venv/bin/python", True),
        ("RELEASE/site-packages/pyserve/__main__.py", "CURRENT/venv/bin/python", False),
        ("RELEASE/site-packages/pyserve/__main__.py", "venv/bin/python", True),
    ],
    ids=["script", "relative script", "module", "module, relative"],
)
def test_the_interpreter_has_the_name_it_was_called_by(
    current: Path, monkeypatch: pytest.MonkeyPatch, argv: str, orig_argv: str, pwd: bool
) -> None:
    def filled(text: str) -> str:
        return text.replace("CURRENT", str(current)).replace("RELEASE", str(current.resolve()))

    monkeypatch.setattr(sys, "argv", [filled(argv)])
    monkeypatch.setattr(sys, "orig_argv", [filled(orig_argv)])
    if pwd:
        monkeypatch.setenv("PWD", str(current))
    assert called.interpreter() == str(current / "venv/bin/python")
    assert called.real(called.interpreter()) == sys.executable
    deploy(current, "2")
    (current / "venv/bin/python").unlink()
    assert called.real(called.interpreter()) == str(current.resolve() / "venv/bin/python3")


def test_an_interpreter_that_the_script_is_not_beside_is_what_it_is(
    current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(current / "pyserve")])
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    assert called.interpreter() == sys.executable


def test_a_link_that_leads_elsewhere_has_left_behind_what_was_found_by_it(tmp_path: Path, current: Path) -> None:
    release = str(tmp_path.resolve() / "releases" / "1")
    links = called.links([str(current / "venv"), "/nowhere/at/all"])
    assert links[str(current)] == release
    assert called.left_behind(links, release) == ""
    deploy(current, "2")
    assert called.left_behind(links, release) == str(current)
    assert called.left_behind(links, f"{release}/venv/bin/python") == str(current)
    assert called.left_behind(links, f"{release}1") == ""
    assert called.left_behind(links, str(current.resolve())) == ""


def test_a_directory_that_was_removed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    called.follow(str(folder))
    assert Path.cwd() == Path("/")
    called.follow(str(tmp_path))
    assert Path.cwd() == tmp_path
    called.follow(str(folder))
    assert Path.cwd() == tmp_path
