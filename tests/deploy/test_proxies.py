"""The nginx and HAProxy samples, in front of a real server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
import requests

from lifecycle.load import Load
from support import Server, serve
from support.processes import GENEROUS, wait_for

Proxy = Callable[[Path, list[str], int], list[str]]  # (folder, addresses of servers, its port) → its command
# In the restart of three hosts. A thorough run: RESTART_REQUESTS=4000.
REQUESTS = int(os.environ.get("RESTART_REQUESTS", "600"))

DEPLOY = Path(__file__).parents[2] / "deploy"
APP = """
import json, time

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        environ["wsgi.errors"].write("asleep\\n")
        time.sleep(1)
    start_response("200 OK", [("Content-Type", "application/json")])
    wanted = ("wsgi.url_scheme", "HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "REMOTE_PORT",
              "PATH_INFO", "QUERY_STRING", "RAW_URI", "HTTP_X_PATH", "HTTP_X_QUERY")
    return [json.dumps({name: environ.get(name) for name in wanted}).encode()]
"""


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def adapt(text: str, changes: dict[str, str]) -> str:
    """The sample with other addresses and paths, as whoever uses it changes it."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(folder: Path, addresses: list[str], port: int, **more: str) -> list[str]:
    changes = {
        **more,
        "server 127.0.0.1:8000 max_fails=0;": "".join(f"server {address} max_fails=0;\n" for address in addresses),
        "listen 80": f"listen 127.0.0.1:{port}",
        "/var/log/nginx": str(folder),
        "/run/nginx.pid": f"{folder}/pid",
        "worker_processes auto": "worker_processes 1",  # so that its kept connections can be counted
    }
    config = folder / "nginx.conf"
    config.write_text(adapt((DEPLOY / "nginx.conf").read_text(), changes))
    return [program("nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(config), "-g", "daemon off;"]


def haproxy(folder: Path, addresses: list[str], port: int) -> list[str]:
    changes = {
        "server app1 127.0.0.1:8000": "\n".join(f"server app{n} {address}" for n, address in enumerate(addresses)),
        "bind :80": f"bind 127.0.0.1:{port}",
    }
    config = folder / "haproxy.cfg"
    text = adapt((DEPLOY / "haproxy.cfg").read_text(), changes)
    config.write_text(
        text.replace("global\n", "global\n    nbthread 1\n")
    )  # so that its kept connections can be counted
    return [program("haproxy"), "-db", "-f", str(config)]


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip(f"{name} is not installed (Debian: {name})")
    return found


@contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[None]:
    """A proxy, once a request through it is answered."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_for(lambda: answers(url) or process.poll() is not None, "the proxy")
        yield
        assert process.poll() is None, "it has ended"
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait(GENEROUS)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=GENEROUS).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_the_sample_serves(tmp_path: Path, proxy: Proxy) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serve("app:wsgi", "--workers", "1", cwd=tmp_path) as server:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with running(proxy(tmp_path, [address(server)], port), url, tmp_path / "proxy.log"):
            forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example"}
            with requests.Session() as client:
                seen = [client.get(url, headers=forged, timeout=GENEROUS).json() for _ in range(20)]
    assert seen[0]["wsgi.url_scheme"] == "http"
    assert seen[0]["HTTP_HOST"] == seen[0]["HTTP_X_FORWARDED_HOST"] == f"127.0.0.1:{port}"
    assert seen[0]["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
    # The proxy keeps its connections. (HAProxy sends a client's first request over a new one: a kept one might fail.)
    assert len({each["REMOTE_PORT"] for each in seen}) <= 2


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_reload_behind_the_proxy_loses_nothing(tmp_path: Path, proxy: Proxy) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serve("app:wsgi", "--workers", "2", cwd=tmp_path) as server:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with running(proxy(tmp_path, [address(server)], port), url, tmp_path / "proxy.log"):
            with Load(url, threads=4) as fresh, Load(url, threads=4, reuse=True) as kept:
                for generation in (2, 3, 4):
                    server.signal(signal.SIGHUP)
                    server.wait_for_log(rf"reload done: generation {generation} ")
                    before = len(fresh.answers), len(kept.answers)
                    wait_for(lambda: len(fresh.answers) > before[0] + 20 and len(kept.answers) > before[1] + 20)  # noqa: B023
    assert fresh.failures + kept.failures == []
    assert {status for status, _ in fresh.answers + kept.answers} == {200}


# ---- targets: what a proxy decides on and what the app gets must not be two things ----

TELLS_WHAT_IT_READS = {
    "proxy_http_version 1.1;": "proxy_http_version 1.1; proxy_set_header X-Path $uri; proxy_set_header X-Query $args;"
}
# It sends the path that it has read, encoded anew.
REWRITES = {"proxy_pass http://pyserve;": "proxy_pass http://pyserve/;"}
VISIBLE = [bytes([byte]) for byte in range(0x21, 0x7F)]
SERVED = [
    *(b"/a" + each for each in VISIBLE if each not in b"#?%"),
    *(b"/?a" + each for each in VISIBLE if each != b"#"),
    *(b"/a%%%02X" % byte for byte in [*range(0x20, 0x7F), *range(0x80, 0x100)]),
    *(b"/?q=100%", b"/?utm=50%_off", b"/?%u2713", b"/?%zz", b"/?%00", b"/%2500", b"/%25zz%2541", b'/<">?<">'),
]
STRAY = [b"/100%", b"/%u2713", b"/%zz", b"/%%41"]  # HAProxy passes them on; nginx refuses them itself
REFUSED = [b"/%00", b"/%%00", b"/a%0%00", b"/\x7f", b"/\x01", b"/?\x01", b"/a b"]
RAW = [b"/caf\xc3\xa9", b"/\xe9?\xff", b"/?\xe2\x9c\x93", b"/%C3\xa9%25"]


def ask(port: int, target: bytes) -> dict[str, str] | int:
    """What the app has seen, or the status of who refused it."""
    with socket.create_connection(("127.0.0.1", port), GENEROUS) as client:
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    return status if status != 200 else dict(json.loads(body[body.index(b"{") : body.rindex(b"}") + 1]))


def app_sees(target: bytes) -> tuple[str, str]:
    """PATH_INFO and QUERY_STRING."""
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path).decode("latin-1"), query.decode("latin-1")


@pytest.mark.parametrize("more", [{}, REWRITES], ids=["as it is", "rewritten"])
def test_the_app_sees_the_target_that_nginx_has_read(tmp_path: Path, more: dict[str, str]) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serve("app:wsgi", "--workers", "1", "--permit-raw-target", cwd=tmp_path) as server:
        port = free_port()
        command = nginx(tmp_path, [address(server)], port, **TELLS_WHAT_IT_READS, **more)
        with running(command, f"http://127.0.0.1:{port}", tmp_path / "proxy.log"):
            for target in SERVED + RAW:
                seen = ask(port, target)
                assert isinstance(seen, dict), (target, seen)
                assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == app_sees(target), target
                assert seen["HTTP_X_PATH"] == seen["PATH_INFO"].strip(" "), target  # no field has spaces around it
                assert (seen["HTTP_X_QUERY"] or "") == seen["QUERY_STRING"], target
                assert more or seen["RAW_URI"].encode("latin-1") == target
            assert {ask(port, target) for target in STRAY + REFUSED} == {400}


@pytest.mark.parametrize("proxy", [None, haproxy], ids=["nobody in front", "haproxy"])
def test_the_app_sees_the_target_that_was_sent(tmp_path: Path, proxy: Proxy | None) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serve("app:wsgi", "--workers", "1", cwd=tmp_path) as server, ExitStack() as stack:
        port = server.port
        if proxy is not None:
            port = free_port()
            command = proxy(tmp_path, [address(server)], port)
            stack.enter_context(running(command, f"http://127.0.0.1:{port}", tmp_path / "proxy.log"))
        for target in SERVED + STRAY:
            seen = ask(port, target)
            assert isinstance(seen, dict), (target, seen)
            assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == app_sees(target), target
            assert seen["RAW_URI"].encode("latin-1") == target
        assert {ask(port, target) for target in REFUSED + RAW} == {400}
        server.wait_for_log("refused with 400: the path contains %00")
        if proxy is None:  # HAProxy refuses them itself
            server.wait_for_log("refused with 400: a byte above 0x7f .* set permit_raw_target")


FORKING = """
import multiprocessing, os, sys, time
def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/exit" and not os.fork():
        sys.exit(0)
    if environ["PATH_INFO"] == "/return":
        os.fork()
    if environ["PATH_INFO"] == "/later":
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True).start()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["QUERY_STRING"].encode()]
"""


@pytest.mark.parametrize("proxy", [nginx, haproxy])
@pytest.mark.usefixtures("worker_class")
def test_an_app_that_forks_behind_the_proxy(tmp_path: Path, proxy: Proxy) -> None:
    """On the proxy's kept connections everybody gets what he has asked for, and one that pyserve closes is not used again."""
    (tmp_path / "app.py").write_text(FORKING)

    def ask(number: int) -> None:
        with requests.Session() as client:
            for step in range(60):
                path = ("exit", "return", "later", "", "", "")[step % 6] if number == 0 else ""
                answer = client.get(f"{url}/{path}?{number}-{step}", timeout=GENEROUS)
                assert (answer.status_code, answer.text) == (200, f"{number}-{step}")
                if step % 20 == 10:
                    time.sleep(1.2)  # longer than keep_alive

    with serve("app:wsgi", "--workers", "2", "--keep-alive", "1", cwd=tmp_path) as server:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with (
            running(proxy(tmp_path, [address(server)], port), url, tmp_path / "proxy.log"),
            ThreadPoolExecutor(6) as threads,
        ):
            list(threads.map(ask, range(6)))
        assert "BUG" not in server.log


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_hosts_that_are_restarted_in_turn_lose_nothing(tmp_path: Path, proxy: Proxy) -> None:
    """Each is stopped while it has a long request inside, and refuses what it will not answer. (It let new clients wait,
    and reset them in the end.)"""
    (tmp_path / "app.py").write_text(APP)
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:

        def start(port: int) -> Server:
            options = ("--workers", "2", "--keepalive-linger", "1", "-b", f"127.0.0.1:{port}")
            return stack.enter_context(serve("app:wsgi", *options, cwd=tmp_path))

        servers = [start(port) for port in ports]
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = proxy(tmp_path, [address(server) for server in servers], port)
        stack.enter_context(running(command, url, tmp_path / "proxy.log"))
        loads = [Load(url, threads=2, pause=0.01), Load(url, threads=2, pause=0.01, reuse=True)]
        for load in loads:
            stack.enter_context(load)
        for turn, server in enumerate(servers, 1):
            with Load(server.url, "/slow", threads=1) as inside:
                server.wait_for_log("asleep")
                inside.stopped.set()
                server.signal(signal.SIGTERM)
                inside.stop()
            assert [status for status, _ in inside.answers] == [200]
            assert server.wait() == 0
            start(ports[turn - 1])
            wait_for(lambda: sum(len(load.answers) for load in loads) >= turn * REQUESTS / 3)  # noqa: B023
        for load in loads:
            load.stop()
        assert [load.failures for load in loads] == [[], []]
        assert {status for load in loads for status, _ in load.answers} == {200}
