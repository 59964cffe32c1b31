"""Responses on their way out: slow readers, spooling, files, readers that are gone."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wire.loop import PATIENCE, Client, Server, eventually, small_window

pytestmark = pytest.mark.usefixtures("way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = bytes(range(256)) * 256  # 64 KiB


class Stream:
    """A body of so many pieces that counts what was taken from it, and its close()."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.given = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.pieces):
            self.given += 1
            yield PIECE

    def close(self) -> None:
        self.closed.set()


def app_of(body: Any, headers: list[tuple[str, str]] | None = None) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", headers or [])
        return [b"other"] if environ["PATH_INFO"] == "/other" else body

    return app


@pytest.mark.parametrize("response_buffer", [0, 100_000, 1 << 20])
def test_a_stream_to_a_slow_reader_is_kept_and_the_loop_serves_others(response_buffer: int) -> None:
    body = Stream(320)  # 20 MiB
    with Server(app_of(body), response_buffer=response_buffer) as server, small_window(server) as client:
        client.send(GET)
        assert body.closed.wait(PATIENCE)  # the app is done though nobody has read
        assert server.get("/other").body == b"other"
        response = client.response()
        assert response.body == PIECE * 320
        client.send(GET.replace(b"/", b"/other", 1))
        assert client.response().body == b"other"
        assert server.log.texts("error") == ""


def test_a_large_item_to_a_slow_reader() -> None:
    body = os.urandom(8 << 20)
    with Server(app_of([body])) as server, small_window(server) as client:
        client.send(GET)
        assert server.get("/other").body == b"other"
        assert client.response().body == body


def test_a_stream_beyond_the_spool_waits_for_its_client() -> None:
    """The ring in the spool file wraps around many times."""
    body = Stream(320)
    with (
        Server(app_of(body), response_buffer=100_000, response_spool=300_000) as server,
        small_window(server) as client,
    ):
        client.send(GET)
        client.take_until(b"\r\n\r\n")
        assert not body.closed.is_set()
        rest = [client.buffer]
        client.buffer = b""
        while not rest[-1].endswith(b"\r\n0\r\n\r\n"):
            rest.append(client.socket.recv(1 << 20))
        assert dechunked(b"".join(rest)) == PIECE * 320


def test_without_a_spool_a_stream_waits_too(tmp_path: Path) -> None:
    body = Stream(80)
    with Server(app_of(body), response_spool=0) as server, small_window(server) as client:
        client.send(GET)
        assert client.response().body == PIECE * 80
    body = Stream(80)
    with (
        Server(app_of(body), response_buffer=0, spool_dir=str(tmp_path / "none")) as server,
        small_window(server) as client,
    ):
        client.send(GET)
        assert client.response().body == PIECE * 80
        assert "cannot be spooled" in server.log.texts("warning")


def dechunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[:size])
        data = data[size + 2 :]


def test_the_request_is_not_in_the_app_while_its_client_is_waited_for() -> None:
    """Else a slow client would run into the request timeout, and its worker with it."""
    states: list[tuple[bool, int]] = []

    def wait(fd: int, timeout: float | None) -> bool:
        start = int.from_bytes(server.slot[40:48], "little")
        states.append((server.context.running, start))
        threading.Event().wait(0.001)
        return True

    body = Stream(80)
    with Server(app_of(body), response_spool=0) as server, small_window(server) as client:
        server.context.wait_writable = wait
        client.send(GET)
        assert client.response().body == PIECE * 80
    assert set(states) == {(False, 0)}


def test_a_reader_that_never_reads_is_closed() -> None:
    body = Stream(320)
    with Server(app_of(body), write_timeout=0.3) as server, small_window(server) as client:
        client.send(GET)
        eventually(lambda: "it has not read its response" in server.log.texts("info"))
        eventually(lambda: not server.connections)


def test_a_reader_that_never_reads_stops_a_stream_that_waits_for_it() -> None:
    body = Stream(100_000)
    with Server(app_of(body), write_timeout=0.3, response_spool=1 << 20) as server, small_window(server) as client:
        client.send(GET)
        assert body.closed.wait(PATIENCE)
        assert body.given < 200
        eventually(lambda: "it has not read its response" in server.log.texts("info"))
        assert server.get("/other").body == b"other"


def test_a_client_that_goes_away_stops_the_stream() -> None:
    body = Stream(10_000_000)
    with Server(app_of(body), access_format="%(s)s %(B)s") as server:
        client = server.connect()
        client.send(GET)
        client.take(100_000)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        assert body.closed.wait(PATIENCE)
        status, sent = server.access_line().split()
        assert status == "200"
        assert int(sent) >= 90_000
        eventually(lambda: not server.connections)
        assert "went away before its response was complete" in server.log.texts("debug")
        assert server.log.texts("error") == ""


