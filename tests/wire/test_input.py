"""wsgi.input, with its body in memory and in a spool file: the same bytes, whatever is read in which order."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.loop import Server

pytestmark = pytest.mark.usefixtures("way")

IN_MEMORY, SPOOLED = 1 << 20, 10


def with_input(use: Callable[[Any], Any], body: bytes, limit: int, **more: Any) -> Any:
    """What `use` returns for the wsgi.input of a request with this body."""
    results = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        results.append(use(environ["wsgi.input"]))
        start_response("200 OK", [])
        return []

    with Server(app, body_buffer=limit, **more) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.response().status == 200, server.log.texts("error")
    return results[0]


BODY = b"first\nsecond, longer line\n\nlast without end"
USES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "read": (lambda i: i.read(), BODY),
    "read None": (lambda i: i.read(None), BODY),
    "read -1": (lambda i: i.read(-1), BODY),
    "read 0": (lambda i: (i.read(0), i.read()), (b"", BODY)),
    "read too much": (lambda i: i.read(1 << 40), BODY),
    "read(3) then read()": (lambda i: (i.read(3), i.read(), i.read(), i.read(5)), (BODY[:3], BODY[3:], b"", b"")),
    "pieces": (lambda i: list(iter(lambda: i.read(7), b"")), [BODY[n : n + 7] for n in range(0, len(BODY), 7)]),
    "readline": (
        lambda i: (i.readline(), i.readline(), i.read()),
        (b"first\n", b"second, longer line\n", b"\nlast without end"),
    ),
    "readline with a size": (lambda i: [i.readline(4) for _ in range(4)], [b"firs", b"t\n", b"seco", b"nd, "]),
    "readline 0": (lambda i: (i.readline(0), i.readline(None)), (b"", b"first\n")),
    "readlines": (lambda i: (i.readlines(), i.readlines()), (BODY.splitlines(keepends=True), [])),
    "readlines with a hint": (lambda i: i.readlines(7), [b"first\n", b"second, longer line\n"]),
    "iteration": (list, BODY.splitlines(keepends=True)),
    "a line, then the rest": (
        lambda i: (next(i), i.read(2), list(i)),
        (b"first\n", b"se", [b"cond, longer line\n", b"\n", b"last without end"]),
    ),
    "readinto": (lambda i: (lambda b: (i.readinto(b), bytes(b)))(bytearray(6)), (6, b"first\n")),
    "a close does nothing": (lambda i: (i.close(), i.read()), (None, BODY)),
    "as a buffered reader": (lambda i: i.readable(), True),
}


@pytest.mark.parametrize("limit", [IN_MEMORY, SPOOLED])
@pytest.mark.parametrize("name", USES)
def test_input(name: str, limit: int) -> None:
    use, expected = USES[name]
    assert with_input(use, BODY, limit) == expected


def test_no_body() -> None:
    def use(body: Any) -> Any:
        return body.read(), body.read(5), body.readline(), body.readlines(), list(body)

    assert with_input(use, b"", IN_MEMORY) == (b"", b"", b"", [], [])


LARGE = b"".join(b"%d %s\n" % (n, b"x" * (n * 37 % 90_000)) for n in range(60))


@pytest.mark.parametrize("limit", [1 << 30, 1 << 20])
def test_large_lines(limit: int) -> None:
    assert with_input(list, LARGE, limit) == LARGE.splitlines(keepends=True)


def test_a_large_body_is_in_an_unlinked_private_file(tmp_path: Path) -> None:
    def use(body: Any) -> tuple[list[str], list[Path], int]:
        fds = [fd for fd in os.listdir("/proc/self/fd") if link_of(fd).startswith(str(tmp_path))]
        return [link_of(fd) for fd in fds], list(tmp_path.iterdir()), os.stat(int(fds[0])).st_mode & 0o777

    found, names, mode = with_input(use, b"x" * 100_000, 50_000, spool_dir=str(tmp_path))
    assert len(found) == 1
    assert "(deleted)" in found[0]
    assert names == []
    assert mode == 0o600


def link_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # the descriptor of the listing itself
        return ""


def test_the_spool_file_goes_with_its_request() -> None:
    kept: list[Any] = []
    with_input(kept.append, b"x" * 1000, SPOOLED)
    with pytest.raises(ValueError, match="after its request had ended"):
        kept[0].read()
    with pytest.raises(ValueError, match="after its request had ended"):
        kept[0].readline()


def test_a_body_in_memory_may_be_kept() -> None:
    kept: list[Any] = []
    with_input(kept.append, b"x" * 1000, IN_MEMORY)
    assert kept[0].read() == b"x" * 1000


def refused(**settings: Any) -> tuple[int, str]:
    with Server(lambda *_: [], **settings) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        status = client.response().status
        assert client.closed()
        return status, server.log.texts("error")


def test_no_place_for_a_large_body_is_a_500() -> None:
    status, log = refused(body_buffer=10, spool_dir="/nowhere")
    assert status == 500
    assert "cannot be spooled to /nowhere: No such file or directory" in log


def test_a_full_disk_is_a_507(full_folder: Path) -> None:
    status, log = refused(body_buffer=10, spool_dir=str(full_folder))
    assert status == 507
    assert os.strerror(errno.ENOSPC) in log


@pytest.fixture
def full_folder(tmp_path: Path) -> Any:
    """A file system without room."""
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=4k tmpfs {tmp_path} 2>/dev/null") != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        (tmp_path / "fill").write_bytes(b"x" * 4096)
        yield tmp_path
    finally:
        os.system(f"umount {tmp_path}")


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 40)),
    st.tuples(st.just("readline"), st.integers(-1, 40)),
    st.tuples(st.just("readlines"), st.integers(-1, 40)),
    st.tuples(st.just("next"), st.just(0)),
)


def perform(stream: Any, steps: list[tuple[str, int]]) -> list[Any]:
    return [next(stream, b"") if name == "next" else getattr(stream, name)(size) for name, size in steps]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([b"\n", b"ab", b"c" * 30])),
    st.lists(STEPS, max_size=8),
    st.sampled_from([IN_MEMORY, SPOOLED]),
)
def test_it_reads_as_a_bytesio_does(pieces: list[bytes], steps: list[tuple[str, int]], limit: int) -> None:
    body = b"".join(pieces)
    assert with_input(lambda stream: perform(stream, steps), body, limit) == perform(io.BytesIO(body), steps)
