"""The upgrade in a master whose exec fails: all is as it was before."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyserve import launch, takeover
from pyserve.config.config import load
from pyserve.ipc.handoff import HandoffQueue
from pyserve.ipc.logs import LogFiles
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.master import upgrade
from pyserve.master.belongings import Belongings
from pyserve.master.carried import descriptors
from pyserve.master.controlsocket import ControlSocket
from pyserve.master.master import SIGNALS, Master
from pyserve.rules.rollout import STABLE, Generation
from support.processes import open_files


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """One that has never run; generation 1 serves, with no worker."""
    config = load({"app": "shop:app", "error_logfile": str(tmp_path / "log")}, {}, str(tmp_path))
    belongings = Belongings(LogFiles.open(config), [], Scoreboard.create(), HandoffQueue.create())
    master = Master(config, lambda: config, belongings)
    state = master.situation.state
    generations = (Generation(1, state.plan),)
    master.situation.state = state._replace(phase=STABLE, good=1, last=1, generations=generations)
    master.rolling.configs = {1: config}
    yield master
    for fd in (*master.belongings.logs.fds, master.wake, master.wake_writer):
        os.close(fd)
    master.belongings.queue.close()
    master.watch.close()


def said(master: Master) -> str:
    return Path(master.belongings.logs.paths[0][0]).read_text()


def proven(master: Master) -> upgrade.Upgrade:
    found = upgrade.Upgrade(master)
    found.phase = upgrade.PROVEN
    return found


def test_an_exec_that_fails_leaves_all_as_it_was(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    found = proven(master)
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    shared: list[int] = []

    def execve(path: str, command: list[str], environ: dict[str, str]) -> None:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= set(SIGNALS)
        shared.extend([int(environ[upgrade.VARIABLE]), *descriptors(master.carried())])
        assert all(map(os.get_inheritable, shared))
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "execve", execve)
    found.turn(time.monotonic())
    assert found.phase == upgrade.IDLE
    assert "upgrade failed, nothing was changed" in said(master)
    assert "cannot be executed: No such file or directory" in said(master)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == usual
    assert not any(map(os.get_inheritable, shared[1:]))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(shared[0])
    assert upgrade.VARIABLE not in os.environ


@pytest.mark.parametrize("what", ["signal", "reload", "news"])
def test_it_waits_while_anything_else_is_to_be_done(master: Master, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = proven(master)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("now?"))
    if what == "signal":
        master.signals.append(signal.SIGHUP)
    elif what == "news":
        master.population.news.append(None)  # type: ignore[arg-type]  # any event
    else:
        master.situation.state = master.situation.state._replace(phase="rolling")
    found.turn(time.monotonic())
    assert found.phase == upgrade.PROVEN


@pytest.mark.parametrize("phase", [upgrade.WAITING, upgrade.PROVEN])
def test_a_noun_that_cannot_be_carried_ends_no_server(
    master: Master, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master.population, "carried", lambda: {"what": object()})
    before = open_files()
    found = upgrade.Upgrade(master)
    found.phase = phase
    found.turn(time.monotonic())
    assert found.phase == upgrade.IDLE
    assert "upgrade failed, nothing was changed" in said(master)
    assert "BUG: TypeError" in said(master)
    assert open_files() <= before


@pytest.mark.parametrize("state", ["x", "99", "0"])
def test_a_variable_that_somebody_else_has_set(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert takeover.take_over(state) == 1
    assert "PYSERVE_UPGRADE is for pyserve alone, take it out of the environment" in capsys.readouterr().err


def test_a_child_that_cannot_be_started(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    before = open_files()
    found = upgrade.Upgrade(master)
    found.ask()
    found.turn(time.monotonic())
    assert found.phase == upgrade.IDLE
    assert "the child that proves it cannot be started: Resource temporarily unavailable" in said(master)
    assert open_files() <= before


@pytest.mark.parametrize(
    ("words", "script", "command"),
    [
        (
            ["python", "-X", "dev", "-m", "pyserve", "a:b"],
            "/lib/pyserve/__main__.py",
            ["-X", "dev", "-m", "pyserve", "a:b"],
        ),
        (["/v/bin/python", "venv/bin/pyserve", "a:b"], "venv/bin/pyserve", ["/srv/venv/bin/pyserve", "a:b"]),
        (["/v/bin/python", "/v/bin/pyserve", "a:b"], "/v/bin/pyserve", ["/v/bin/pyserve", "a:b"]),
    ],
)
def test_the_command_is_the_one_of_the_start(
    words: list[str], script: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "argv", [script, "a:b"])
    assert upgrade.own_command("/srv") == [sys.executable, "-P", *command]


def test_a_phase_that_is_not_in_the_table_is_a_bug(master: Master) -> None:
    with pytest.raises(AssertionError, match="BUG: upgrade: proven → proving"):
        proven(master).become(upgrade.PROVING)


def test_an_old_version_would_refuse_the_proof(capsys: pytest.CaptureFixture[str]) -> None:
    """The option is none of the command line's: whoever does not look for it first ends, rather than serve."""
    from pyserve import cli

    assert cli.main(["a:b", upgrade.PROVE, "3"]) == 2
    assert upgrade.PROVE in capsys.readouterr().err


def test_the_literals_of_the_launcher() -> None:
    """It does not import the module that has the names."""
    text = (Path(upgrade.__file__).parents[1] / "__main__.py").read_text()
    assert f'"{upgrade.PROVE}"' in text
    assert f'"{upgrade.VARIABLE}"' in text


def test_who_has_asked_for_something_has_an_answer_before_the_exec(master: Master, tmp_path: Path) -> None:
    """The upgrade has the last turn. (A status that came with it was told to ask again.)"""
    master.belongings.control_socket = ControlSocket.listen(str(tmp_path / "ctl"))
    launch.complete(master)
    assert [type(part).__name__ for part in master.parts[-2:]] == ["Control", "Upgrade"]
    master.belongings.control_socket.close()
