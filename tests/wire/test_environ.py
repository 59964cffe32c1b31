"""The environ of PEP 3333 and RFC 3875, as an app behind a real socket sees it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from pyserve_workers.native.trust import TrustedPeers
from wire.loop import Client, Server

pytestmark = pytest.mark.usefixtures("way")


class Keeper:
    def __init__(self) -> None:
        self.environ: dict[str, Any] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.environ = dict(environ)
        start_response("200 OK", [])
        return []


def environ_of(*lines: str, start: str = "GET / HTTP/1.1", body: bytes = b"", **settings: Any) -> dict[str, Any]:
    app = Keeper()
    with Server(app, **settings) as server, server.connect() as client:
        client.send("\r\n".join([start, "Host: h:81", *lines, "", ""]).encode("latin-1") + body)
        assert client.response().status == 200
        app.environ["test.port"] = str(client.socket.getsockname()[1])
    return app.environ


def test_the_whole_of_it() -> None:
    environ = environ_of(
        "Content-Type: text/x", "Content-Length: 2", "X-Some-Thing: v", start="POST /a%20b?q=%20 HTTP/1.1", body=b"hi"
    )
    body = environ.pop("wsgi.input")
    assert body.read() == b"hi"
    port = environ.pop("test.port")
    errors, wrapper = environ.pop("wsgi.errors"), environ.pop("wsgi.file_wrapper")
    assert hasattr(errors, "write")
    assert callable(wrapper)
    version = environ.pop("pyserve.version")
    assert not environ.pop("pyserve.draining").is_set()
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "q=%20",
        "RAW_URI": "/a%20b?q=%20",
        "REQUEST_URI": "/a%20b?q=%20",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "2",
        "SERVER_NAME": "server.example",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": f"pyserve/{version}",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": port,
        "HTTP_HOST": "h:81",
        "HTTP_X_SOME_THING": "v",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert all(type(environ[key]) is str for key in environ if not key.startswith("wsgi."))


def test_requests_do_not_see_each_other() -> None:
    app = Keeper()
    with Server(app) as server, server.connect() as client:
        client.send(b"POST /p?q HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nhi")
        client.response()
        first = app.environ
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.response()
    assert first["PATH_INFO"] == "/p"
    gone = {key for key in first if key not in app.environ}
    assert gone == {"HTTP_X_A", "CONTENT_LENGTH"}
    assert app.environ["QUERY_STRING"] == ""
    assert app.environ["wsgi.input"].read() == b""


def test_values_that_change_are_not_the_last_ones() -> None:
    """Decoded values are kept for the next request that has the same bytes."""
    app = Keeper()
    with Server(app) as server, server.connect() as client:
        for value in ("a", "b", "ab", "", "\xe9", "a" * 600, "a" * 601, "b"):
            size = len(value)
            client.send(f"GET /{size}?{size} HTTP/1.1\r\nHost: x\r\nUser-Agent: {value}\r\n\r\n".encode("latin-1"))
            client.response()
            assert app.environ["HTTP_USER_AGENT"] == value
            assert app.environ["PATH_INFO"] == f"/{size}"
            assert app.environ["QUERY_STRING"] == str(size)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%2Fb", "/a/b"),
        ("/%C3%A9", "/\xc3\xa9"),
        ("/%e9", "/\xe9"),
        ("/a+b", "/a+b"),
        ("//a", "//a"),
        ("/?", "/"),
        ("/;p=1", "/;p=1"),
        ("/" + "%41" * 2000, "/" + "A" * 2000),
        # "%" without two hex digits stays
        ("/100%", "/100%"),
        ("/%u2713", "/%u2713"),
        ("/%zz%4%41%4", "/%zz%4A%4"),
        ("/%%41%%%2525", "/%A%%%25"),
        ("/%0%2500", "/%0%00"),
        ("/" + "%" * 2000 + "41", "/" + "%" * 1999 + "A"),
        # what browsers and others do not encode
        ('/<a>\\"[b]"^`{|}', '/<a>\\"[b]"^`{|}'),
    ],
)
def test_path_info_is_unquoted_latin_1(target: str, path: str) -> None:
    environ = environ_of(start=f"GET {target} HTTP/1.1")
    assert environ["PATH_INFO"] == path == unquote_to_bytes(target.rstrip("?")).decode("latin-1")
    assert environ["RAW_URI"] == target


def test_path_info_is_what_urllib_decodes() -> None:
    app, chance = Keeper(), random.Random(3986)
    with Server(app) as server, server.connect() as client:
        for _ in range(300):
            target = "/" + "".join(chance.choices("%%%%1249aAfFgG/", k=chance.randrange(20)))
            client.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert client.response().status == 200
            assert app.environ["PATH_INFO"] == unquote_to_bytes(target).decode("latin-1")


@pytest.mark.parametrize("query", ["q=100%", "utm=50%_off", "%u2713", "%", "%zz", "%00", '<"\\>', "[]^`{|}", "a?b/c"])
def test_the_query_is_the_clients(query: str) -> None:
    for start in ("", "http://h:81"):
        environ = environ_of(start=f"GET {start}/%zz?{query} HTTP/1.1")
        assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/%zz", query)
        assert environ["RAW_URI"] == environ["REQUEST_URI"] == f"{start}/%zz?{query}"


def test_raw_bytes_are_latin_1() -> None:
    """With permit_raw_target: the bytes that were sent, as PEP 3333 has all texts."""
    target = "/caf\u00e9/\u2713%C3%A9?q=\u2713".encode().decode("latin-1")
    environ = environ_of(start=f"GET {target} HTTP/1.1", permit_raw_target=True)
    assert environ["PATH_INFO"] == "/caf\u00e9/\u2713\u00e9".encode().decode("latin-1")
    assert environ["QUERY_STRING"] == "q=\u2713".encode().decode("latin-1")
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == target


def test_repeated_fields_are_joined() -> None:
    environ = environ_of("X-A: 1", "Accept: a/b", "x-a: 2", "accept: c/d", "Cookie: a=1", "cookie: b=2")
    assert environ["HTTP_X_A"] == "1,2"
    assert environ["HTTP_ACCEPT"] == "a/b,c/d"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


def test_a_name_with_an_underscore_does_not_pass_for_the_other() -> None:
    environ = environ_of("X_Forwarded_For: 6.6.6.6", "X-Forwarded-For: 1.2.3.4", "Remote_User: root")
    assert environ["HTTP_X_FORWARDED_FOR"] == "1.2.3.4"
    assert "HTTP_REMOTE_USER" not in environ


def test_the_proxy_field_is_dropped() -> None:
    """httpoxy: HTTP_PROXY would send the app's own requests through the attacker."""
    assert "HTTP_PROXY" not in environ_of("Proxy: http://evil/")


