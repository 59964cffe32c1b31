"""The logs of a running server."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from lifecycle.project import Project
from support import serve


@pytest.mark.usefixtures("worker_class")
def test_usr1_reopens_the_logs_of_every_process(project: Project) -> None:
    access, errors = project.folder / "access.log", project.folder / "error.log"
    options = ("--workers", "2", "--access-logfile", str(access), "--error-logfile", str(errors))
    project.append(
        "\ndef talks(environ, start_response):\n"
        "    print(environ['PATH_INFO'], file=environ['wsgi.errors'])\n"
        "    return wsgi(environ, start_response)\n"
    )
    with serve("app:talks", *options, cwd=project.folder, error_log=errors) as server:
        server.get("/before")
        server.wait_for(lambda: "/before" in access.read_text())
        access.rename(project.folder / "access.1")
        errors.rename(project.folder / "error.1")
        server.signal(signal.SIGUSR1)
        server.wait_for(lambda: errors.exists() and "log files reopened" in errors.read_text())

        def both_workers_write_there() -> bool:
            server.get("/after")
            pids = {
                line.partition(" pid ")[2].split()[0] for line in errors.read_text().splitlines() if "/after" in line
            }
            return pids == set(map(str, server.workers())) and access.exists() and "/after" in access.read_text()

        server.wait_for(both_workers_write_there)
        assert errors.stat().st_mode & 0o777 == 0o640


@pytest.mark.usefixtures("worker_class")
def test_the_access_log_on_standard_output_is_one_json_object_a_line(project: Project) -> None:
    with serve(
        "app:wsgi", "--workers", "1", "--access-logfile", "-", "--access-logformat", "json", cwd=project.folder
    ) as server:
        server.get('/a"b\\c?x=%0a', headers={"User-Agent": 'evil"} {"forged": 1'})
        server.wait_for_log("forged")
        line = next(line for line in server.log.splitlines() if "forged" in line)
        entry = json.loads(line)
        assert entry["status"] == 200
        assert 'evil"} {"forged": 1' in entry.values()


def test_an_access_log_that_would_say_nothing_does_not_start(project: Project) -> None:
    options = ("--access-logfile", "-", "--access-logformat", "jsno")
    with serve("app:wsgi", *options, cwd=project.folder, ready=False) as server:
        assert server.wait() == 78
        said = [line for line in server.log.splitlines() if "access_logformat" in line]
        assert len(said) == 1
        assert "access_logformat: 'jsno' says nothing of a request; give combined, json, or " in said[0]
        assert "Traceback" not in server.log


def test_a_worker_logs_without_rights_to_the_log_file(project: Project) -> None:
    """The master opened it; a worker that dropped its privileges still writes, also after a USR1."""
    if os.getuid() != 0:
        return
    errors = project.folder / "error.log"
    for folder in (project.folder, *project.folder.parents):
        if str(folder).startswith("/tmp/"):
            os.chmod(folder, 0o755)
    project.append("\nimport sys\n@pyserve.on_destroy\ndef stop(signal):\n    raise ValueError('seen in the log')\n")
    options = ("--workers", "1", "--user", "nobody", "--error-logfile", str(errors))
    with serve("app:wsgi", *options, cwd=project.folder, error_log=errors) as server:
        errors.rename(project.folder / "error.1")
        server.signal(signal.SIGUSR1)
        server.wait_for(lambda: errors.exists() and "log files reopened" in errors.read_text())
        server.get("/")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "seen in the log" in errors.read_text()
    assert Path(errors).stat().st_uid == 0


@pytest.mark.usefixtures("worker_class")
def test_a_scanner_has_a_line_and_a_count_however_much_it_asks(project: Project) -> None:
    """Each request in the access log, and the rest in two lines: the last count is told when the worker ends."""
    access = project.folder / "access.log"
    with serve("app:wsgi", "--workers", "1", "--access-logfile", str(access), cwd=project.folder) as server:
        for number in range(500):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(b"GET /admin/%d HTTP/1.1\r\nHost: x\r\n.: x\r\nbad name: x\r\n\r\n" % number)
                while client.recv(4096):
                    pass
        told = [line for line in server.log.splitlines() if "refused with" in line]
        assert len(told) == 1
        server.stop()
        told = [line for line in server.log.splitlines() if "refused with" in line]
        assert len(told) == 2
        assert "  127.0.0.1: refused with 400: " in told[1]
        assert ": 499 times more in " in told[1]
        assert "admin" not in "".join(told)
        assert access.read_text().count(" 400 ") == 500
