"""Who agents report to, on loopback: answers what they ask for, and keeps what they send."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

LIMITS = {"analytic_event_data": 1000, "custom_event_data": 10, "error_event_data": 10, "span_event_data": 1000}
# What New Relic's collector answers to some methods.
NEW_RELIC = {
    "preconnect": {"redirect_host": "127.0.0.1"},
    "connect": {
        "agent_run_id": "run",
        "event_harvest_config": {"report_period_ms": 500, "harvest_limits": LIMITS},
    },
}
DATADOG = {"endpoints": ["/v0.4/traces", "/v0.5/traces", "/info"], "client_drop_p0s": False}
UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


class Collector:
    def __init__(self, port: int) -> None:
        self.port = port
        self.bodies: list[tuple[str, bytes]] = []  # kind, and what came

    def has(self, kind: str, word: str) -> bool:
        return any(name == kind and word.encode() in body for name, body in self.bodies)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    collector: Collector

    def answer(self) -> None:
        where = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        method = parse_qs(where.query).get("method", [""])[0]
        unpack = UNPACK.get(self.headers.get("content-encoding", ""), bytes)
        self.collector.bodies.append((method or where.path, unpack(body)))
        said: Any = DATADOG if where.path == "/info" else {"return_value": NEW_RELIC.get(method)} if method else {}
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer  # noqa: N815  (the names that the base class looks for)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """An agent's worker was killed."""


@contextmanager
def collecting(certificate: Path | None = None) -> Iterator[Collector]:
    """certificate: where that of 127.0.0.1 is put, if it is to be HTTPS."""
    handler = type("Answers", (Handler,), {})
    server = Quiet(("127.0.0.1", 0), handler)
    handler.collector = collector = Collector(server.server_address[1])  # type: ignore[attr-defined]  # Handler's
    if certificate is not None:
        key = certificate.with_suffix(".key")
        subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
        made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
