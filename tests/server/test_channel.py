"""The channel over real socket pairs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyserve.ipc.channel import (
    DESCRIPTORS_LIMIT,
    FROM_WORKER,
    FROM_ZYGOTE,
    LAST_COUNTS,
    MESSAGE_LIMIT,
    MESSAGES,
    Channel,
    LostError,
    Number,
    ProtocolError,
    decode,
    encode,
)
from support.processes import open_files, wait_for

# A message of every kind there is.
EXAMPLES: dict[str, dict[str, Any]] = {
    "CONFIG": {
        "generation": 2,
        "master": 4711,
        "config": {"bind": ["::1"]},
        "spool_dir_given": "pyserve.toml line 3",
        "listeners": [{"url": "x"}],
        "preload": "auto",
        "named": {"scoreboard": 1, "listeners": 2},
    },
    "SPAWN": {"id": 7, "number": 0, "slot": 3},
    "LOADED": {"description": "app:wsgi", "seconds": 0.25, "folder": "/srv", "interpreter": "/bin/python"},
    "LOAD_FAILED": {"kind": "app", "message": "no module named 'app'", "details": "Traceback …\n"},
    "UNSAFE": {"reasons": "started 1 thread"},
    "SPAWN_FAILED": {"id": 7, "kind": "hook", "message": "before_fork hook failed", "details": ""},
    "HELLO": {"pid": 4712},
    "READY": {"seconds": 1, "heartbeat": False, "takes": True},
    "BOOT_FAILED": {"kind": "hook", "message": "on_init hook failed", "details": "Traceback …\n"},
    "LEAVING": {"cause": "SIGTERM"},
    "LET_GO": {"heard": True},
    "CHECKED": {"status": 500, "details": "Traceback …\n"},
    "BYE": {"cut": 0},
    "CHECK": {},
    "GO": {},
    "TAKE": {"allowed": False},
    "DRAIN": {"cause": "reload", "deadline": 1234.5, "final": False, "takes": True},
    "CLOSED": {},
    "STACKS": {},
    "REOPEN": {"named": {"error_log": 1}},
    "RESPOND": {"on": True, "retry_at": 1.5, "retry_after": 1, "page": "", "line": "PUT /sync", "line_hold": 30.0},
    "EXCLUSIVE": {
        "number": 1,
        "name": "app.sync",
        "line": "PUT /api/sync",
        "blocks": True,
        "waits": False,
        "drain_timeout": 30.0,
        "hold": 0,
        "timeout": 0,
        "kills": False,
    },
    "IDLE": {"epoch": 1},
    "PAUSE": {
        "epoch": 1,
        "owner": 0,
        "hold": 10.0,
        "line": "PUT /api/sync",
        "line_hold": 30,
        "retry_after": 5,
        "page": "",
        "allow": ["/healthz"],
    },
    "RESUME": {"epoch": 1},
}

Ends = tuple[Channel, Channel]
SO_PASSRIGHTS = 83  # Linux 6.16


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The master's end, which does not block, and a child's, which does."""
    ours, theirs = Channel.pair()
    child = Channel(theirs)
    yield ours, child
    ours.close()
    child.close()


def fill(channel: Channel) -> int:
    """Send until a message has to wait; how many the kernel took."""
    taken = 0
    while not channel.outbox:
        channel.send("GO")
        taken += 1
    channel.outbox.clear()
    return taken - 1


def is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# Messages.


def test_there_is_an_example_of_every_message() -> None:
    assert EXAMPLES.keys() == MESSAGES.keys()


@pytest.mark.parametrize("kind", MESSAGES)
def test_message_arrives_as_it_was_sent(ends: Ends, kind: str) -> None:
    ours, child = ends
    for sender, receiver in ((ours, child), (child, ours)):
        sender.send(kind, **EXAMPLES[kind])
        message = receiver.receive()
        assert message is not None
        assert (message.kind, message.fields, message.fds) == (kind, EXAMPLES[kind], [])


