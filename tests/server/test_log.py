"""The error log: how records read, that nothing forges or tears them, and that trouble with the file is survived."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pty
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyserve.errors import ConfigError
from pyserve.ipc.log import ErrorStream, Log, open_log, open_stream

RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} (debug|info |warn |error|crit |app  ) \S")
NOW = 1_800_000_000.1239


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "error.log"


@pytest.fixture
def log(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A log of level debug at a fixed moment in a fixed place."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW)
    fd = open_log(str(path))
    yield Log(fd, "debug", "master")
    os.close(fd)
    monkeypatch.undo()
    time.tzset()


# ----------------------------------------------------------------------------------------------------------- records


def test_a_record(log: Log, path: Path) -> None:
    log.info("listening on http://127.0.0.1:8000")
    assert path.read_text() == "2027-01-15 13:30:00.123 +0530 info  master    listening on http://127.0.0.1:8000\n"


def test_renamed(log: Log, path: Path) -> None:
    log.rename("worker 2 (pid 4711, gen 3)")
    log.error("GET /x: no")
    assert path.read_text() == "2027-01-15 13:30:00.123 +0530 error worker 2 (pid 4711, gen 3)  GET /x: no\n"


def test_the_second_is_taken_anew(log: Log, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for now in (NOW, NOW + 0.5, NOW + 60):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        log.info("x")
    assert [line[11:23] for line in path.read_text().splitlines()] == ["13:30:00.123", "13:30:00.623", "13:31:00.123"]


LEVELS = ["debug", "info", "warning", "error", "critical"]


@pytest.mark.parametrize("level", LEVELS)
def test_levels(level: str, path: Path) -> None:
    log = Log(open_log(str(path)), level, "master")
    for name in LEVELS:
        getattr(log, name)(name)
    log.app("app")
    os.close(log.fd)
    expected = LEVELS[LEVELS.index(level) :] + ["app"] * (level != "critical")
    assert [line.split()[-1] for line in path.read_text().splitlines()] == expected


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\ntwo\n  three\n", ["one", "    two", "      three"]),
        ("a\n\nb", ["a", "    ", "    b"]),
        ("", [""]),
        ("tab\there", ["tab\there"]),
        ("\x1b[31mred\x07", [r"\x1b[31mred\x07"]),
        ("a\r\nb", [r"a\x0d", "    b"]),
        ("\x00\x7f\x9b", [r"\x00\x7f\x9b"]),
        ("naïve ☃", ["naïve ☃"]),
        ("a\udcffb", [r"a\udcffb"]),
        ("GET /\n2027-01-15 13:30:00.123 +0530 crit  master    bye",
         ["GET /", "    2027-01-15 13:30:00.123 +0530 crit  master    bye"]),
    ],
)  # fmt: skip
def test_only_records_start_at_the_first_column(text: str, lines: list[str], log: Log, path: Path) -> None:
    log.info(text)
    head, *rest = path.read_text().rstrip("\n").split("\n")
    assert head == f"2027-01-15 13:30:00.123 +0530 info  master    {lines[0]}"
    assert rest == lines[1:]


def test_one_write_a_record(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_fd: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    log.error("one\ntwo")
    assert len(written) == 1
    assert written[0].endswith(b"one\n    two\n")


def test_records_of_many_processes_stay_whole(path: Path) -> None:
    log = Log(open_log(str(path)), "info", "master")
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            log.rename(f"worker {number}")
            for _ in range(200):
                log.info("x" * 1000)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    os.close(log.fd)
    lines = path.read_text().splitlines()
    assert len(lines) == 800
    assert all(RECORD.match(line) and line.endswith("  " + "x" * 1000) for line in lines)


# ------------------------------------------------------------------------------------------------------------ colour


def through_a_terminal(speak: Callable[[Log], None]) -> str:
    master, terminal = pty.openpty()
    try:
        speak(Log(terminal, "info", "master"))
        return os.read(master, 4096).decode()
    finally:
        os.close(master)
        os.close(terminal)


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert " \x1b[31merror\x1b[0m master" in through_a_terminal(lambda log: log.error("x"))
    assert " \x1b[33mwarn \x1b[0m master" in through_a_terminal(lambda log: log.warning("x"))


def test_no_colour_when_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert " error master" in through_a_terminal(lambda log: log.error("x"))


def test_an_empty_no_color_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert "\x1b[31m" in through_a_terminal(lambda log: log.error("x"))


# ----------------------------------------------------------------------------------------------------------- trouble


def test_a_full_disk_is_survived_and_told(log: Log, path: Path) -> None:
    good = os.dup(log.fd)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log.fd)
    os.close(full)
    log.info("one")
    assert log.lost == 1
    log.info("two")
    assert log.lost == 2
    os.dup2(good, log.fd)
    os.close(good)
    log.info("three")
    log.info("four")
    assert [line[24:] for line in path.read_text().splitlines()] == [
        "+0530 warn  master    2 records were lost before this one: No space left on device",
        "+0530 info  master    three",
        "+0530 info  master    four",
    ]


def test_a_full_pipe_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log = Log(writer, "info", "master")
    while not log.lost:
        log.info("x" * 3000)
    os.set_blocking(reader, False)
    received = b""
    while True:
        try:
            received += os.read(reader, 1 << 20)
        except BlockingIOError:
            break
    log.info("after")
    received += os.read(reader, 1 << 20)
    os.close(reader)
    os.close(writer)
    *_, lost, last = received.decode().splitlines()
    assert lost.endswith("  1 record was lost before this one: its reader does not keep up")
    assert last.endswith("  after")


def test_a_closed_reader_is_survived() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = Log(writer, "info", "master")
    log.info("x")
    assert log.lost == 1
    os.close(writer)


def test_a_short_write_goes_on(log: Log, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    log.info("one")
    assert path.read_text() == "2027-01-15 13:30:00.123 +0530 info  master    one\n"
    assert log.lost == 0


def test_a_torn_record_does_not_swallow_the_next(log: Log, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    answers: list[int] = [10, -1]

    def torn(fd: int, data: bytes) -> int:
        answer = answers.pop(0)
        if answer < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:answer])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        log.info("one")
    log.info("two")
    lines = path.read_text().splitlines()
    assert lines[0] == "2027-01-15"
    assert [line[30:] for line in lines[1:]] == [
        "warn  master    1 record was lost before this one: No space left on device",
        "info  master    two",
    ]


# ---------------------------------------------------------------------------------------------------------- open_log


def test_a_new_file_is_private_and_appended_to(path: Path) -> None:
    before = os.umask(0)
    try:
        first = open_log(str(path))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert not os.get_inheritable(first)
    second = open_log(str(path))
    os.write(first, b"1\n")
    os.write(second, b"2\n")
    os.write(first, b"3\n")
    os.close(first)
    os.close(second)
    assert path.read_text() == "1\n2\n3\n"


@pytest.mark.parametrize(("name", "standard", "stream"), [("-", 2, 2), ("-", 1, 1), ("/dev/stdout", 2, 1)])
def test_standard_streams_are_duplicated(name: str, standard: int, stream: int) -> None:
    fd = open_log(name, standard)
    try:
        assert fd > 2
        assert os.path.sameopenfile(fd, stream)
    finally:
        os.close(fd)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for name, why in ((f"{tmp_path}/no/error.log", "No such file or directory"), (str(tmp_path), "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            open_log(name)
        assert caught.value.message == f"cannot open the log {name}: {why}"


def test_a_link_is_followed_only_for_who_says_so(tmp_path: Path) -> None:
    link = tmp_path / "error.log"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as caught:
        open_log(str(link))
    assert caught.value.message == (
        f"cannot open the log {link}: it is a symbolic link that another user could have put there; "
        "name the file that it leads to"
    )
    assert not (tmp_path / "elsewhere").exists()
    os.close(open_log(str(link), follow=True))
    assert (tmp_path / "elsewhere").exists()


# ------------------------------------------------------------------------------------------------------ nobody reads


def fill_up(log: Log) -> None:
    """Until there is no room for even a short record. (That this ends is what is tested.)"""
    for size in (3000, 1):
        while log.lost < 20:
            log.info("x" * size)
        if size > 1:
            log.lost = 0


def drain(fd: int) -> str:
    os.set_blocking(fd, False)
    received = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 1 << 16):
            received += data
    return received.decode()


def pipe() -> tuple[int, int]:
    return os.pipe()


def journal() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    return pty.openpty()


@pytest.mark.parametrize("make", [pipe, journal])
def test_what_nobody_reads_holds_up_nothing(make: Callable[[], tuple[int, int]]) -> None:
    """Their files are shared with others, so that O_NONBLOCK is not ours to set."""
    reader, writer = make()
    log = Log(writer, "info", "master")
    fill_up(log)
    assert os.get_blocking(writer)
    lost = log.lost
    assert lost >= 20
    drain(reader)
    log.tell_lost()
    assert log.lost == 0
    assert f"{lost} records were lost before this one: its reader does not keep up" in drain(reader)
    log.tell_lost()
    assert drain(reader) == ""
    os.close(reader)
    os.close(writer)


def test_trying_to_tell_loses_nothing_more() -> None:
    reader, writer = os.pipe()
    log = Log(writer, "info", "master")
    fill_up(log)
    lost = log.lost
    for _ in range(3):
        log.tell_lost()
    assert log.lost == lost
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("make", [pipe, terminal])
def test_a_standard_stream_is_opened_anew(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    ours = open_stream(writer)
    log = Log(ours, "info", "master")
    fill_up(log)
    assert os.path.sameopenfile(ours, writer)
    assert not os.get_blocking(ours)
    assert os.get_blocking(writer)
    assert not os.get_inheritable(ours)
    for fd in (ours, writer, reader):
        os.close(fd)


def test_a_file_and_a_socket_are_not_opened_anew(tmp_path: Path) -> None:
    """They would have a position of their own, and write over each other; or cannot be."""
    with (tmp_path / "output").open("wb") as file:
        ours = open_stream(file.fileno())
        os.write(ours, b"ours\n")
        os.write(file.fileno(), b"theirs\n")
        os.close(ours)
    assert (tmp_path / "output").read_bytes() == b"ours\ntheirs\n"
    one, other = socket.socketpair()
    ours = open_stream(one.fileno())
    os.write(ours, b"x")
    assert other.recv(10) == b"x"
    os.close(ours)
    one.close()
    other.close()


def test_a_fork_does_not_say_what_its_parent_lost() -> None:
    reader, writer = os.pipe()
    log = Log(writer, "info", "zygote 1")
    fill_up(log)
    log.rename("worker 0")
    assert log.lost == 0
    os.close(reader)
    os.close(writer)


def test_a_fifo_that_nobody_reads_is_said_at_the_start(tmp_path: Path) -> None:
    """Rather than wait for a reader without a word."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(ConfigError) as caught:
        open_log(f"{tmp_path}/log")
    assert caught.value.message == f"cannot open the log {tmp_path}/log: nobody reads this pipe"


