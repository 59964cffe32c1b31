"""The control socket's file: whose it is, what it replaces and what it leaves alone."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pyserve.errors import BindError, ExitCode
from pyserve.master.controlsocket import ControlSocket, ForbiddenError
from pyserve.system.socketfile import credentials


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pyserve.ctl"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_its_mode_is_0600_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        control = ControlSocket.listen(str(path))
        assert os.umask(umask) == umask, "it is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    control.close()
    assert not path.exists()


def test_a_client_of_the_same_user_is_accepted_and_known(path: Path) -> None:
    control = ControlSocket.listen(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with control.accept() as accepted:
            assert credentials(accepted) == credentials(client) == (os.getpid(), os.geteuid())
            with pytest.raises(BlockingIOError):
                accepted.recv(1)
    with pytest.raises(BlockingIOError):
        control.accept()
    control.close()


def test_a_client_of_another_user_is_hung_up_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = ControlSocket.listen(str(path))
    monkeypatch.setattr("pyserve.master.controlsocket.credentials", lambda _: (4711, os.geteuid() + 1))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with pytest.raises(ForbiddenError, match="pid 4711 of uid"):
            control.accept()
        assert client.recv(1) == b""
    control.close()


def test_the_socket_of_a_dead_server_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    ControlSocket.listen(str(path)).close()


def test_a_living_server_is_named_and_left_alone(path: Path) -> None:
    first = ControlSocket.listen(str(path))
    with pytest.raises(BindError, match=rf"pid {os.getpid()} listens there") as failure:
        ControlSocket.listen(str(path))
    assert failure.value.exit_code == ExitCode.BIND
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_neither_files_nor_symbolic_links_are_replaced_or_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for make in (lambda: path.write_text("kept"), lambda: path.symlink_to(target)):
        make()
        with pytest.raises(BindError, match="a file that is not a socket is there"):
            ControlSocket.listen(str(path))
        assert os.path.lexists(path)
        path.unlink()
    assert not target.exists()


def test_a_link_to_a_living_socket_is_not_followed(path: Path, tmp_path: Path) -> None:
    living = ControlSocket.listen(str(tmp_path / "living"))
    path.symlink_to(tmp_path / "living")
    with pytest.raises(BindError, match="not a socket"):
        ControlSocket.listen(str(path))
    living.close()


@pytest.mark.parametrize(
    "name, reason", [("no/such/folder/ctl", "no such file or directory"), ("x" * 200, "af_unix path too long")]
)
def test_a_path_that_cannot_be_is_told_in_one_line(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(BindError) as failure:
        ControlSocket.listen(str(tmp_path / name))
    assert reason in failure.value.message


def test_the_end_leaves_another_servers_socket_where_it_is(path: Path) -> None:
    first = ControlSocket.listen(str(path))
    path.unlink()
    second = ControlSocket.listen(str(path))
    first.close()
    assert path.is_socket()
    second.close()