@pytest.mark.parametrize("kind", MESSAGES)
def test_descriptors_arrive_with_it_and_end_at_an_exec(ends: Ends, kind: str) -> None:
    ours, child = ends
    reader, writer = os.pipe()
    ours.send(kind, fds=[reader, writer], **EXAMPLES[kind])
    os.close(reader)
    os.close(writer)
    message = child.receive()
    assert message is not None
    assert message.fields == EXAMPLES[kind]
    assert len(message.fds) == 2
    for fd in message.fds:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.write(message.fds[1], b"the same pipe")
    assert os.read(message.fds[0], 100) == b"the same pipe"
    fds = message.fds
    message.close()
    assert not any(map(is_open, fds))
    message.close()  # once more does no harm


def test_as_many_descriptors_as_a_message_can_carry(ends: Ends) -> None:
    ours, child = ends
    ours.send("REOPEN", named={}, fds=[0] * DESCRIPTORS_LIMIT)
    message = child.receive()
    assert message is not None
    assert len(message.fds) == DESCRIPTORS_LIMIT
    message.close()


def test_messages_keep_their_order_and_their_borders(ends: Ends) -> None:
    ours, child = ends
    for cut in range(100):
        child.send("BYE", cut=cut)
    received = [ours.receive() for _ in range(100)]
    assert [message and message["cut"] for message in received] == list(range(100))
    with pytest.raises(BlockingIOError):
        ours.receive()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("GO", {"deadline": 1.0}),
        ("HELLO", {}),
        ("HELLO", {"pid": "4711"}),
        ("DRAIN", {"cause": "reload", "deadline": None, "final": False, "share": 0}),
    ],
)
def test_sending_what_is_not_a_message_is_a_bug(ends: Ends, kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=f"BUG: {kind}"):
        ends[0].send(kind, **fields)


# Long texts.


@pytest.mark.parametrize("letter", ["x", "ü", "→", "🐍", "\0", "\n", "\\", "\ud800"])
@pytest.mark.parametrize("kind", ["LOAD_FAILED", "BOOT_FAILED", "SPAWN_FAILED"])
def test_huge_texts_arrive_shortened_in_their_middle(ends: Ends, kind: str, letter: str) -> None:
    """Whatever they are made of: a character can take twelve bytes in a packet."""
    ours, child = ends
    huge = {"message": f"first{letter * 200_000}last", "details": f"first{letter * 500_000}last"}
    child.send(kind, **(EXAMPLES[kind] | huge))
    message = ours.receive()
    assert message is not None
    for name in ("message", "details"):
        text = message[name]
        assert text.startswith(f"first{letter}")
        assert text.endswith(f"{letter}last")
        assert "characters left out" in text
        assert len(text) > 1000


