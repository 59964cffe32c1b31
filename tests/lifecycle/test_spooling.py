"""Large bodies in files: as many as a worker may have, and a directory for them that its user can use."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.operator import ctl, serving, status
from lifecycle.project import Project
from support import Server, serve

MIB = 1 << 20
SIZE = 3 * MIB  # of bodies: more than body_buffer
READS = """
def wsgi(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [str(len(body)).encode()]
"""
NO_ROOM = "refused with 503: there is no room for so large a body now"


@pytest.fixture
def project(project: Project) -> Project:
    project.app.write_text(READS)
    return project


def post(server: Server, size: int) -> tuple[int, str]:
    response = server.request("POST", "/", data=b"x" * size)
    return response.status_code, response.text


def ask(server: Server, size: int) -> bytes:
    """The first line of the answer to a client that asks before it sends a body."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size)
        return client.makefile("rb").readline()


@pytest.mark.usefixtures("worker_class")
def test_the_files_of_a_worker_have_a_bound_and_the_status_shows_them(project: Project) -> None:
    limits = ("--workers", "1", "--spool-limit", "8M", "--limit-request-body", "8M", "--response-spool", "8M")
    with serving(project, *limits) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (6 * MIB) + b"x" * (5 * MIB))
            server.wait_for(lambda: status(project)["workers"][0]["spooled"] == 5 * MIB)
            assert status(project)["totals"]["spooled"] == 5 * MIB
            assert "5.0 MiB" in ctl(project, "status")
            assert ask(server, 3 * MIB) == b"HTTP/1.1 100 Continue\r\n"
            assert ask(server, 3 * MIB + 1) == b"HTTP/1.1 503 Service Unavailable\r\n"
            server.wait_for_log(NO_ROOM)
            assert post(server, 2 * MIB) == (200, str(2 * MIB))
            client.sendall(b"x" * MIB)
            assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        server.wait_for(lambda: status(project)["workers"][0]["spooled"] == 0)


# A directory that cannot be used.


def open_to_all(folder: Path) -> None:
    for each in (folder, *folder.parents):
        if str(each).startswith("/tmp/"):
            os.chmod(each, 0o755)


def closed_to_the_user(folder: Path) -> tuple[tuple[str, ...], str]:
    folder.mkdir(mode=0o500)
    if os.geteuid() != 0:
        return (), "Permission denied"
    open_to_all(folder.parent)
    return ("--user", "nobody"), "Permission denied"


def full(folder: Path) -> tuple[tuple[str, ...], str]:
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=4k,mode=777 tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    (folder / "fill").write_bytes(b"x" * 4096)
    return (), "No space left on device"


def read_only(folder: Path) -> tuple[tuple[str, ...], str]:
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o ro tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    return (), "Read-only file system"


def no_directory(folder: Path) -> tuple[tuple[str, ...], str]:
    folder.touch()
    return (), "Not a directory"


@pytest.fixture(params=[closed_to_the_user, full, read_only, no_directory], ids=lambda kind: kind.__name__)
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...], str]]:
    """A directory, the options with which it cannot be used, and why not."""
    folder = tmp_path / "spool"
    try:
        yield (folder, *request.param(folder))
    finally:
        if request.param in (full, read_only):
            os.system(f"umount {folder} 2>/dev/null")


def test_a_spool_dir_that_was_chosen_and_cannot_be_used_ends_the_start(
    project: Project, unusable: tuple[Path, tuple[str, ...], str]
) -> None:
    folder, options, why = unusable
    with serve("app:wsgi", *options, "--spool-dir", str(folder), cwd=project.folder, ready=False) as server:
        assert server.wait() == 78
        assert f"spool_dir = {folder} (--spool-dir): " in server.log
        assert why in server.log or "no such directory" in server.log
        assert "ready: " not in server.log


def test_it_is_found_by_check_config(project: Project, unusable: tuple[Path, tuple[str, ...], str]) -> None:
    folder, options, _ = unusable
    arguments = ("app:wsgi", *options, "--spool-dir", str(folder), "--check-config")
    with serve(*arguments, cwd=project.folder, ready=False) as server:
        assert server.wait() == 78
        assert f"spool_dir = {folder} (--spool-dir): " in server.log


@pytest.mark.usefixtures("worker_class")
def test_one_that_nobody_chose_leaves_bodies_in_memory(
    project: Project, unusable: tuple[Path, tuple[str, ...], str]
) -> None:
    """Said once, also where the app is not preloaded, so that a second zygote has to be started."""
    folder, options, why = unusable
    limits = ("--workers", "2", "--buffer-memory", "8M")
    project.append("\nimport threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n")
    with serve("app:wsgi", *options, *limits, cwd=project.folder, env={"TMPDIR": str(folder)}) as server:
        assert server.log.count(f"{folder}: large bodies and responses cannot be stored there") == 1
        assert why in server.log
        assert "answered with 503: set spool_dir" in server.log
        assert post(server, SIZE) == (200, str(SIZE))
        assert ask(server, 9 * MIB) == b"HTTP/1.1 503 Service Unavailable\r\n"
        assert post(server, SIZE) == (200, str(SIZE))
        server.wait_for_log(NO_ROOM)
        assert " error " not in server.log


def test_a_reload_to_one_that_cannot_be_used_is_refused(
    project: Project, unusable: tuple[Path, tuple[str, ...], str]
) -> None:
    folder, options, why = unusable
    with serve("app:wsgi", "--workers", "1", *options, cwd=project.folder) as server:
        workers = server.workers()
        (project.folder / "pyserve.toml").write_text(f'spool_dir = "{folder}"\n')
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"spool_dir = {folder} \(pyserve.toml line 1\): ")
        server.wait_for_log("reload aborted, nothing was changed|reload refused")
        assert why in server.log or "no such directory" in server.log
        assert server.workers() == workers
        assert post(server, SIZE) == (200, str(SIZE))
        (project.folder / "pyserve.toml").unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
