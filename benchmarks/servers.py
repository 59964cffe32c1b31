"""The servers, each with one worker on one core: what command starts it, and which cases it can be asked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import environment
from cases import CASES, CLOSING, GREETING, Case

HOST = "127.0.0.1"
THREAD_CASES = [key for key, case in CASES.items() if case.threads]
APP_CASES = [key for key in CASES if key != "log" and key not in THREAD_CASES]
WAITING_CASES = [*APP_CASES, "io"]  # of servers that have many requests in the app at once
FIXED_CASES = ["hello", "browser", "fresh", "close"]  # what nginx can answer by itself
LIMIT_CASES = [*FIXED_CASES, "10k", "1m", "post"]


class Server(NamedTuple):
    title: str
    command: Callable[[Case, int, Path], list[str]]  # what to run for a case on a port, with a scratch folder
    distribution: str | None  # its name on PyPI
    cases: list[str]  # the keys of CASES that make sense for it


class AbsentError(Exception):
    """A server cannot be had here; the text says why."""


def program(name: str) -> str:
    path = environment.BIN / name
    if not path.exists():
        raise AbsentError("not installed")
    return str(path)


def pyserve(case: Case, port: int, scratch: Path, log: bool = True, kind: str = "sync") -> list[str]:
    command = [program("pyserve"), case.app, "--bind", f"{HOST}:{port}", "--workers", "1", "--worker-class", kind]
    if log and case == CASES["log"]:
        command += ["--access-logfile", str(scratch / "access.log")]
    return command


def pyserve_threads(case: Case, port: int, scratch: Path) -> list[str]:
    return [*pyserve(case, port, scratch), "--threads", str(case.threads or 8)]


def gunicorn(kind: str, case: Case, port: int, _scratch: Path) -> list[str]:
    command = [program("gunicorn"), case.app, "--bind", f"{HOST}:{port}", "--workers", "1", "--worker-class", kind]
    threads = ["--threads", str(case.threads or 8)] if kind == "gthread" else []
    return [*command, "--no-control-socket", *threads]


def granian(case: Case, port: int, _scratch: Path) -> list[str]:
    where = ["--interface", "wsgi", "--host", HOST, "--port", str(port)]
    threads = ["--blocking-threads", str(case.threads or 1)]
    return [program("granian"), *where, "--workers", "1", *threads, "--no-access-log", case.app]


def uwsgi(case: Case, port: int, _scratch: Path) -> list[str]:
    # Its http11-socket keeps connections alive, but one process then serves only one of them.
    # Without keep-alive it closes each connection, and must be told to say so.
    module, _, name = case.app.partition(":")
    says_so = ["--add-header", "Connection: close"]
    where = ["--http-socket", f"{HOST}:{port}", "--module", module, "--callable", name, "--need-app"]
    return [program("uwsgi"), *where, "--master", "--processes", "1", "--listen", "1024", "--disable-logging", *says_so]


def waitress(case: Case, port: int, _scratch: Path) -> list[str]:
    return [program("waitress-serve"), "--listen", f"{HOST}:{port}", "--threads", str(case.threads or 1), case.app]


def launched(name: str, case: Case, port: int, _scratch: Path) -> list[str]:
    return [program("python"), str(environment.HERE / "launch.py"), name, case.app, str(port)]


NGINX = """
daemon off;
worker_processes 1;
pid {scratch}/nginx.pid;
error_log {scratch}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {scratch}/client;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    default_type text/plain;
    server {{
        listen {host}:{port} backlog=2048;
        location / {{ return 200 "{body}"; }}
    }}
}}
"""


def nginx_path() -> str:
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if path is None:
        raise AbsentError("Debian package nginx-light is not installed")
    return path


def nginx(_case: Case, port: int, scratch: Path) -> list[str]:
    settings = scratch / "nginx.conf"
    settings.write_text(NGINX.format(scratch=scratch, host=HOST, port=port, body=GREETING.decode()))
    return [nginx_path(), "-c", str(settings)]


def limit(case: Case, port: int, _scratch: Path) -> list[str]:
    closing = ["close"] if case.headers == CLOSING else []
    return [str(environment.LIMIT), str(port), str(len(case.body)), *closing]


SERVERS = {
    "pyserve": Server("pyserve sync", pyserve, "pyserve", [*APP_CASES, "log", "cpu"]),
    "pyserve-threads": Server("pyserve threads", pyserve_threads, "pyserve", list(CASES)),
    "pyserve-gevent": Server("pyserve gevent", partial(pyserve, kind="gevent"), "pyserve", list(CASES)),
    "pyserve-no-log": Server("pyserve sync, no access log", partial(pyserve, log=False), "pyserve", ["log"]),
    "gunicorn-sync": Server("gunicorn sync", partial(gunicorn, "sync"), "gunicorn", APP_CASES),
    "gunicorn-gthread": Server(
        "gunicorn gthread", partial(gunicorn, "gthread"), "gunicorn", [*APP_CASES, *THREAD_CASES]
    ),
    "gunicorn-gevent": Server("gunicorn gevent", partial(gunicorn, "gevent"), "gunicorn", WAITING_CASES),
    "pywsgi": Server("gevent.pywsgi", partial(launched, "gevent.pywsgi"), "gevent", WAITING_CASES),
    "granian": Server("granian", granian, "granian", [*APP_CASES, *THREAD_CASES]),
    "uwsgi": Server("uWSGI", uwsgi, "uwsgi", APP_CASES),
    "bjoern": Server("bjoern", partial(launched, "bjoern"), "bjoern", APP_CASES),
    "fastwsgi": Server("fastwsgi", partial(launched, "fastwsgi"), "fastwsgi", APP_CASES),
    "fastpysgi": Server("fastpysgi", partial(launched, "fastpysgi"), "fastpysgi", APP_CASES),
    "freastal": Server("freastal", partial(launched, "freastal"), "freastal", APP_CASES),
    "waitress": Server("waitress", waitress, "waitress", [*APP_CASES, *THREAD_CASES]),
    "cheroot": Server("cheroot", partial(launched, "cheroot.wsgi"), "cheroot", APP_CASES),
    "nginx": Server("nginx, return 200", nginx, None, FIXED_CASES),
    "limit": Server("C epoll loop", limit, None, LIMIT_CASES),
}


def versions(keys: list[str]) -> dict[str, str]:
    """What is measured, and with what."""
    found = {"Python": output([str(environment.BIN / "python"), "--version"]).split()[-1]}
    measured = [name for key in keys if (name := SERVERS[key].distribution)]
    for distribution in dict.fromkeys([*measured, "flask", "gevent", "gunicorn_h1c"]):
        try:
            found[distribution] = environment.version(distribution)
        except subprocess.CalledProcessError:
            found[distribution] = "not installed"
    try:
        found["nginx"] = output([nginx_path(), "-v"]).rpartition("/")[2]
    except AbsentError:
        found["nginx"] = "not installed"
    if shutil.which("git"):
        found["checkout"] = output(["git", "-C", str(environment.ROOT), "describe", "--always", "--dirty"])
    found["wrk"] = output(["wrk", "-v"]).split()[1]
    found["cc"] = output(["cc", "--version"]).splitlines()[0]
    return found


def output(command: list[str]) -> str:
    """What a command prints, on whichever stream."""
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result.stdout.strip()