@pytest.mark.parametrize("letter", ["x", "ü", "🐍"])
def test_text_that_just_fits_arrives_whole(ends: Ends, letter: str) -> None:
    ours, child = ends
    room = MESSAGE_LIMIT - len(encode("LOAD_FAILED", EXAMPLES["LOAD_FAILED"] | {"details": ""}))
    width = len(encode("UNSAFE", {"reasons": letter})) - len(encode("UNSAFE", {"reasons": ""}))
    text = letter * (room // width)
    child.send("LOAD_FAILED", **(EXAMPLES["LOAD_FAILED"] | {"details": text}))
    message = ours.receive()
    assert message is not None
    assert message["details"] == text


@given(st.text(st.characters(), max_size=2000), st.text(st.characters(), max_size=2000))
def test_any_text_survives(message: str, details: str) -> None:
    fields = {"kind": "app", "message": message, "details": details}
    assert decode(encode("LOAD_FAILED", fields), []).fields == fields


def test_what_cannot_be_shortened_is_refused(ends: Ends) -> None:
    with pytest.raises(ValueError, match="120000 is the limit"):
        ends[0].send("CONFIG", **(EXAMPLES["CONFIG"] | {"listeners": ["x" * 1000] * 200}))


# A peer that does not read.


def test_full_channel_does_not_block_and_loses_nothing(ends: Ends) -> None:
    ours, child = ends
    taken = fill(ours)
    reader, writer = os.pipe()
    ours.send("REOPEN", named={}, fds=[writer])
    ours.send("BYE", cut=1)
    os.close(writer)
    assert len(ours.outbox) == 2
    kept = ours.outbox[0][1][0]
    assert is_open(kept), "the caller may close its own"
    assert not os.get_inheritable(kept)

    ours.flush()
    assert len(ours.outbox) == 2, "there is still no room"
    for _ in range(taken):
        assert child.receive() is not None
    ours.flush()
    assert not ours.outbox
    assert not is_open(kept)

    message = child.receive()
    assert message is not None
    os.write(message.fds[0], b"still a pipe")
    assert os.read(reader, 100) == b"still a pipe"
    message.close()
    os.close(reader)
    last = child.receive()
    assert last is not None
    assert last["cut"] == 1


def test_of_what_is_said_again_only_the_last_waits(ends: Ends) -> None:
    """A child that does not read costs a bounded amount of memory and descriptors, however often it is told."""
    ours, child = ends
    taken = fill(ours)
    before = open_files()
    ours.send("DRAIN", cause="reload", deadline=1.0, final=False, takes=False)
    for _ in range(100):
        with open("/proc/self/status") as old:
            ours.send("REOPEN", named={}, fds=[old.fileno()])
        ours.send("STACKS")
    with open("/proc/self/stat") as newest:
        ours.send("REOPEN", named={}, fds=[newest.fileno()])
    assert len(ours.outbox) == 3
    assert len(open_files() - before) == 1
    for _ in range(taken):
        child.receive()
    ours.flush()
    received = [child.receive() for _ in range(3)]
    assert [message and message.kind for message in received] == ["DRAIN", "STACKS", "REOPEN"]
    assert received[2] is not None
    assert os.readlink(f"/proc/self/fd/{received[2].fds[0]}").endswith("/stat")
    received[2].close()


def test_a_child_that_never_reads_costs_a_bounded_number_of_messages(ends: Ends) -> None:
    """However often the gate closes and opens, and whatever else is said."""
    ours, child = ends
    taken = fill(ours)
    for epoch in range(3000):
        ours.send("PAUSE", **(EXAMPLES["PAUSE"] | {"epoch": epoch, "page": "x" * 1000}))
        ours.send("TAKE", allowed=bool(epoch % 2))
        ours.send("RESUME", epoch=epoch)
    assert len(ours.outbox) == len({"gate", "TAKE"})
    ours.send("PAUSE", **(EXAMPLES["PAUSE"] | {"epoch": 3000}))
    for _ in range(taken):
        child.receive()
    ours.flush()
    received = [child.receive(), child.receive()]
    assert [message and message.kind for message in received] == ["TAKE", "PAUSE"]
    assert received[1] is not None
    assert received[1]["epoch"] == 3000, "what was said last"


def test_what_is_said_again_is_in_the_list_of_that() -> None:
    """All that the master says more than once in the life of a child, but for what there is one of for each worker."""
    once = {"CONFIG", "CHECK", "GO", "CLOSED"}
    twice = {"DRAIN"}  # again only when the server stops, or a worker that leaves by itself may do so
    for_a_worker = {"SPAWN"}
    ours = MESSAGES.keys() - {*FROM_ZYGOTE, *FROM_WORKER}
    assert ours == once | twice | for_a_worker | LAST_COUNTS.keys()


def test_what_the_kernel_refuses_is_said_by_flush(ends: Ends) -> None:
    """Not by send(), which is called from everywhere."""
    ours, child = ends
    try:
        child.socket.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        pytest.skip("this kernel has no SO_PASSRIGHTS")
    with open(os.devnull) as null:
        ours.send("REOPEN", named={}, fds=[null.fileno()])
    ours.send("GO")
    with pytest.raises(PermissionError):
        ours.flush()


def test_descriptors_that_cannot_wait(ends: Ends) -> None:
    ours, _ = ends
    fill(ours)
    before = open_files()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.send("REOPEN", named={}, fds=[0, 100_000])
    assert not ours.outbox
    assert open_files() <= before


def test_message_does_not_overtake_one_that_waits(ends: Ends) -> None:
    ours, child = ends
    taken = fill(ours)
    ours.send("HELLO", pid=1)
    for _ in range(taken):
        child.receive()
    ours.send("HELLO", pid=2)  # there would be room
    ours.flush()
    received = [child.receive(), child.receive()]
    assert [message and message["pid"] for message in received] == [1, 2]


def test_close_closes_the_descriptors_that_wait(ends: Ends) -> None:
    ours, _ = ends
    fill(ours)
    ours.send("REOPEN", named={}, fds=[0, 0])
    kept = ours.outbox[0][1]
    ours.close()
    assert not any(map(is_open, kept))
    assert not ours.outbox


def test_flush_to_a_dead_peer_ends_and_closes_the_descriptors(ends: Ends) -> None:
    ours, child = ends
    fill(ours)
    ours.send("REOPEN", named={}, fds=[0])
    kept = ours.outbox[0][1][0]
    child.close()
    ours.flush()
    assert not ours.outbox
    assert not is_open(kept)


# The end.


def test_end_of_file_is_none(ends: Ends) -> None:
    ours, child = ends
    child.send("BYE", cut=0)
    child.close()
    last = ours.receive()
    assert last is not None
    assert last.kind == "BYE"
    assert ours.receive() is None
    assert ours.receive() is None


def test_last_words_arrive_though_the_peer_ended_with_messages_unread(ends: Ends) -> None:
    """The kernel then says ECONNRESET first; a worker's BOOT_FAILED must not be lost to a DRAIN that crossed it."""
    ours, child = ends
    ours.send("DRAIN", **EXAMPLES["DRAIN"])
    child.send("BOOT_FAILED", **EXAMPLES["BOOT_FAILED"])
    child.send("BYE", cut=3)
    child.close()
    received = [ours.receive(), ours.receive()]
    assert [message and message.kind for message in received] == ["BOOT_FAILED", "BYE"]
    assert ours.receive() is None


def test_sending_to_a_dead_peer_is_no_error(ends: Ends) -> None:
    ours, child = ends
    ours.send("GO")
    child.close()
    ours.send("DRAIN", **EXAMPLES["DRAIN"])
    ours.send("REOPEN", named={}, fds=[0])
    assert not ours.outbox


# A peer that is not to be trusted.

GARBAGE = [
    b"\0",
    b"\xff\xfe",
    b"hello",
    b"null",
    b"7",
    b'"GO"',
    b"[]",
    b'["GO"]',
    b'["GO", {}, {}]',
    b'["STOP", {}]',
    b'[["GO"], {}]',
    b'[{"GO": {}}, {}]',
    b'["GO", []]',
    b'["GO", ""]',
    b'["GO", null]',
    b'["GO", {"pid": 1}]',
    b'["HELLO", ["pid"]]',
    b'["HELLO", {}]',
    b'["HELLO", {"pid": "1"}]',
    b'["HELLO", {"pid": [1]}]',
    b'["HELLO", {"pid": 1.5}]',
    b'["HELLO", {"pid": 1e999}]',
    b'["BYE", {"cut": null}]',
    b'["LOADED", {"description": "x", "seconds": "1"}]',
    b'["BOOT_FAILED", {"kind": "app", "message": 1, "details": ""}]',
    b'["HELLO", {"pid": ' + b"9" * 50_000 + b"}]",
    b"[" * MESSAGE_LIMIT,
    b'{"a":' * (MESSAGE_LIMIT // 5),
]


@pytest.mark.parametrize("packet", GARBAGE, ids=lambda packet: repr(packet[:40]))
def test_garbage_is_a_protocol_error(ends: Ends, packet: bytes) -> None:
    ours, child = ends
    child.socket.send(packet)
    child.send("BYE", cut=0)
    with pytest.raises(ProtocolError):
        ours.receive()
    following = ours.receive()
    assert following is not None
    assert following.kind == "BYE", "what comes after it is still heard"


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_protocol_error(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(packet, [])


def test_packet_that_is_too_long_is_a_protocol_error(ends: Ends) -> None:
    ours, child = ends
    child.socket.send(b'["GO", {}]' + b" " * MESSAGE_LIMIT)
    with pytest.raises(ProtocolError, match="longer than 120000 bytes"):
        ours.receive()


@pytest.mark.parametrize("packet", [b"garbage", b'["GO", {"pid": 1}]', b""], ids=["garbage", "wrong", "empty"])
def test_descriptors_that_came_with_garbage_are_closed(ends: Ends, packet: bytes) -> None:
    """Else a worker could use up the master's."""
    ours, child = ends
    before = open_files()
    socket.send_fds(child.socket, [packet], [0, 1, 2])
    if packet:
        with pytest.raises(ProtocolError):
            ours.receive()
    else:
        assert ours.receive() is None, "an empty packet reads like the end of the file"
    wait_for(lambda: open_files() <= before)


def test_descriptors_that_we_cannot_have_are_our_lack(ends: Ends) -> None:
    ours, child = ends
    before = open_files()
    socket.send_fds(child.socket, [encode("REOPEN", {"named": {}})], [0] * DESCRIPTORS_LIMIT)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, hard))
    try:
        with pytest.raises(LostError, match="no descriptor is free"):
            ours.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: open_files() <= before)


