"""Deploys that exchange a link to the current release, each release with a virtual environment of its own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support import Server, serve
from support.releases import Releases


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    releases = Releases(tmp_path)
    releases.make(1)
    releases.make(2)
    releases.deploy(1)
    return releases


def reload(server: Server, generation: int) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for_log(f"reload done: generation {generation} ")
    server.wait_for_log(f"generation {generation} is committed")


# How pyserve is called, and what the working directory is called there: CURRENT is the link.
WAYS = {
    "as by a unit": (["CURRENT/venv/bin/pyserve", "myapp:wsgi"], ""),
    "as by a shell": (["venv/bin/pyserve", "myapp:wsgi"], "CURRENT"),
    "as a module": (["CURRENT/venv/bin/python", "-m", "pyserve", "myapp:wsgi", "--chdir", "CURRENT"], ""),
}


@pytest.mark.parametrize("command, pwd", WAYS.values(), ids=WAYS.keys())
def test_a_reload_follows_the_link(releases: Releases, command: list[str], pwd: str) -> None:
    """Code, packages and interpreter; also back, also when the first release is gone, also by the next pyserve."""
    program = [word.replace("CURRENT", str(releases.current)) for word in command]
    env = {"PWD": pwd.replace("CURRENT", str(releases.current)), "PYTHONPATH": "", "PYSERVE_PYTHONPATH": "lib"}
    with serve(*program[1:], program=program[:1], cwd=releases.current, env=env) as server:
        releases.deploy(2)
        assert server.get("/").text == releases.answer(1)  # what is imported late is of this release, too
        reload(server, 2)
        assert server.get("/").text == releases.answer(2)
        second = releases.path(2)
        server.wait_for_log(f"generation 2: working directory {second}, interpreter {second}/venv/bin/python")
        releases.deploy(1)
        reload(server, 3)
        assert server.get("/").text == releases.answer(1)
        releases.deploy(2)
        reload(server, 4)
        releases.remove(1)
        releases.make(3)
        releases.path(3).joinpath("pyserve.toml").write_text("worker = 1")
        releases.deploy(3)
        server.signal(signal.SIGHUP)
        server.wait_for_log(r'reload refused, nothing was changed: .*no setting is called "worker"')
        releases.path(3).joinpath("pyserve.toml").write_text("workers = 1")
        reload(server, 5)
        assert server.get("/").text == releases.answer(3)
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgraded: pyserve")
        assert Path(f"/proc/{server.pid}/cwd").resolve() == releases.path(3)
        releases.remove(2)
        releases.make(4)
        releases.deploy(4)
        reload(server, 6)
        assert server.get("/").text == releases.answer(4)
        assert "leads to" not in server.log
        assert "BUG" not in server.log


def test_what_a_link_has_left_behind_is_warned_of(releases: Releases) -> None:
    """The script is found by the link, the working directory was given by another name."""
    first = releases.path(1)
    program = [str(releases.current / "venv" / "bin" / "pyserve")]
    with serve("myapp:wsgi", program=program, cwd=first, env={"PWD": str(first), "PYTHONPATH": ""}) as server:
        releases.deploy(2)
        reload(server, 2)
        server.wait_for_log(
            f"warn .* generation 2: {releases.current} leads to {releases.path(2)} now, but the working directory is "
            f"still {first}: "
        )
        assert "but the interpreter" not in server.log