def test_memory_does_not_grow_with_a_stream() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    body = Stream(4800)  # 300 MiB
    with Server(app_of(body), response_spool=8 << 20) as server, server.connect() as client:
        server.get("/other")
        before = resident()
        client.send(GET)
        received, most = 0, 0
        buffer = bytearray(1 << 16)
        while received < 4800 * len(PIECE):
            received += client.socket.recv_into(buffer)
            if received % 64 == 0:
                most = max(most, resident())
        assert resident() - before < 2 << 20
        assert most - before < 2 << 20


# file_wrapper.


def file_app(make: Callable[[], Any], headers: list[tuple[str, str]] | None = None) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", headers or [])
        return environ["wsgi.file_wrapper"](make(), 4096)

    return app


@pytest.fixture(params=[0, 5, 16_384, 16_385, 3_000_000])
def content(request: pytest.FixtureRequest) -> bytes:
    return os.urandom(request.param)


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


def get(app: Any, client_of: Callable[[Server], Client] = Server.connect, **settings: Any) -> Any:
    with Server(app, **settings) as server, client_of(server) as client:
        client.send(GET)
        response = client.response()
        client.send(GET)
        assert client.response().body == response.body  # the connection can be used again
        assert server.log.texts("error") == ""
    return response


@pytest.mark.parametrize("client_of", [Server.connect, small_window])
def test_a_file_is_sent_with_its_length(path: Path, content: bytes, client_of: Any) -> None:
    response = get(file_app(lambda: path.open("rb")), client_of)
    assert response.headers["content-length"] == str(len(content))
    assert response.body == content


def test_an_unbuffered_file(path: Path, content: bytes) -> None:
    assert get(file_app(lambda: path.open("rb", buffering=0))).body == content


def test_a_file_is_sent_from_its_position(path: Path, content: bytes) -> None:
    def make() -> Any:
        file = path.open("rb")
        file.read(3)  # the descriptor itself has been read further than that
        return file

    response = get(file_app(make))
    assert response.body == content[3:]
    assert response.headers["content-length"] == str(len(content[3:]))


def test_a_file_with_a_smaller_content_length(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 50_000)
    response = get(file_app(lambda: (tmp_path / "file").open("rb"), [("Content-Length", "20000")]))
    assert response.body == b"x" * 20_000


def test_a_file_with_a_larger_content_length_is_cut_and_logged(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 50_000)
    with Server(file_app(lambda: (tmp_path / "file").open("rb"), [("Content-Length", "60000")])) as server:
        with server.connect() as client:
            client.send(GET)
            client.take_until(b"\r\n\r\n")
            assert client.rest() == b"x" * 50_000
        assert "sent 50000 bytes, its Content-Length is 60000" in server.log.texts("error")


def test_head_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 50_000)
    with Server(file_app(lambda: (tmp_path / "file").open("rb"))) as server, server.connect() as client:
        for _ in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            response = client.response("HEAD")
            assert response.headers["content-length"] == "50000"


def test_the_file_is_closed_at_once_and_sent_nevertheless(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PIECE * 200)
    files: list[Any] = []

    def make() -> Any:
        files.append((tmp_path / "file").open("rb"))
        return files[-1]

    with Server(file_app(make)) as server, small_window(server) as client:
        client.send(GET)
        eventually(lambda: bool(files) and files[0].closed)
        assert client.response().body == PIECE * 200


def test_a_file_that_shrinks_on_the_way_is_cut_and_logged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(PIECE * 200)
    with Server(file_app(lambda: path.open("rb"))) as server, small_window(server) as client:
        client.send(GET)
        client.take_until(b"\r\n\r\n")
        os.truncate(path, 1_000_000)
        assert len(client.rest()) < 200 * len(PIECE)
        assert "the file of its response became shorter" in server.log.texts("error")


def test_what_only_looks_like_a_file_is_read(tmp_path: Path) -> None:
    """A GzipFile has a fileno(), whose bytes are not the ones it reads."""
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(b"plain" * 9999))
    response = get(file_app(lambda: gzip.open(path)))  # noqa: SIM115 - the server closes it
    assert response.body == b"plain" * 9999
    assert response.headers["transfer-encoding"] == "chunked"
    assert get(file_app(lambda: io.BytesIO(b"memory"))).body == b"memory"
    with tempfile.TemporaryFile() as file:
        file.write(b"temporary")
        file.flush()
        assert get(file_app(lambda: duplicate(file))).body == b"temporary"


def duplicate(file: Any) -> Any:
    copy = os.fdopen(os.dup(file.fileno()), "rb")
    copy.seek(0)
    return copy


# Files whose reader has other bytes than their descriptor: the client gets what read() gives.