WRONG: dict[type, list[object]] = {
    str: [1, None, True, [], {}],
    bool: [0, 1, None, "true"],
    dict: [[], None, "x"],
    list: [{}, None, "x"],
    int: [True, False, "1", None, [], {}, 1.0, 0.5],
    float: [True, False, "1", None, [], {}],
}


def wrong_values(values: type | Number) -> list[str]:
    """JSON texts that a field cannot have."""
    if isinstance(values, type):
        return [json.dumps(value) for value in WRONG[values]]
    beyond = ["-1", "NaN", "Infinity", "-Infinity", "-1e400"]
    if values.most < float("inf"):
        beyond += ["1e400", "1" + "0" * 400]
    return [*beyond, *(json.dumps(value) for value in WRONG[values.types[-1]])]


@pytest.mark.parametrize("kind, field", [(kind, field) for kind, fields in MESSAGES.items() for field in fields])
def test_every_field_with_every_value_that_it_cannot_have(kind: str, field: str) -> None:
    example = encode(kind, {**EXAMPLES[kind], field: EXAMPLES[kind][field]})
    assert decode(example, []).kind == kind
    fields = {name: json.dumps(value) for name, value in EXAMPLES[kind].items()}
    for text in wrong_values(MESSAGES[kind][field]):
        said = ", ".join(f'"{name}": {value}' for name, value in {**fields, field: text}.items())
        with pytest.raises(ProtocolError):
            decode(f'["{kind}", {{{said}}}]'.encode(), [])