# ------------------------------------------------------------------------------------------------------- wsgi.errors


@pytest.fixture
def stream(log: Log) -> ErrorStream:
    return ErrorStream(log)


def app_lines(path: Path) -> list[str]:
    prefix = "2027-01-15 13:30:00.123 +0530 app   master    "
    lines = path.read_text().splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_each_line_is_a_record(stream: ErrorStream, path: Path) -> None:
    assert stream.write("one\ntwo\r\n") == 9
    assert app_lines(path) == ["one", "two"]


def test_a_partial_line_waits_for_its_end(stream: ErrorStream, path: Path) -> None:
    stream.write("on")
    assert app_lines(path) == []
    stream.writelines(["e\ntw", "o\n", "three"])
    assert app_lines(path) == ["one", "two"]
    stream.flush()
    stream.flush()
    assert app_lines(path) == ["one", "two", "three"]


def test_a_line_without_end_does_not_grow_for_ever(stream: ErrorStream, path: Path) -> None:
    for _ in range(100):
        stream.write("x" * 1000)
    assert app_lines(path) == ["x" * 66_000]


def test_bytes_are_refused(stream: ErrorStream) -> None:
    with pytest.raises(TypeError, match=r"wsgi\.errors takes str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]


def test_what_applications_do_with_it(stream: ErrorStream, path: Path) -> None:
    print("printed", 1, file=stream)
    handler = logging.StreamHandler(stream)
    handler.emit(logging.LogRecord("shop", logging.ERROR, "f.py", 1, "logged %s", ("x",), None))
    try:
        raise LookupError("gone")
    except LookupError:
        traceback.print_exc(file=stream)
    lines = app_lines(path)
    assert lines[:3] == ["printed 1", "logged x", "Traceback (most recent call last):"]
    assert lines[-1] == "LookupError: gone"
    assert (stream.isatty(), stream.readable(), stream.seekable(), stream.writable()) == (False, False, False, True)


def test_its_descriptor_is_the_logs(stream: ErrorStream, log: Log) -> None:
    assert stream.fileno() == log.fd
