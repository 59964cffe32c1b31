"""Listening sockets: what is bound, what is said when that cannot be, and how handshakes end."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyserve.errors import BindError, ExitCode
from pyserve.master.listeners import Listener, adopt, handshakes_under_way, holder_of, open_all
from pyserve.system.linux import drop_new_handshakes
from support.processes import wait_for

NOBODY = 65534
NO_OWNER = (-1, -1)
ROOT = os.geteuid() == 0
SETTLED = 0.3  # seconds in which a handshake on the loopback would have been done a thousand times


@pytest.fixture
def listen() -> Iterator[Callable[..., list[Listener]]]:
    opened: list[Listener] = []

    def listen(
        *binds: str, mode: int = 0o660, owner: tuple[int, int] = NO_OWNER, activated: tuple[int, ...] = ()
    ) -> list[Listener]:
        new = open_all(binds, 16, mode, owner, activated)
        opened.extend(new)
        return new

    yield listen
    for listener in opened:
        listener.close(unlink=True)


Listen = Callable[..., list[Listener]]


def refusal(*binds: str, owner: tuple[int, int] = NO_OWNER) -> str:
    with pytest.raises(BindError) as error:
        open_all(binds, 16, 0o660, owner)
    assert error.value.exit_code == ExitCode.BIND == 69
    return error.value.message


def refusal_for_nobody(*binds: str, without: int = -1) -> str:
    """The same for a process without rights, and without the descriptor ``without``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if without >= 0:
                os.close(without)
            if ROOT:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, refusal(*binds).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        return file.read().decode()


def port_of(listener: Listener) -> int:
    return int(listener.server_port)


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection((listener.server_name, port_of(listener)), timeout=60)


def begin_to_connect(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    return client


def is_connected(client: socket.socket, within: float) -> bool:
    return bool(select.select([], [client], [], within)[1]) and not client.getsockopt(
        socket.SOL_SOCKET, socket.SO_ERROR
    )


# TCP.


def test_tcp(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    assert listener.url == f"http://127.0.0.1:{port_of(listener)}"
    assert listener.describe() == {
        "url": listener.url,
        "server_name": "127.0.0.1",
        "server_port": listener.server_port,
        "inherited": False,
    }
    assert listener.tcp
    assert not listener.socket.getblocking()
    assert not os.get_inheritable(listener.fileno())
    with connect(listener) as client:
        wait_for(lambda: select.select([listener], [], [], 0)[0], "the connection")
        accepted, peer = listener.socket.accept()
        assert peer == client.getsockname()
        accepted.close()


needs_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this kernel has no IPv6")


@needs_ipv6
def test_an_ipv6_address_is_only_ipv6(listen: Listen) -> None:
    (listener,) = listen("[::1]:0")
    assert listener.url == f"http://[::1]:{port_of(listener)}"
    assert listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@needs_ipv6
@pytest.mark.parametrize("spelling", ["[::]", "[0::0]"])
def test_all_interfaces_are_those_of_both_versions(listen: Listen, spelling: str) -> None:
    (listener,) = listen(f"{spelling}:0")
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port_of(listener))).close()


@needs_ipv6
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
@pytest.mark.parametrize("order", [1, -1])
def test_another_address_of_the_port_takes_its_ipv4_clients(listen: Listen, host: str, order: int) -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))  # a port that nobody has on any interface
        port = probe.getsockname()[1]
    opened = {listener.socket.family: listener for listener in listen(*[f"[::]:{port}", f"{host}:{port}"][::order])}
    with socket.create_connection(("127.0.0.1", port)) as client:
        accepted, peer = opened[socket.AF_INET].socket.accept()
        assert peer == client.getsockname()
        accepted.close()
    socket.create_connection(("::1", port)).close()


