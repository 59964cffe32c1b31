"""What a request costs a sync worker beside the kernel: nanoseconds without recv, send and epoll_wait (nokernel.c).

    python benchmarks/userspace.py [--cases hello,browser,fresh] [--python .venv/bin/python]

The least of many short runs, which neighbours on the machine disturb little; all caches are warm, so that a real server
takes half as much again. It is for comparing two states of pyserve: bench.py compares servers.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import subprocess
import time
from types import SimpleNamespace

import apps
import environment
from cases import CASES, Case, request

CONNECTIONS, READY = 64, 16
FIRST_FD = 500
LIBRARY = environment.ROOT / "build" / "nokernel.so"
NAMES = ["hello", "browser", "fresh"]
RUNS, TURNS = 400, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", default=",".join(NAMES))
    parser.add_argument("--python", default=str(environment.BIN / "python"), help="one that has pyserve")
    parser.add_argument("--run", choices=NAMES, help=argparse.SUPPRESS)  # in the process without a kernel
    options = parser.parse_args()
    if options.run:
        print(f"{CASES[options.run].title:34} {run(options.run):6.0f} ns")
        return
    build = ["cc", "-std=c17", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", LIBRARY]
    LIBRARY.parent.mkdir(exist_ok=True)
    subprocess.run([*build, environment.HERE / "nokernel.c"], check=True)
    for name in options.cases.split(","):
        environ = {**os.environ, "LD_PRELOAD": str(LIBRARY)}
        subprocess.run([options.python, __file__, "--run", name], check=True, env=environ)


def requests(name: str, case: Case) -> list[bytes]:
    """As wrk sends them; where their values are always new, more of them than are remembered."""
    if name != "fresh":
        return [request(case, 8000)]
    kept = ("Host", "Connection")
    lines = request(case, 8000).decode().split("\r\n")
    return [
        "\r\n".join(
            line + f";n={number}" if ": " in line and not line.startswith(kept) else line for line in lines
        ).encode()
        for number in range(100_000, 100_061)
    ]


def run(name: str) -> float:
    """Nanoseconds a request."""
    from pyserve.config.config import load
    from pyserve_workers.classes.ready import serve_ready
    from pyserve_workers.native.connection import Connection
    from pyserve_workers.native.context import Context

    kernel = ctypes.CDLL(str(LIBRARY))
    kernel.nokernel_connections(FIRST_FD, CONNECTIONS, READY)
    for data in requests(name, CASES[name]):
        kernel.nokernel_request(data, ctypes.c_size_t(len(data)))
    log = SimpleNamespace(debug=print, info=print, warning=print, error=print)
    config = load({"app": CASES[name].app}, {}, os.getcwd())
    context = Context(apps.hello, config, memoryview(bytearray(4096)), io.StringIO(), log)
    about = SimpleNamespace(scheme="http", server_name="localhost", server_port=8000)
    null = os.open(os.devnull, os.O_RDWR)
    fds = [os.dup2(null, FIRST_FD + index) for index in range(CONNECTIONS)]
    connections = {fd: Connection(context, fd, about, ("127.0.0.1", 40_000 + fd)) for fd in fds}
    least = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        for _ in range(TURNS):
            serve_ready(-1, context, connections, {}, CONNECTIONS + 1, 1.0)
        least = min(least, time.perf_counter() - began)
    return least / (TURNS * READY) * 1e9


if __name__ == "__main__":
    main()
