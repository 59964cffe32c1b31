"""A site in /srv/myapp of a machine, run by the units of deploy/systemd as they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import requests

from support.processes import GENEROUS, children, title, wait_for
from systemd.machine import Machine

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAME = "pyserve.service"
AT_ONCE = "ExecReload=\nExecReload=/bin/kill -HUP $MAINPID"  # for the drop-in: what the unit says to do instead
APP = """
import os, time

VERSION = "one"
time.sleep(float(os.environ.get("SLOW_IMPORT", "0")))

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{VERSION} {os.getpid()}".encode()]
"""
# The machine has none of the usual targets. Its root's Python may lie in root's home, so the service runs as root here.
FOR_TESTS = """
[Unit]
DefaultDependencies=no
[Service]
DynamicUser=no
ProtectHome=no
StandardOutput=append:/srv/myapp/log
StandardError=append:/srv/myapp/log
"""


class Service:
    """``pyserve.service``: its files, its log, and what it answers."""

    def __init__(self, machine: Machine, folder: Path, settings: str = "", drop_in: str = "", name: str = NAME) -> None:
        self.machine = machine
        self.name = name
        self.folder = folder
        self.url = ""
        (folder / "myapp.py").write_text(APP)
        (folder / "pyserve.toml").write_text(f'bind = ["127.0.0.1:0"]\nworkers = 2\nreload_soak = 0.2\n{settings}\n')
        if not (folder / "venv").exists():
            (folder / "venv").symlink_to(sys.prefix)
        machine.write(name, (UNITS / NAME).read_text())
        # A checkout below /tmp would be hidden by the service's own one.
        private = "no" if sys.prefix.startswith(("/tmp/", "/var/tmp/")) else "yes"
        machine.write(f"{name}.d/test.conf", f"{FOR_TESTS}PrivateTmp={private}\n{drop_in}")
        machine.systemctl("daemon-reload")

    def systemctl(self, verb: str) -> None:
        """``systemctl start`` and the like; the service's log is printed if it fails."""
        try:
            self.machine.systemctl(verb, self.name)
        except AssertionError:
            print(self.machine.systemctl("status", self.name, check=False), self.log, sep="\n")
            raise
        if verb in ("start", "restart"):
            self.url = re.findall(r"listening on (\S+)", self.log)[-1]

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def wait_for_log(self, pattern: str) -> None:
        wait_for(lambda: re.search(pattern, self.log), f"{pattern!r} in the log")

    def show(self, name: str) -> str:
        return self.machine.show(self.name, name)

    def master(self) -> int:
        """The master's pid, as seen from here."""
        return self.machine.outside(int(self.show("MainPID")))

    def workers(self) -> list[int]:
        return [pid for pid in children(self.master()) if title(pid).startswith("pyserve: worker")]

    def in_app(self) -> bool:
        """Does a worker sleep in the app? The kernel says so: it waits in nanosleep."""
        return any("nanosleep" in Path(f"/proc/{pid}/wchan").read_text() for pid in self.workers())

    def get(self, path: str = "/") -> str:
        """The answer to a request over a connection of its own."""
        response = requests.get(self.url + path, timeout=GENEROUS)
        assert response.status_code == 200
        return response.text
