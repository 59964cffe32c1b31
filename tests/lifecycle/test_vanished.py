"""Files of a server that vanish while it serves, or that were left by one that crashed; and names without files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests

from lifecycle.operator import ctl
from lifecycle.project import Project
from support import serve


@pytest.mark.parametrize(
    "number, done", [(signal.SIGHUP, "reload done"), (signal.SIGUSR2, "upgraded: ")], ids=["HUP", "USR2"]
)
def test_a_control_socket_that_has_vanished_is_made_again(project: Project, number: int, done: str) -> None:
    """Also with its folder: systemd removes a RuntimeDirectory with whatever service stops that names it."""
    folder = project.folder / "run"
    folder.mkdir()
    path = folder / "pyserve.ctl"
    with serve("app:wsgi", "--workers", "1", "--control-socket", str(path), cwd=project.folder) as server:
        for times in (1, 2):
            shutil.rmtree(folder)
            server.signal(number)
            for pattern in ("had vanished; it is there again", done):
                server.wait_for_log("(?s)" + ".*".join([pattern] * times))
            assert f"pid {server.pid}" in ctl(project, "--socket", str(path), "status")
    assert not path.exists()


def test_a_control_socket_that_cannot_be_made_again_is_not_said_to_be_there(project: Project) -> None:
    path = project.folder / "pyserve.ctl"
    with serve("app:wsgi", "--workers", "1", "--control-socket", str(path), cwd=project.folder) as server:
        path.unlink()
        path.write_text("precious")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgraded: ")
        assert server.log.count("the control socket has vanished, and pyserve serves without one: ") >= 1
        assert server.log.count("control socket: ") == 1  # at the start
        path.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log("it is there again")
        assert f"pid {server.pid}" in ctl(project, "--socket", str(path), "status")


def test_a_socket_that_has_vanished_is_told_at_a_reload(project: Project) -> None:
    path = project.folder / "app.sock"
    with serve("app:wsgi", "--workers", "1", "--bind", f"unix:{path}", cwd=project.folder) as server:
        path.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log(f"unix:{path} has vanished, clients cannot connect; only a restart makes it again")
        server.wait_for_log("reload done")


def test_a_pidfile_whose_number_is_somebody_elses_by_now_does_not_keep_the_server_from_starting(
    project: Project,
) -> None:
    path = project.folder / "pyserve.pid"
    options = ("app:wsgi", "--workers", "1", "--pid", str(path))
    with subprocess.Popen(["sleep", "600"]) as younger:
        path.write_text(f"{younger.pid}\n")
        os.utime(path, (0, time.time() - 3600))
        with serve(*options, cwd=project.folder) as server:
            assert path.read_text() == f"{server.pid}\n"
            server.signal(signal.SIGUSR2)
            server.wait_for_log("upgraded: ")
            os.utime(path, (0, 0))
            with serve(*options, cwd=project.folder, ready=False) as second:  # the lock has outlived the upgrade
                assert second.wait() == 78
                assert f"pid {server.pid} is running" in second.log
        younger.kill()


def test_clients_of_both_ip_versions(project: Project) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    project.replace('f"{VERSION} {os.getpid()}"', 'environ["REMOTE_ADDR"]')
    with serve("app:wsgi", "--workers", "1", "--bind", "[::]:0", cwd=project.folder) as server:
        for host, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            assert requests.get(f"http://{host}:{server.port}/", timeout=60).text == address


@pytest.mark.usefixtures("worker_class")
def test_a_name_in_no_folder(project: Project) -> None:
    name = f"pyserve-test-{os.getpid()}"

    def answer() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{name}")
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.makefile("rb").read()

    with serve("app:wsgi", "--workers", "1", "--bind", f"unix:@{name}", cwd=project.folder) as server:
        assert b" 200 OK" in answer()
        for number, done in ((signal.SIGHUP, "reload done"), (signal.SIGUSR2, "upgraded: ")):
            server.signal(number)
            server.wait_for_log(done)
            assert b" 200 OK" in answer()
        assert "vanished" not in server.log


def test_the_control_socket_is_a_file(project: Project) -> None:
    with serve("app:wsgi", "--control-socket", "@name", cwd=project.folder, ready=False) as server:
        assert server.wait() == 2
        assert server.log == (
            'pyserve: --control-socket "@name": expected a path: who may connect to a name that is in no folder '
            "cannot be limited\n"
        )
