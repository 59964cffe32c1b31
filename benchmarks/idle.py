"""What an idle keep-alive connection costs in memory: pyserve's workers beside gunicorn gevent and gevent.pywsgi.

One worker each. Every connection is asked once and answered, and then stays open. The figure is the growth of the
server's own memory (PSS of all its processes; the kernel's socket buffers are not in it) by the number of connections.

    python benchmarks/idle.py [--connections 10000] [--servers pyserve,pyserve-gevent]
"""

from __future__ import annotations

import argparse
import resource
import socket
import tempfile
import time
from pathlib import Path

import environment
import processes
from cases import CASES, request
from measure import await_start
from servers import HOST, SERVERS, AbsentError, Server

NAMES = ["pyserve", "pyserve-gevent", "gunicorn-gevent", "pywsgi"]
SPARE = 200  # descriptors beside the connections
WARM_UP = 200  # connections before the first look
SETTLED = 1.0  # seconds for the server to finish what it does after the last answer
MORE = {"gunicorn-gevent": ["--worker-connections", "100000", "--keep-alive", "1000"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--servers", default=",".join(NAMES))
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = options.connections + WARM_UP + SPARE
    if most != resource.RLIM_INFINITY and most < enough:
        raise SystemExit(f"{enough} descriptors are needed, {most} are allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))
    print(f"{options.connections} idle connections in one worker")
    for name in options.servers.split(","):
        try:
            before, after = measure(SERVERS[name], MORE.get(name, []), options.connections)
        except (AbsentError, OSError) as error:
            print(f"{SERVERS[name].title:20} absent: {error}")
            continue
        each = (after - before) / options.connections
        print(f"{SERVERS[name].title:20} {each:8,.0f} bytes a connection; {before / 1e6:6.1f} MB before them")


def measure(server: Server, more: list[str], connections: int) -> tuple[int, int]:
    """The server's memory before and with so many idle connections, in bytes."""
    with tempfile.TemporaryDirectory(prefix="pyserve-bench-") as folder:
        scratch, port = Path(folder), processes.free_port()
        command = [*server.command(CASES["hello"], port, scratch), *more]
        process = processes.start(command, environment.HERE, scratch / "output")
        opened: list[socket.socket] = []
        try:
            await_start(process, port, scratch / "output")
            opened += [open_one(port) for _ in range(WARM_UP)]
            before = memory(process.pid)
            opened += [open_one(port) for _ in range(connections)]
            return before, memory(process.pid)
        finally:
            for each in opened:
                each.close()
            processes.end(process)


def open_one(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=60)
    connection.sendall(request(CASES["hello"], port))
    received = b""
    while not received.endswith(CASES["hello"].body):
        part = connection.recv(4096)
        if not part:
            raise AbsentError("a connection was closed")
        received += part
    return connection


def memory(pid: int) -> int:
    time.sleep(SETTLED)
    return sum(1024 * processes.pss(each) for each in processes.tree(pid))


if __name__ == "__main__":
    main()
