"""A root master beside other users: files that they can exchange, and files that are another server's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.operator import ctl
from lifecycle.project import Project
from support import serve
from support.attacker import NOBODY, Attacker, open_folder
from support.processes import GENEROUS

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose here")


def answers(path: Path) -> bool:
    """Is there a server at this unix socket?"""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(GENEROUS)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"


@pytest.fixture
def public() -> Iterator[Project]:
    """A project that workers of every user can read."""
    with open_folder() as folder:
        yield Project(folder)


@contextlib.contextmanager
def restless(path: Path, target: Path) -> Iterator[None]:
    """Meanwhile the file at ``path`` is exchanged for a link to ``target`` again and again."""
    over = threading.Event()

    def exchange(attacker: Attacker) -> None:
        while not over.is_set():
            attacker.do("link", path, target)
            attacker.do("remove", path)

    with Attacker() as attacker:
        thread = threading.Thread(target=exchange, args=(attacker,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@root
def test_who_exchanges_the_socket_of_a_root_master_for_a_link_gets_nothing(public: Project) -> None:
    secret, theirs = public.folder / "secret", public.folder / "theirs"
    secret.write_text("root's")
    secret.chmod(0o600)
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    path = theirs / "app.sock"
    options = ("app:wsgi", "--workers", "1", "--user", "nobody", "--bind", f"unix:{path}")
    with restless(path, secret):
        for _ in range(5):
            with serve(*options, cwd=public.folder, ready=False) as server:
                server.wait_for(lambda s=server: s.process.poll() is not None or "ready: 1 worker" in s.log)  # type: ignore[misc]
                if server.process.poll() is not None:
                    assert server.process.returncode == 69
                    assert server.log.count("\n") == 1
                    assert f"cannot listen on unix:{path}: " in server.log
            found = secret.stat()
            assert (found.st_uid, found.st_mode & 0o777, secret.read_text()) == (0, 0o600, "root's")
    path.unlink(missing_ok=True)
    with serve(*options, cwd=public.folder):
        assert path.stat().st_uid == NOBODY
        assert answers(path)
    assert not path.exists()


def test_two_sites_with_one_runtime_directory_do_not_take_each_others_socket(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runtime = tmp_path_factory.mktemp("run")
    environ = {"RUNTIME_DIRECTORY": str(runtime)}
    with serve("app:wsgi", "--workers", "1", cwd=project.folder, env=environ) as server:
        with serve("app:wsgi", cwd=project.folder, env=environ, ready=False) as other:
            assert other.wait() == 69
            assert f"{runtime}/pyserve.ctl: pid {server.pid} listens there" in other.log
            assert "a RuntimeDirectory of its own" in other.log
        assert f"pid {server.pid}" in ctl(project, "--socket", str(runtime / "pyserve.ctl"), "status")


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_server_that_stops_leaves_a_newer_ones_files_where_they_are(project: Project, upgraded: bool) -> None:
    paths = [project.folder / name for name in ("app.sock", "app.ctl", "app.pid")]
    sock, control, pid = map(str, paths)
    options = ("--workers", "1", "--bind", f"unix:{sock}", "--control-socket", control, "--pid", pid)
    with serve("app:wsgi", *options, cwd=project.folder) as older:
        if upgraded:
            older.signal(signal.SIGUSR2)
            older.wait_for_log("upgraded: ")
        for path in paths:
            path.unlink()
        with serve("app:wsgi", *options, cwd=project.folder) as newer:
            older.stop()
            assert answers(paths[0])
            assert f"pid {newer.pid}" in ctl(project, "--socket", control, "status")
            assert paths[2].read_text() == f"{newer.pid}\n"
    assert not any(path.exists() for path in paths)
