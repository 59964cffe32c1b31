"""What the proxies of the samples deny never reaches the app: not in the rest of a request that pyserve has refused either."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import requests

from deploy.test_proxies import adapt, address, free_port, haproxy, nginx, running
from support import serve
from support.processes import GENEROUS
from wire.loop import Client
from wire.refusals import SHIFTS, head, row, send

APP = """
import os
evil = os.open("evil", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def wsgi(environ, start_response):
    if environ["PATH_INFO"].startswith("/evil"):
        os.write(evil, b"evil ")
    start_response("200 OK", [])
    return [b"good"]
"""
DENIED = {  # what the sample says, and then also that nobody may ask for /evil
    "nginx": ("        location / {", "        location /evil { return 403; }\n        location / {"),
    "haproxy": ("    default_backend", "    http-request deny if { path_beg /evil }\n    default_backend"),
}
# The head of a POST whose body is a row of requests for /evil. pyserve refuses each, if the proxy passes it on.
SIZE = 512_000
LENGTH = f"Content-Length: {SIZE}".encode()
REFUSED = {
    "many fields": head(*[b"X-%d: 1" % number for number in range(99)], LENGTH),
    "a target that is no ASCII": head(LENGTH, start=b"POST /upload?q=\xe9 HTTP/1.1"),
    "an expectation": head(LENGTH, b"Expect: x"),
    "a name with an underscore": head(LENGTH, b"Content_Length: 5"),
    "a long field": head(LENGTH, b"Cookie: " + b"a" * 8183),
    "a large body": head(LENGTH),
    "a large chunk": head(b"Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("limits", [(), ("--limit-request-body", "1000")], ids=["defaults", "small bodies"])
@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_what_the_proxy_denies_never_reaches_the_app(
    tmp_path: Path, proxy: Callable[[Path, list[str], int], list[str]], limits: tuple[str, ...]
) -> None:
    """Not as a part of a body that pyserve does not want either."""
    (tmp_path / "app.py").write_text(APP)
    statuses: set[int] = set()
    with serve("app:wsgi", "--workers", "1", *limits, cwd=tmp_path) as server:
        port = free_port()
        command = proxy(tmp_path, [address(server)], port)
        deny(tmp_path, proxy.__name__)
        url = f"http://127.0.0.1:{port}"
        with running(command, url, tmp_path / "proxy.log"):
            assert requests.get(f"{url}/evil", timeout=GENEROUS).status_code == 403
            for name, shift in product(REFUSED, SHIFTS):
                with Client(("127.0.0.1", port)) as client:
                    send(client, REFUSED[name] + body(shift, chunked=name == "a large chunk"))
                    statuses.add(client.response().status)
            assert requests.get(f"{url}/", timeout=GENEROUS).text == "good"
            assert "refused with" in server.log
    assert (tmp_path / "evil").read_text() == ""
    assert statuses <= {200, 400, 413, 417, 431}  # and no 502: the proxy has got pyserve's own answer


def deny(folder: Path, proxy: str) -> None:
    (config,) = folder.glob(f"{proxy}.c*f*")
    old, new = DENIED[proxy]
    config.write_text(adapt(config.read_text(), {old: new}))


def body(shift: int, *, chunked: bool) -> bytes:
    data = row(shift, SIZE).ljust(SIZE, b".")
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data