def patched(path: Path, content: bytes, mode: str) -> Any:
    """A file that the app has written, read, changed in the middle of what it has read, and rewound."""
    path.write_bytes(content)
    file = path.open(mode)
    if "w" in mode:
        file.write(content)
        file.flush()
        file.seek(0)
    file.read(10)
    file.seek(2)
    file.write(b"PATCH")
    file.seek(0)
    return file


def spooled(size: int) -> Any:
    file = tempfile.SpooledTemporaryFile(max_size=100)  # noqa: SIM115 - the server closes it
    file.write(b"s" * size)
    file.seek(0)
    return file


def named() -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the same
    file.write(b"n" * 50_000)
    file.seek(3)
    return file


def in_memory() -> Any:
    file = os.fdopen(os.memfd_create("test"), "w+b")
    file.write(b"m" * 50_000)
    file.seek(0)
    file.write(b"M")
    file.seek(0)
    return file


def temporary() -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the same
    file.write(b"t" * 50_000)
    file.seek(0)
    return file


def appended(path: Path) -> Any:
    path.write_bytes(b"before, ")
    file = path.open("a+b")
    file.write(b"behind")
    file.seek(0)
    return file


def at(path: Path, position: int, **options: Any) -> Any:
    path.write_bytes(b"x" * 50_000)
    file = path.open("rb", **options)
    file.seek(position)
    return file


class Odd(io.FileIO):
    """A raw file whose bytes are not its descriptor's."""

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer) or 0
        buffer[:size] = bytes(buffer[:size]).swapcase()
        return size


def made_up(**options: Any) -> Any:
    return Path("/proc/version").open("rb", **options)


def odd(path: Path) -> Any:
    path.write_bytes(b"abc" * 9999)
    return io.BufferedReader(Odd(path))


READ: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "w+b, patched": (lambda path: patched(path, b"a" * 100, "w+b"), b"aaPATCH" + b"a" * 93),
    "r+b, patched": (lambda path: patched(path, b"a" * 100, "r+b"), b"aaPATCH" + b"a" * 93),
    "r+b, large, patched": (lambda path: patched(path, b"a" * 50_000, "r+b"), b"aaPATCH" + b"a" * 49_993),
    "never flushed": (lambda path: temporary(), b"t" * 50_000),
    "in memory": (lambda path: in_memory(), b"M" + b"m" * 49_999),
    "spooled, in memory": (lambda path: spooled(50), b"s" * 50),
    "spooled, on disk": (lambda path: spooled(50_000), b"s" * 50_000),
    "named": (lambda path: named(), b"n" * 49_997),
    "appended": (appended, b"before, behind"),
    "beyond its end": (lambda path: at(path, 60_000), b""),
    "beyond its end, unbuffered": (lambda path: at(path, 60_000, buffering=0), b""),
    "its last byte": (lambda path: at(path, 49_999), b"x"),
    "an odd raw file": (odd, b"ABC" * 9999),
    "/proc": (lambda path: made_up(), Path("/proc/version").read_bytes()),
    "/proc, unbuffered": (lambda path: made_up(buffering=0), Path("/proc/version").read_bytes()),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_the_bytes_are_those_that_read_gives(name: str, tmp_path: Path) -> None:
    make, expected = READ[name]
    assert get(file_app(lambda: make(tmp_path / "file"))).body == expected


def test_a_file_whose_size_is_made_up(tmp_path: Path) -> None:
    path = Path("/sys/devices/system/cpu/online")
    if not path.exists() or path.stat().st_size == len(path.read_bytes()):
        pytest.skip(f"{path} is not one")
    assert get(file_app(lambda: path.open("rb"))).body == path.read_bytes()


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    with Server(file_app(lambda: path.open())) as server:
        assert server.get().status == 500
        assert "must consist of bytes, not str" in server.log.texts("error")
        assert "pyserve_workers" not in server.log.texts("error")


def test_a_file_that_grows_is_sent_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(PIECE * 200)
    with Server(file_app(lambda: path.open("rb"))) as server, small_window(server) as client:
        client.send(GET)
        client.take_until(b"\r\n\r\n")
        with path.open("ab") as file:
            file.write(b"more")
        assert client.take(200 * len(PIECE)) == PIECE * 200
        client.send(GET)
        assert client.response().headers["content-length"] == str(200 * len(PIECE) + 4)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    def make() -> Any:
        reader, writer = os.pipe()
        os.write(writer, b"from a pipe")
        os.close(writer)
        return os.fdopen(reader, "rb")

    assert get(file_app(make)).body == b"from a pipe"


def test_a_file_behind_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])(b"written, ")
        return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

    assert get(app).body == b"written, file"


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PIECE * 10)
    with Server(file_app(lambda: (tmp_path / "file").open("rb"))) as server:
        server.get()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            server.get()
            with server.connect() as client:
                client.send(GET)
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