def test_a_long_unknown_name() -> None:
    assert environ_of("X-" + "a" * 300 + ": 1")["HTTP_X_" + "A" * 300] == "1"


def test_a_chunked_body_has_its_decoded_length() -> None:
    body = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    environ = environ_of("Transfer-Encoding: chunked", start="POST / HTTP/1.1", body=body)
    assert environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input"].read() == b"abcde"


def test_trailers_are_never_merged() -> None:
    body = b"1\r\na\r\n0\r\nX-Sum: 1\r\nX-A: 2\r\nContent-Type: text/evil\r\nVary: *\r\nIf-Match: x\r\n\r\n"
    environ = environ_of("X-A: 1", "Trailer: X-Sum", "Transfer-Encoding: chunked", start="POST / HTTP/1.1", body=body)
    assert environ["HTTP_X_A"] == "1"
    assert not {"HTTP_X_SUM", "CONTENT_TYPE", "HTTP_VARY", "HTTP_IF_MATCH"} & environ.keys()


def test_an_absolute_target_overrides_host() -> None:
    environ = environ_of(start="GET http://other:99/p?q HTTP/1.1")
    assert environ["HTTP_HOST"] == "other:99"
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/p", "q")


def test_http_1_0() -> None:
    assert environ_of(start="GET / HTTP/1.0")["SERVER_PROTOCOL"] == "HTTP/1.0"


@pytest.mark.parametrize(
    ("target", "script", "path"),
    [
        ("/app/x", "/app", "/x"),
        ("/app", "/app", ""),
        ("/apple", "", "/apple"),
        ("/x", "", "/x"),
    ],
)
def test_script_name(monkeypatch: pytest.MonkeyPatch, target: str, script: str, path: str) -> None:
    """SCRIPT_NAME + PATH_INFO is always the path that was asked for."""
    monkeypatch.setenv("SCRIPT_NAME", "/app")
    environ = environ_of(start=f"GET {target} HTTP/1.1")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script, path)


@pytest.mark.parametrize(
    ("allowed", "scheme"),
    [
        ("127.0.0.1", "https"),
        ("10.0.0.1, 127.0.0.0/8", "https"),
        ("*", "https"),
        ("10.0.0.0/8", "http"),
        ("", "http"),
    ],
)
def test_x_forwarded_proto_counts_only_from_trusted_peers(allowed: str, scheme: str) -> None:
    environ = environ_of("X-Forwarded-Proto: https", forwarded_allow_ips=allowed)
    assert environ["wsgi.url_scheme"] == scheme
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"


def test_nonsense_in_x_forwarded_proto_changes_nothing() -> None:
    assert environ_of("X-Forwarded-Proto: gopher")["wsgi.url_scheme"] == "http"
    assert environ_of("X-Forwarded-Proto: HTTPS")["wsgi.url_scheme"] == "https"


def test_a_unix_peer_is_trusted_and_has_no_address(tmp_path: Path) -> None:
    app = Keeper()
    with Server(app, unix=str(tmp_path / "s"), forwarded_allow_ips="") as server, Client(server.address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n\r\n")
        assert client.response().status == 200
    assert app.environ["wsgi.url_scheme"] == "https"
    assert app.environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in app.environ


@pytest.mark.parametrize(
    ("allowed", "host", "trusted"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("0.0.0.0/0", "1.2.3.4", True),
        ("0.0.0.0/0", "::1", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fe80::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.2", True),
        ("*", "anything", True),
        ("10.0.0.1", "no address", False),
    ],
)
def test_trusted_peers(allowed: Any, host: str, trusted: bool) -> None:
    peers = TrustedPeers(allowed)
    assert (host in peers) is trusted
    assert (host in peers) is trusted  # from memory


@pytest.mark.parametrize("allowed", ["10.0.0.0/33", "10.0.0.0/x", "localhost", "10.0.0", "::1/129"])
def test_trusted_peers_that_are_none(allowed: str) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0|localhost|::1"):
        TrustedPeers(allowed)