def test_a_name_in_no_folder(listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"pyserve-test-{os.getpid()}"
    (listener,) = listen(f"unix:@{name}")
    assert listener.url == f"unix:@{name}"
    assert not listener.lost
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{name}")
    assert refusal(f"unix:@{name}") == f"cannot listen on unix:@{name}: address already in use"
    resumed = Listener.resume({**listener.carried(), "fd": os.dup(listener.fileno())})
    assert resumed.url == listener.url
    resumed.close(unlink=True)
    assert list(tmp_path.iterdir()) == []


def test_a_socket_whose_file_is_gone_or_anothers_is_lost(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (listener,) = listen(f"unix:{path}")
    assert not listener.lost
    path.unlink()
    lost = [listener.lost]
    path.touch()
    assert [*lost, listener.lost] == [True, True]


def test_name_with_addresses_of_both_families_is_ipv4(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = (socket.SOCK_STREAM, 6, "")
    found = [
        (socket.AF_INET6, *stream, ("::1", 0, 0, 0)),
        (socket.AF_INET, *stream, ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    (listener,) = listen("localhost:0")
    assert listener.server_name == "127.0.0.1"


def test_port_in_use_names_who_has_it(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    where = f"127.0.0.1:{port_of(listener)}"
    us = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    assert holder_of(port_of(listener)) == us
    assert refusal(where) == f"cannot listen on {where}: the port is in use by {us}; choose another with --bind"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the timer of pytest-timeout is a thread
@pytest.mark.skipif(not ROOT, reason="the holder must be somebody else's")
def test_port_in_use_by_somebody_whose_name_is_not_ours_to_know(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    where = f"127.0.0.1:{port_of(listener)}"
    assert refusal_for_nobody(where, without=listener.fileno()) == (
        f"cannot listen on {where}: the port is in use by another process; choose another with --bind"
    )


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_low_port_without_rights() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("here everybody may have port 81")
    assert refusal_for_nobody("127.0.0.1:81") == (
        "cannot listen on 127.0.0.1:81: not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    )


def test_unknown_host() -> None:
    text = refusal("nowhere.invalid:8000")
    assert text.startswith("cannot listen on nowhere.invalid:8000: the host is not known (")
    assert refusal(f"{'x' * 64}.org:8000").startswith(f"cannot listen on {'x' * 64}.org:8000: the host is not known (")


def test_address_of_another_machine() -> None:
    assert refusal("192.0.2.1:8000") == "cannot listen on 192.0.2.1:8000: this machine has no such address"


def test_one_refused_address_closes_the_others(tmp_path: Path, listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    path = tmp_path / "s"
    refusal(f"unix:{path}", f"127.0.0.1:{port_of(listener)}")
    assert not path.exists()


# Unix sockets.


def test_unix_socket(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (listener,) = listen(f"unix:{path}")
    assert listener.url == f"unix:{path}"
    assert (listener.server_name, listener.server_port, listener.tcp) == ("localhost", "80", False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close(unlink=True)
    assert not path.exists()
    listener.close(unlink=True)  # somebody removed it: no matter


def test_unix_socket_is_left_by_those_who_did_not_make_it(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (listener,) = listen(f"unix:{path}")
    listener.close(unlink=False)
    assert path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_mode_of_a_unix_socket(listen: Listen, tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        listen(f"unix:{tmp_path}/s", mode=mode)
        assert os.umask(0o077) == 0o077, "the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_owner_of_a_unix_socket(listen: Listen, tmp_path: Path) -> None:
    listen(f"unix:{tmp_path}/s", owner=(NOBODY, NOBODY))
    found = (tmp_path / "s").stat()
    assert (found.st_uid, found.st_gid) == (NOBODY, NOBODY)


def test_socket_of_a_server_that_is_gone_is_replaced(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    assert path.is_socket()
    listen(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_of_a_living_server_is_not_taken_away(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (listener,) = listen(f"unix:{path}")
    assert refusal(f"unix:{path}") == f"cannot listen on unix:{path}: pid {os.getpid()} listens there"
    wait_for(lambda: select.select([listener], [], [], 0)[0], "the probe")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_of_a_server_whose_queue_is_full_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        assert refusal(f"unix:{path}") == f"cannot listen on unix:{path}: another process listens there"


@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_what_is_not_a_socket_is_never_removed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "s"
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    assert refusal(f"unix:{path}") == (
        f"cannot listen on unix:{path}: a file that is not a socket is there; remove or rename it"
    )
    assert path.is_symlink() or path.exists()


def test_unix_socket_in_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "s"
    assert refusal(f"unix:{path}") == f"cannot listen on unix:{path}: no such file or directory"


# Inherited sockets.


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        yield sock


def test_inherited_socket(inherited: socket.socket) -> None:
    listener = adopt(os.dup(inherited.fileno()))
    assert listener.inherited
    assert listener.url == f"http://127.0.0.1:{inherited.getsockname()[1]}"
    assert not os.get_inheritable(listener.fileno())
    assert not listener.socket.getblocking()
    listener.close(unlink=True)


def test_sockets_of_the_service_manager_replace_the_addresses(listen: Listen, inherited: socket.socket) -> None:
    listeners = listen("127.0.0.1:1", "unix:/nowhere/s", activated=(os.dup(inherited.fileno()),))
    assert [listener.url for listener in listeners] == [f"http://127.0.0.1:{inherited.getsockname()[1]}"]


def test_descriptor_as_an_address(listen: Listen, inherited: socket.socket) -> None:
    (listener,) = listen(f"fd://{os.dup(inherited.fileno())}")
    assert listener.inherited


def test_file_of_an_inherited_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        listener = adopt(os.dup(made.fileno()))
        assert listener.url == f"unix:{path}"
        listener.close(unlink=True)
        assert path.exists()


def test_descriptor_that_is_closed() -> None:
    fd = os.dup(0)
    os.close(fd)
    assert refusal(f"fd://{fd}") == f"cannot listen on fd://{fd}: Bad file descriptor; it must be an open socket"


def test_descriptor_that_is_no_socket() -> None:
    reader, writer = os.pipe()
    assert refusal(f"fd://{reader}") == (
        f"cannot listen on fd://{reader}: Socket operation on non-socket; it must be an open socket"
    )
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_descriptor_that_does_not_listen(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        if kind == socket.SOCK_SEQPACKET:
            sock.bind(f"\0pyserve-test-{os.getpid()}")
            sock.listen()
        fd = sock.fileno()
        assert refusal(f"fd://{fd}") == f"cannot listen on fd://{fd}: it is not a listening stream socket"
        assert sock.type == kind, "it is still open, and its owner's"


# The end: no new handshakes.


def test_new_handshakes_wait_for_the_successor(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    port = port_of(listener)
    with connect(listener) as early:
        drop_new_handshakes(listener.fileno())
        with begin_to_connect(port) as late:
            assert not is_connected(late, SETTLED)
            # What was in the queue is served.
            accepted, peer = listener.socket.accept()
            assert peer == early.getsockname()
            early.sendall(b"hello")
            accepted.setblocking(True)
            assert accepted.recv(10) == b"hello"
            with pytest.raises(BlockingIOError):
                listener.socket.accept()
            # The kernel sends the late one's SYN again, and by then another server listens.
            listener.close(unlink=True)
            accepted.close()
            listen(f"127.0.0.1:{port}")
            assert is_connected(late, 60)


def test_handshake_under_way_completes(listen: Listen) -> None:
    """TCP_DEFER_ACCEPT keeps one half open until the client sends something."""
    (listener,) = listen("127.0.0.1:0")
    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
    assert not handshakes_under_way(listener)
    with connect(listener) as client:
        wait_for(lambda: handshakes_under_way(listener), "the half-open connection")
        drop_new_handshakes(listener.fileno())
        client.sendall(b"hello")
        wait_for(lambda: select.select([listener], [], [], 0)[0], "the connection")
        accepted, _ = listener.socket.accept()
        accepted.setblocking(True)
        assert accepted.recv(10) == b"hello"
        accepted.close()
        assert not handshakes_under_way(listener)


def test_established_and_queued_connections_are_no_handshakes(listen: Listen) -> None:
    (listener,) = listen("127.0.0.1:0")
    with connect(listener):
        assert not handshakes_under_way(listener)


def test_who_waits_is_accepted_once_and_a_closed_listener_is_closed_once(listen: Listen, tmp_path: Path) -> None:
    (unix,) = listen(f"unix:{tmp_path}/socket")
    with connect_unix(unix) as client:
        found = unix.accept()
        assert found is not None
        with found[0] as accepted:
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"
            with pytest.raises(BlockingIOError):
                accepted.recv(10)
        assert unix.accept() is None
    unix.close(unlink=True)
    assert not unix.owned
    Path(unix.path).touch()  # a successor's
    unix.close(unlink=True)
    assert Path(unix.path).exists()


def connect_unix(listener: Listener) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.path)
    return client


def test_dropping_handshakes_of_what_is_no_socket() -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="non-socket"):
        drop_new_handshakes(reader)
    os.close(reader)
    os.close(writer)
