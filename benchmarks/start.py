"""From the command to the first answer, and the memory of the processes: pyserve beside gunicorn and uWSGI.

Four workers each. Rounds are interleaved, so that a noisy neighbour disturbs all alike; figures are medians. Memory is
the sum of the proportional set sizes (PSS) of all processes of a server, after 1,000 requests.

    python benchmarks/start.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path

import environment
from processes import free_port, pss, tree

WORKERS = 4
REQUESTS = 1000
PATIENCE = 30.0  # seconds
ENDING = 3.0  # seconds
HELLO = (environment.HERE, "apps:hello")
FLASK = (environment.ROOT / "examples" / "flask_app", "app:app")
APPS = {"hello": HELLO, "Flask example": FLASK}


def pyserve(app: str, port: int) -> list[str]:
    return ["pyserve", app, "--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS)]


def gunicorn(app: str, port: int) -> list[str]:
    return ["gunicorn", app, "--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS)]


def gunicorn_preload(app: str, port: int) -> list[str]:
    return [*gunicorn(app, port), "--preload"]


def uwsgi(app: str, port: int) -> list[str]:
    module, _, name = app.partition(":")
    where = ["--http-socket", f"127.0.0.1:{port}", "--module", module, "--callable", name, "--need-app"]
    return ["uwsgi", *where, "--master", "--processes", str(WORKERS), "--die-on-term", "--disable-logging"]


SERVERS = {
    "pyserve sync": pyserve,
    "gunicorn sync": gunicorn,
    "gunicorn sync, preload": gunicorn_preload,
    "uWSGI prefork": uwsgi,
}


class Run:
    """One server, started and ended."""

    def __init__(self, command: list[str], folder: Path, port: int) -> None:
        self.port = port
        program = [str(environment.BIN / command[0]), *command[1:]]
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "SECRET_KEY": "benchmark"}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            program,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def first_answer(self) -> float:
        """Milliseconds from the command to the first answer."""
        until = self.began + PATIENCE
        while time.perf_counter() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if client.recv(12).startswith(b"HTTP/1.1 200"):
                        return (time.perf_counter() - self.began) * 1000
            except OSError:
                time.sleep(0.0005)
        raise SystemExit(f"{self.process.args!r} did not answer in {PATIENCE:g} s")

    def memory(self) -> float:
        """MiB of all its processes after some requests."""
        for _ in range(REQUESTS):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            connection.request("GET", "/healthz", headers={"Connection": "close"})
            connection.getresponse().read()
            connection.close()
        return sum(pss(pid) for pid in tree(self.process.pid)) / 1024

    def end(self) -> None:
        """SIGINT ends each of them; uWSGI sometimes takes no notice, so that what is left is killed."""
        pids = tree(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(PATIENCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    environment.prepare()
    versions = ", ".join(f"{name} {environment.version(name)}" for name in ("pyserve", "gunicorn", "uwsgi", "flask"))
    print(f"{versions}; {WORKERS} workers; medians of {rounds} interleaved rounds\n")
    print(f"| {'server':<22} | {'app':<13} | first answer, ms | PSS of all processes, MiB |")
    print(f"|{'-' * 24}|{'-' * 15}|{'-' * 18}|{'-' * 27}|")
    for label, (folder, app) in APPS.items():
        times: dict[str, list[float]] = {name: [] for name in SERVERS}
        sizes: dict[str, float] = {}
        for number in range(rounds + 1):
            for name, command in SERVERS.items():
                port = free_port()
                run = Run(command(app, port), folder, port)
                milliseconds = run.first_answer()
                if number:  # the first round warms the caches
                    times[name].append(milliseconds)
                else:
                    sizes[name] = run.memory()
                run.end()
        for name in SERVERS:
            print(f"| {name:<22} | {label:<13} | {statistics.median(times[name]):>16.0f} | {sizes[name]:>25.1f} |")


if __name__ == "__main__":
    main()
