"""What outlives an exec of the master: every noun is the same again, made from JSON values and descriptors."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyserve.config.config import Config, load
from pyserve.config.settings import BY_NAME
from pyserve.ipc.channel import Channel
from pyserve.ipc.handoff import HandoffQueue
from pyserve.ipc.log import Log
from pyserve.ipc.logs import LogFiles
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.ipc.stackfile import StackFile
from pyserve.master import carried
from pyserve.master.children import Pressure, WorkerProcess, Zygote
from pyserve.master.controlsocket import ControlSocket
from pyserve.master.listeners import Listener
from pyserve.master.recycling import Limits, Recycling
from pyserve.rules import rollout
from pyserve.rules.rollout import Worker


def through(record: dict[str, Any]) -> dict[str, Any]:
    """A record as the next program finds it."""
    fd = carried.pack(record)
    try:
        return carried.unpack(fd)
    finally:
        os.close(fd)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load({"app": "shop:app", "bind": ["unix:s"], "timeout": "7"}, {"PYSERVE_WORKERS": "3"}, str(tmp_path))


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = Channel.pair()
    yield ours
    ours.close()
    theirs.close()


# The file.


def test_descriptors_are_found_wherever_they_are() -> None:
    record = {"a": {"fd": 3, "x": 9}, "b": [{"fds": [4, 5]}, {"c": {"fd": 6}}], "d": "fd", "e": None}
    assert list(carried.descriptors(record)) == [3, 4, 5, 6]


def test_the_next_program_keeps_descriptors_to_itself() -> None:
    reader, writer = os.pipe()
    carried.share([reader, writer], True)
    through({"a": {"fds": [reader, writer]}})
    assert not os.get_inheritable(reader)
    assert not os.get_inheritable(writer)
    os.close(reader)
    os.close(writer)


def test_nothing_passes_to_other_programs_by_itself() -> None:
    fd = carried.pack({})
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"3"])
def test_what_is_no_state(content: bytes) -> None:
    fd = os.memfd_create("test")
    os.write(fd, content)
    with pytest.raises(carried.FormatError, match=f"descriptor {fd} holds no state of a master"):
        carried.unpack(fd)
    os.close(fd)
    with pytest.raises(carried.FormatError, match="Bad file descriptor"):
        carried.unpack(fd)


def test_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = carried.pack({})
    monkeypatch.setattr(carried, "FORMAT", carried.FORMAT + 1)
    ours = carried.FORMAT
    with pytest.raises(carried.FormatError, match=f"has format {ours - 1}, this version reads format {ours}"):
        carried.unpack(fd)
    os.close(fd)


# The nouns.


def test_config(config: Config) -> None:
    again = Config.resume(through(config.carried()))
    assert again == config
    assert (again.sources, again.warnings) == (config.sources, config.warnings)


def test_a_config_of_another_version(config: Config) -> None:
    """It has a setting that is gone, and lacks one that is new: that gets its default, found as at a start."""
    record = through(config.carried())
    record["values"]["gone"] = 3
    record["origin"]["gone"] = "--gone"
    for new in ("spool_dir", "limit_connections", "keep_alive"):
        del record["values"][new]
        del record["origin"][new]
    again = Config.resume(record)
    assert (again.spool_dir, again.keep_alive) == ("/tmp", BY_NAME["keep_alive"].default)
    assert again.limit_connections == config.limit_connections
    assert again.timeout == 7.0


def test_listener() -> None:
    listener = Listener(socket.create_server(("127.0.0.1", 0)), inherited=True)
    again = Listener.resume(through(listener.carried()))
    assert again.describe() == listener.describe()
    again.socket.detach()
    listener.close(unlink=False)


def test_log_files(config: Config, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    logs = LogFiles([(path, 2)], [os.open(path, os.O_CREAT | os.O_WRONLY)], "warning")
    logs.error.lost, logs.error.why_lost = 3, "No space left on device"
    again = LogFiles.resume(through(logs.carried()))
    assert (again.paths, again.fds, vars(again.error)) == (logs.paths, logs.fds, vars(logs.error))
    os.close(logs.fds[0])


def test_control_socket(tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    listening = ControlSocket.listen(str(path))
    again = ControlSocket.resume(through(listening.carried()))
    listening.socket.detach()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        again.accept().close()
    again.close()
    assert not path.exists()


def test_a_channel_and_what_waits_in_it(channel: Channel) -> None:
    while not channel.outbox:  # until the kernel takes no more
        channel.send("DRAIN", cause="x" * 20_000, deadline=1.0, final=False, takes=False)
    reader, writer = os.pipe()
    channel.send("REOPEN", named={}, fds=[reader])
    again = Channel.resume(through(channel.carried()))
    assert again.outbox == channel.outbox
    assert not again.socket.getblocking()
    again.socket.detach()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("pressure", [Pressure.boot(1.0, 2.0, "why"), Pressure.drain(1.5, 2.5), Pressure("none", [])])
def test_pressure(pressure: Pressure) -> None:
    assert vars(Pressure.resume(through(pressure.carried()))) == vars(pressure)


def unlike_new(child: WorkerProcess | Zygote) -> None:
    """Give every plain attribute another value than it begins with."""
    for name in child.PLAIN:
        value = getattr(child, name)
        different: Callable[[Any], Any] = {bool: lambda v: not v, str: lambda v: v + "x"}.get(
            type(value), lambda v: (v or 0) + 7
        )
        if name not in ("slot_index", "generation"):
            setattr(child, name, different(value))
    child.pressure = Pressure.drain(1.0, 2.0)


def compared(child: WorkerProcess | Zygote) -> dict[str, Any]:
    """Every attribute there is: one that somebody adds must be carried, too."""
    found: dict[str, Any] = dict(vars(child))
    found["channel"] = child.channel.fileno()
    found["pressure"] = child.pressure and vars(child.pressure)
    if isinstance(child, WorkerProcess):
        child.slot.set("pid", child.slot.get("pid") + 1)
        found["slot"] = child.slot.get("pid")
        found["stacks"] = vars(child.stacks)
    return found


def test_worker(config: Config, channel: Channel) -> None:
    scoreboard = Scoreboard.create()
    worker = Worker(12, 3, 2, rollout.SERVING)
    process = WorkerProcess(worker, config, channel, 5, scoreboard.slot(5), StackFile.create(), os.eventfd(0))
    unlike_new(process)
    again = WorkerProcess.resume(through(process.carried()), config, scoreboard)
    assert again.slot.get("pid") == process.slot.get("pid") == 0
    first, second = compared(process), compared(again)
    assert second.pop("slot") == first.pop("slot") + 1, "it is the same place on the scoreboard"
    assert second == first
    again.channel.socket.detach()


def test_zygote(config: Config, channel: Channel) -> None:
    zygote = Zygote(2, config, "never", channel, 4711)
    unlike_new(zygote)
    again = Zygote.resume(through(zygote.carried()), config)
    assert compared(again) == compared(zygote)
    again.channel.socket.detach()


def test_recycling(config: Config) -> None:
    """A limit that is drawn anew would be another; memory grown since would be taken for what it took from its start."""
    recycling = Recycling({}, lambda _: None, Log(2, "info", "test"))
    recycling.limits = {7: Limits(100, 200, 300.5), 9: Limits()}
    recycling.worn = {7}
    again = Recycling({}, recycling.tell, recycling.log)
    again.resume(through(recycling.carried()))
    assert vars(again) == vars(recycling)


def test_scoreboard() -> None:
    scoreboard = Scoreboard.create()
    scoreboard.slot(3).set("requests", 12)
    assert Scoreboard(scoreboard.fd).slot(3).get("requests") == 12


def test_handoff_queue() -> None:
    """What is on its way is still there."""
    queue = HandoffQueue.create()
    queue.outlet.send(b"a connection")
    again = HandoffQueue.resume(through(queue.carried()))
    assert again.inlet.recv(100) == b"a connection"
    again.close()
    for end in (queue.outlet, queue.inlet):
        end.detach()


PLANS = [rollout.Plan(), rollout.Plan(3, "25%", "10%", True, 0.5, 7.0)]
GENERATIONS = [
    rollout.Generation(1, PLANS[0], rollout.READY),
    rollout.Generation(2, PLANS[1], rollout.FAILED, (0.5, 1.5), 2.5),
]
WORKERS = [Worker(1, 0, 1, rollout.SERVING, "max_memory"), Worker(2, 1, 2)]


@pytest.mark.parametrize(
    "state",
    [
        rollout.State(PLANS[0]),
        rollout.State(
            PLANS[1], rollout.SOAKING, 1, 2, 0, 2, tuple(GENERATIONS), tuple(WORKERS), PLANS[1], crashes=(0.5,)
        ),
        rollout.State(
            PLANS[1], rollout.STABLE, good=2, previous=1, workers=(WORKERS[1],), degraded=True, repair_at=9.5
        ),
    ],
)
def test_rollout(state: rollout.State) -> None:
    again = rollout.resume(through(rollout.carried(state)))
    assert again == state
    assert all(type(worker) is Worker for worker in again.workers)
    assert all(type(generation.plan) is rollout.Plan for generation in again.generations)
