"""The hand-off queue, as the master has it: who takes, and what becomes of what nobody takes."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pyserve_workers
from pyserve.ipc import handoff
from pyserve.ipc.handoff import IDLE, LABEL, PARCEL_FORMAT, HandoffQueue
from pyserve.master import listeners
from pyserve.rules import rollout
from pyserve.rules.rollout import takers
from support.processes import open_files, wait_for

Worker = rollout.Worker


@pytest.fixture
def queue() -> Iterator[HandoffQueue]:
    made = HandoffQueue.create()
    yield made
    made.close()


def put(queue: HandoffQueue, client: socket.socket, data: bytes = b"", *body: int) -> None:
    """What a worker does that leaves; ``body``: the descriptor of a complete request's."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [client.fileno(), *body]))]
    label = LABEL.pack(PARCEL_FORMAT, 0, 0, 0, 0, 0, True, bool(body), 0, b"")
    queue.outlet.sendmsg([label + data], rights)


def test_everybody_takes_until_a_new_generation_serves() -> None:
    old = (Worker(1, 0, 1, rollout.SERVING), Worker(2, 1, 1, rollout.SERVING))
    state = rollout.State(phase=rollout.STABLE, good=1, workers=old)
    assert takers(state) == {1, 2}
    rolling = state._replace(phase=rollout.ROLLING, next=2, workers=(*old, Worker(3, 0, 2)))
    assert takers(rolling) == {1, 2}, "the new one boots"
    rolling = rolling._replace(workers=(*old, Worker(3, 0, 2, rollout.SERVING)))
    assert takers(rolling) == {3}
    assert takers(rolling._replace(gated=True)) == {1, 2, 3}, "it does not go on"
    back = rolling._replace(phase=rollout.STABLE, next=0)
    assert takers(back) == {1, 2}


def test_who_leaves_takes_nothing() -> None:
    workers = (Worker(1, 0, 1, rollout.SERVING), Worker(2, 1, 1, rollout.DRAINING))
    assert takers(rollout.State(phase=rollout.STABLE, good=1, workers=workers)) == {1}


def test_there_is_room_for_more_than_a_usual_buffer_has(queue: HandoffQueue) -> None:
    """That holds 278, and nobody reads while workers leave and others only just begin."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(400):
            put(queue, ours, b"x" * 10)
        for _ in range(400):
            found = queue.take()
            assert found is not None
            os.close(found[0][0])
        assert queue.take() is None


def test_who_has_asked_for_something_is_answered_in_the_end(queue: HandoffQueue) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.settimeout(20)
    body = os.memfd_create("body")
    put(queue, pairs[0][0], b"POST / HTTP/1.1\r\n\r\n", body)  # read by the worker that left
    os.close(body)
    pairs[1][1].send(b"GET / HTTP/1.1\r\n\r\n")  # not read yet
    put(queue, pairs[1][0])
    put(queue, pairs[2][0])  # idle
    pairs[3][1].close()  # gone
    put(queue, pairs[3][0])
    for ours, _ in pairs:
        ours.close()
    before = open_files()
    assert queue.answer_rest() == 2
    wait_for(lambda: open_files() <= before)
    answers = [b"".join(iter(lambda: theirs.recv(1000), b"")) for _, theirs in pairs[:3]]  # noqa: B023
    assert answers == [handoff.ANSWER, handoff.ANSWER, b""]
    assert queue.take() is None
    for _, theirs in pairs:
        theirs.close()


def test_the_label_is_as_long_as_the_workers_make_it() -> None:
    """parcel.h has the struct; its fields leave no gap."""
    header = (Path(pyserve_workers.__path__[0]) / "native" / "parcel.h").read_text()
    struct = header[header.index("typedef struct {") : header.index("} parcel_label;")]
    fields = re.findall(r"uint(\d+)_t (\w+);", struct)
    letters = {"8": "B", "16": "H", "32": "I", "64": "Q"}
    size = re.findall(r"char host\[(\d+)\]", struct)[0]
    assert LABEL.format == "=" + "".join(letters[bits] for bits, _ in fields) + f"{size}s"
    names = [name for _, name in fields]
    assert sum(int(bits) // 8 for bits, _ in fields[: names.index("idle")]) == IDLE
    assert f"PARCEL_FORMAT {PARCEL_FORMAT:#x}u" in header


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "unix"])
def test_who_has_just_connected_is_told_without_having_asked(queue: HandoffQueue, tmp_path: Path, host: str) -> None:
    with listening(host, tmp_path) as listener, connected(listener) as client:
        found = listener.accept()
        assert found is not None
        queue.put(0, *found)
        assert listener.accept() is None
        assert queue.answer_rest() == 1
        assert b"".join(iter(lambda: client.recv(1000), b"")) == handoff.ANSWER


def test_what_does_not_fit_waits_outside(queue: HandoffQueue, tmp_path: Path) -> None:
    queue.outlet.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with listening("127.0.0.1", tmp_path) as listener, contextlib.ExitStack() as clients:
        count = 0
        while queue.has_room():
            clients.enter_context(connected(listener))
            found = listener.accept()
            assert found is not None
            queue.put(0, *found)
            count += 1
        assert queue.answer_rest() == count - 1
        assert queue.has_room()
        assert queue.answer_rest() == 1
        assert queue.answer_rest() == 0


@contextmanager
def listening(host: str, folder: Path) -> Iterator[listeners.Listener]:
    bind = f"unix:{folder}/socket" if host == "unix" else f"[{host}]:0" if ":" in host else f"{host}:0"
    (listener,) = listeners.open_all([bind], 16, 0o600, (-1, -1))
    yield listener
    listener.close(unlink=True)


@contextmanager
def connected(listener: listeners.Listener) -> Iterator[socket.socket]:
    with socket.socket(listener.socket.family) as client:
        client.settimeout(20)
        client.connect(listener.socket.getsockname())
        yield client
