"""A server for tests of the native request side: a Context and an epoll loop in a thread, without master and workers."""

from __future__ import annotations

import io
import os
import select
import socket
import tempfile
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pyserve.ipc.scoreboard import SLOT_SIZE, Slot
from pyserve_workers.classes.connections import Connections
from pyserve_workers.native.accepting import accept
from pyserve_workers.native.accesslog import AccessLog
from pyserve_workers.native.connection import Connection, Context
from pyserve_workers.native.crowd import expired
from wire import ways

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

PATIENCE = 20.0  # seconds after which a test that waits has failed

SETTINGS: dict[str, Any] = {
    "header_timeout": 10,
    "body_timeout": 30,
    "write_timeout": 30,
    "keep_alive": 75,
    "keepalive_linger": 5,
    "limit_request_line": 8190,
    "limit_request_fields": 100,
    "limit_request_field_size": 8190,
    "limit_request_head": 65536,
    "permit_raw_target": False,
    "limit_request_body": 1 << 30,
    "body_buffer": 1 << 20,
    "response_buffer": 1 << 20,
    "response_spool": 64 << 20,
    "buffer_memory": 64 << 20,
    "body_min_rate": 500,
    "response_min_rate": 500,
    "spool_limit": 4 << 30,
    "spool_dir": tempfile.gettempdir(),
    "forwarded_allow_ips": "127.0.0.1,::1",
}


class MemoryLog:
    """Keeps records as (level, text)."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str]] = []

    def debug(self, text: str) -> None:
        self.records.append(("debug", text))

    def info(self, text: str) -> None:
        self.records.append(("info", text))

    def warning(self, text: str) -> None:
        self.records.append(("warning", text))

    def error(self, text: str) -> None:
        self.records.append(("error", text))

    def texts(self, level: str) -> str:
        return "\n".join(text for kind, text in list(self.records) if kind == level)


class Server:
    """``with Server(app, body_timeout=1) as server: ...`` serves on server.address until the block ends."""

    def __init__(self, app: Any, *, access_format: str | None = None, unix: str | None = None, **settings: Any) -> None:
        self.log = MemoryLog()
        self.errors = io.StringIO()
        self.slot = bytearray(SLOT_SIZE)
        self.access_read = -1
        self.access_log = None
        if access_format is not None:
            self.access_read, self.access_write = os.pipe()
            self.access_log = AccessLog(self.access_write, access_format)
        if unix is None:
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the master does
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(unix)
            self.listener.listen()
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        about = SimpleNamespace(scheme="http", server_name="server.example", server_port=8000)
        self.about = about
        config = SimpleNamespace(**{**SETTINGS, **settings})
        self.way = ways.chosen()
        self.context = Context(
            app,
            config,
            memoryview(self.slot),
            self.errors,
            self.log,
            self.access_log,
            concurrent=self.way.concurrent,
        )
        self.context.draining_event = threading.Event()
        self.epoll = select.epoll()
        self.table = Connections(self.epoll, Slot(memoryview(self.slot)), limit=1000)
        self.connections = self.table.open
        self.failure: BaseException | None = None
        self.wake_read, self.wake_write = os.pipe()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.wake_write)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the loop does not end"
        if self.failure is not None and error is None:
            raise self.failure
        self.table.close_all()
        self.epoll.close()
        self.listener.close()
        os.close(self.wake_read)
        if self.access_log is not None:
            self.access_log.flush()
            os.close(self.access_write)
            os.close(self.access_read)

    def run(self) -> None:
        try:
            self.epoll.register(self.listener, select.EPOLLIN)
            self.epoll.register(self.wake_read, select.EPOLLIN)
            self.way.run(self)
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it again
            self.failure = error
            for connection in self.connections.values():
                connection.close()

    def turn(self) -> bool:
        """One turn of the loop; False when it shall end."""
        for _ in range(len(self.table.pending)):
            self.way.serve(self, self.table.pending.pop(0), 0)
        for fd, events in self.way.poll(self):
            if fd == self.wake_read:
                return False
            if fd in self.connections:
                self.way.serve(self, self.connections[fd], events)
            elif fd == self.listener.fileno():
                self.accept(fd)
        if self.access_log is not None:
            self.access_log.flush()
        for connection in expired(self.connections, time.monotonic()):
            self.after(connection, connection.expire())
        return True

    def accept(self, listener: int) -> None:
        connection = accept(self.context, listener, self.about)
        if connection is not None:
            self.table.keep(connection)

    def after(self, connection: Connection, wanted: int) -> None:
        self.table.after(connection, wanted)

    def connect(self) -> Client:
        return Client(self.address)

    def get(self, path: str = "/", headers: str = "") -> Response:
        with self.connect() as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode("latin-1"))
            return client.response()

    def access_line(self) -> str:
        """The next line of the access log."""
        line = b""
        ends = time.monotonic() + PATIENCE
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.access_read], [], [], max(0.0, ends - time.monotonic()))
            assert ready, f"no whole access line, only {line!r}"
            line += os.read(self.access_read, 1)
        return line.decode()


class Response:
    """One response as received; ``headers`` have lower-case names, repeated ones are joined."""

    open = True  # for a test to note: can the connection be used again?
    log = ""  # and the errors logged

    def __init__(self, head: bytes) -> None:
        self.head = head
        line, *fields = head.decode("latin-1").split("\r\n")
        protocol, code, self.reason = line.split(" ", 2)
        assert protocol == "HTTP/1.1"
        self.status = int(code)
        self.headers: dict[str, str] = {}
        for field in fields:
            name, value = field.split(": ", 1)
            name = name.lower()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.body = b""


class Client:
    """A plain socket with a strict reader of responses."""

    def __init__(self, address: Any) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, PATIENCE)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError as error:
            raise AssertionError(f"reset after {self.buffer!r}") from error
        self.buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        parts, taken = [], 0
        while taken + len(self.buffer) < size:  # a small window makes it many pieces
            parts.append(self.buffer)
            taken += len(self.buffer)
            self.buffer = b""
            assert self.more(), f"closed in the middle: {b''.join(parts)!r}"
        parts.append(self.buffer[: size - taken])
        self.buffer = self.buffer[size - taken :]
        return b"".join(parts)

    def take_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            assert self.more(), f"closed in the middle: {self.buffer!r}"
        data, _, self.buffer = self.buffer.partition(mark)
        return data

    def response(self, method: str = "GET") -> Response:
        """Reads one response by its framing."""
        head = self.take_until(b"\r\n\r\n")
        response = Response(head)
        headers = response.headers
        if method == "HEAD" or response.status in (100, 204, 304):
            return response
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            while size := int(self.take_until(b"\r\n"), 16):
                response.body += self.take(size)
                assert self.take(2) == b"\r\n"
            assert self.take(2) == b"\r\n"
        elif "content-length" in headers:
            response.body = self.take(int(headers["content-length"]))
        else:
            response.body = self.rest()
        return response

    def rest(self) -> bytes:
        """What comes until the server closes."""
        parts = []
        more = True
        while more:
            parts.append(self.buffer)
            self.buffer = b""
            more = self.more()
        return b"".join(parts)

    def closed(self) -> bool:
        """Nothing more comes, in order."""
        return self.rest() == b""


def small_window(server: Server, size: int = 4096) -> Client:
    """A client whose kernel takes little before it reads."""
    client = Client.__new__(Client)
    client.socket = socket.socket()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    client.socket.settimeout(PATIENCE)
    client.socket.connect(server.address)
    client.buffer = b""
    return client


def eventually(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.005)
