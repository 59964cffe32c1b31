"""Under a real supervisord, which sends a TERM to all processes of a program if it is told to (``stopasgroup``)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifecycle.load import Load
from support import WORKER_CLASSES
from support.processes import GENEROUS, descendants, wait_for

APP = """
import time

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        environ["wsgi.errors"].write("asleep\\n")
        time.sleep(3)
    start_response("200 OK", [])
    return [b"hello"]
"""
CONFIG = """
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid

[program:web]
command = {python} -m pyserve app:wsgi --bind 127.0.0.1:0 --workers 2 --worker-class {worker_class}
directory = {folder}
stopasgroup = true
stopwaitsecs = 60
redirect_stderr = true
stdout_logfile = {folder}/log
"""


@contextmanager
def supervised(folder: Path, worker_class: str) -> Iterator[subprocess.Popen[bytes]]:
    program = Path(sys.executable).with_name("supervisord")
    found = program if program.exists() else shutil.which("supervisord")
    if not found:
        pytest.skip("supervisord is not installed (pip install supervisor)")
    config = folder / "supervisord.conf"
    config.write_text(CONFIG.format(folder=folder, python=sys.executable, worker_class=worker_class))
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([found, "-c", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    except BaseException:
        print((folder / "output").read_text(), log(folder))
        raise
    finally:
        process.terminate()
        process.wait(GENEROUS)


def log(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else ""


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
def test_stopasgroup_loses_nothing(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    with supervised(tmp_path, worker_class) as process:
        wait_for(lambda: "ready: 2 workers" in log(tmp_path) or process.poll() is not None, "the server")
        found = re.search(r"listening on (\S+)", log(tmp_path))
        assert found
        url = found[1]
        pids = descendants(process.pid)
        assert len({os.getpgid(pid) for pid in pids}) == 1
        with (
            Load(url, threads=2) as fresh,
            Load(url, threads=2, reuse=True, pause=0.02) as kept,
            Load(url, "/slow", threads=1) as slow,
        ):
            wait_for(lambda: "asleep" in log(tmp_path) and len(fresh.answers) > 20 and len(kept.answers) > 20)
            slow.stopped.set()
            process.terminate()
            process.wait(GENEROUS)
            for load in (fresh, kept, slow):
                load.stop()
    assert fresh.failures == slow.failures == []
    assert {type(failure) for failure in kept.failures} <= {ConnectionRefusedError}, "it connects again and again"
    assert {status for status, _ in fresh.answers + kept.answers + slow.answers} == {200}
    assert "stopped; the stop cut no request" in log(tmp_path)
    assert not {"error", "crit", "warn"} & set(log(tmp_path).split()), log(tmp_path)