def test_a_protocol_error_does_not_repeat_the_packet() -> None:
    for packet in (b'["' + b"x" * 100_000 + b'", {}]', b'["IDLE", {"epoch": ' + b"9" * 4000 + b"}]"):
        with pytest.raises(ProtocolError) as caught:
            decode(packet, [])
        assert len(str(caught.value)) < 300


# Descriptors whose close() waits.


def lingering() -> tuple[int, socket.socket]:
    """A TCP socket whose close() waits for an hour, which no test has, since its peer does not read; and that peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    return ours.detach(), theirs


@pytest.mark.parametrize("way", ["garbage", "unheard", "in another"])
def test_a_descriptor_whose_close_waits_is_left_to_a_thread(ends: Ends, way: str) -> None:
    ours, child = ends
    fd, reader = lingering()
    if way == "garbage":
        socket.send_fds(child.socket, [b"garbage"], [fd])
        os.close(fd)
        with pytest.raises(ProtocolError):
            ours.receive()
    elif way == "unheard":
        child.socket.send(b"")
        socket.send_fds(child.socket, [b""], [fd])
        os.close(fd)
    else:
        within, without = socket.socketpair()
        socket.send_fds(within, [b"x"], [fd])
        socket.send_fds(child.socket, [b"garbage"], [without.fileno()])
        os.close(fd)
        within.close()
        without.close()
    ours.end()
    reader.close()


def test_the_end_of_a_channel_is_one_for_the_peer(ends: Ends) -> None:
    ours, child = ends
    child.send("BYE", cut=1)
    ours.end()
    with pytest.raises(BrokenPipeError):
        child.socket.send(b"more")
    assert child.receive() is None
