"""What clients of the control socket may do: requests, the limits of a client, and the commands' own arithmetic."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pyserve.control.commands import ALL, change, outcome
from pyserve.control.control import ASKING_LIMIT, OUTBOX_LIMIT, TAKING_LIMIT, Client, RequestError, parse
from pyserve.control.conversation import VERSION
from pyserve.rules.rollout import DRAINING, PREPARING, ROLLING, SERVING, SOAKING, STABLE, STOPPING, Plan, State, Worker

NOW = 1000.0


def request(**fields: Any) -> bytes:
    return json.dumps({"version": VERSION, **fields}).encode()


@pytest.mark.parametrize(
    "fields, command, arguments",
    [
        ({"command": "status"}, "status", {}),
        ({"command": "reload"}, "reload", {"wait": False}),
        ({"command": "reload", "wait": True}, "reload", {"wait": True}),
        ({"command": "dump"}, "dump", {"worker": ALL}),
        ({"command": "scale", "workers": "+1"}, "scale", {"workers": "+1"}),
    ],
)
def test_a_request_has_all_its_arguments(fields: dict[str, Any], command: str, arguments: dict[str, Any]) -> None:
    assert parse(request(**fields)) == (command, arguments)


def test_the_defaults_of_a_command_are_not_changed_by_a_request() -> None:
    parse(request(command="reload", wait=True))
    assert parse(request(command="reload")) == ("reload", {"wait": False})


@pytest.mark.parametrize("text", [b"", b"nonsense", b"\xff", b"1", b"null", b"{}", b'{"version": true}', b"[" * 10_000])
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(RequestError):
        parse(text)


# A client.


@pytest.fixture
def pair() -> Iterator[tuple[Client, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield Client(ours, NOW), theirs
    ours.close()
    theirs.close()


def test_a_client_that_does_not_ask_is_late(pair: tuple[Client, socket.socket]) -> None:
    client, theirs = pair
    theirs.send(b'{"version"')
    client.read(NOW + 1)
    assert not client.late(NOW + ASKING_LIMIT)
    assert client.late(NOW + ASKING_LIMIT + 0.1)


def test_a_client_that_takes_nothing_is_late_one_that_takes_something_is_not(
    pair: tuple[Client, socket.socket],
) -> None:
    client, theirs = pair
    client.say("log", {"text": "x" * (OUTBOX_LIMIT - 100)}, NOW)
    client.write(NOW)
    assert client.outbox, "the kernel has not taken it all"
    assert not client.gone
    assert client.late(NOW + TAKING_LIMIT + 0.1)
    theirs.recv(1 << 20)
    client.write(NOW + 10)
    assert not client.late(NOW + TAKING_LIMIT + 0.1)


def test_what_waits_for_a_client_has_a_limit(pair: tuple[Client, socket.socket]) -> None:
    client, _ = pair
    for _ in range(10_000):
        client.say("log", {"text": "x" * 1000}, NOW)
        if client.gone:
            break
    assert client.gone
    assert len(client.outbox) < OUTBOX_LIMIT + 2000


def test_a_client_whose_answer_was_sent_is_done(pair: tuple[Client, socket.socket]) -> None:
    client, theirs = pair
    client.refuse("no", NOW)
    client.write(NOW)
    assert client.gone
    assert json.loads(theirs.recv(1000)) == {"version": 1, "event": "end", "ok": False, "text": "no"}


def test_a_client_that_hangs_up_is_gone(pair: tuple[Client, socket.socket]) -> None:
    client, theirs = pair
    theirs.close()
    client.read(NOW)
    assert client.gone


def test_closing_a_client_closes_its_conversation(pair: tuple[Client, socket.socket]) -> None:
    undone = []

    def conversation() -> Iterator[float]:
        try:
            while True:
                yield 1.0
        finally:
            undone.append(True)

    client, _ = pair
    client.conversation = conversation()  # type: ignore[assignment]  # it never returns
    assert client.conversation is not None
    next(client.conversation)
    client.close()
    assert undone


# Commands.


@pytest.mark.parametrize(
    "workers, target, by",
    [("4", 2, 2), ("1", 4, -3), ("2", 2, 0), ("+1", 4, 1), ("-2", 4, -2), ("+0", 4, 0), ("0", 4, -4)],
)
def test_a_number_of_workers(workers: str, target: int, by: int) -> None:
    assert change(workers, target) == by


@pytest.mark.parametrize("workers", ["", "+", "-", "many", "1.5", "++1", "1e3", "٣", "99999", " 1"])
def test_what_is_no_number_of_workers(workers: str) -> None:
    with pytest.raises(ValueError):
        change(workers, 2)


@pytest.mark.parametrize(
    "state, generation, expected",
    [
        (State(phase=PREPARING, good=1, next=2, last=2), 2, None),
        (State(phase=ROLLING, good=1, next=2, last=2), 2, None),
        (State(phase=SOAKING, good=1, next=2, last=2), 2, None),
        (State(phase=STABLE, good=2, last=2), 2, True),
        (State(phase=STABLE, good=1, last=2, workers=(Worker(4, 0, 2, SERVING),)), 1, None),
        (State(phase=STABLE, good=1, last=2, workers=(Worker(4, 0, 2, DRAINING),)), 1, True),
        (State(phase=STABLE, good=1, last=2), 2, False),
        (State(phase=ROLLING, good=1, next=2, last=2, queued=Plan()), 3, None),
        (State(phase=PREPARING, good=2, next=3, last=3), 2, True),
        (State(phase=PREPARING, good=1, next=3, last=3), 2, False),
        (State(phase=STOPPING, good=2, last=2), 2, False),
    ],
)
def test_the_outcome_of_a_reload(state: State, generation: int, expected: bool | None) -> None:
    assert outcome(state, generation) is expected
