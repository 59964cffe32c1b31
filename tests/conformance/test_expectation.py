"""The judge of the cases is judged here, with words and outcomes of our own: it needs no case file."""

from __future__ import annotations

import socket
import threading

import pytest

from conformance.cases import Case, attempt
from conformance.exchange import Outcome
from conformance.expectation import read, words_of
from wire.loop import Response

GET = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: k=v\r\nX_Y: z\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
CLOSED = Outcome((GET,), (None,), (), 0, False)


def got(
    *statuses: int,
    headers: str = "",
    body: bytes = b"",
    sent: bytes = GET,
    interim: tuple[int, ...] = (),
    extra: int = 0,
    closed: bool = False,
) -> Outcome:
    """An outcome with these responses."""
    answers = tuple(Response(f"HTTP/1.1 {status} X\r\nServer: x{headers}".encode()) for status in statuses)
    answers[0].body = body
    return Outcome((sent,) * len(answers), answers, interim, extra, not closed)


JUDGED = [
    ("400", got(400), "pass"),
    ("400", got(200), "fail"),
    ("400", CLOSED, "fail"),
    ("400 or close", CLOSED, "pass"),
    ("2xx", got(299), "pass"),
    ("2xx", got(302), "fail"),
    ("400/close/timeout", got(408, closed=True), "pass"),
    ("400/close/timeout", got(408), "fail"),
    ("400 or 2xx", got(500), "fail"),
    ("400 or 2xx", got(200, extra=1), "fail"),
    ("400 or close (no extra response)", got(400, extra=1), "fail"),
    ("400 (pass), 2xx (warn)", got(400), "pass"),
    ("400 (pass), 2xx (warn)", got(200), "warn"),
    ("400 (pass), 2xx (warn)", got(500), "fail"),
    ("400 preferred; 2xx acceptable", got(200), "warn"),
    ("2xx preferred; 400 warns", got(400), "warn"),
    ("2xx preferred; 400 warns", got(200), "pass"),
    ("400, or 2xx + close", got(200), "fail"),
    ("400, or 2xx + close", got(200, closed=True), "pass"),
    ("400/501 or 2xx+close", got(200), "fail"),
    ("2xx + 2xx", got(200, 200), "pass"),
    ("2xx + 2xx", got(200, 400), "fail"),
    ("2xx + echo", got(200, body=b"ab", sent=POST), "pass"),
    ("2xx + echo", got(200, body=b"abc", sent=POST), "fail"),
    ("!101", got(101), "fail"),
    ("!101", got(200), "pass"),
    ("!101", CLOSED, "fail"),
    ("not 414", got(414), "fail"),
    ("non-1xx response", got(200, interim=(100,)), "fail"),
    ("non-1xx response", got(200), "pass"),
    ("non-101 (426 preferred)", got(400), "pass"),
    ("405 + Allow header", got(405), "fail"),
    ("405 + Allow header", got(405, headers="\r\nAllow: GET"), "pass"),
    ("2xx with Date header", got(200), "fail"),
    ("204 without CL", got(204, headers="\r\nContent-Length: 0"), "fail"),
    ("IMF-fixdate format", got(200, headers="\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT"), "pass"),
    ("IMF-fixdate format", got(200, headers="\r\nDate: Sun, 6 Nov 1994 08:49:37 GMT"), "fail"),
    ("IMF-fixdate format", got(200), "fail"),
    ("2xx with Cookie in body", got(200, body=b"Cookie: k=v"), "pass"),
    ("2xx with Cookie in body", got(200), "fail"),
    ("2xx with a=1, b=2 in body", got(200, body=b"a=1"), "fail"),
    ("2xx with a=1, b=2 in body", got(200, body=b"b=2 a=1"), "pass"),
    ("2xx without NUL", got(200, body=b"\0"), "fail"),
    ("2xx without control chars", got(200, body=b"a\x01"), "fail"),
    ("2xx (Range ignored)", got(206), "fail"),
    ("Reject/drop (pass), normalize (fail), preserve (warn)", got(400), "pass"),
    ("Reject/drop (pass), normalize (fail), preserve (warn)", got(200, body=b"Host: a"), "pass"),
    ("Reject/drop (pass), normalize (fail), preserve (warn)", got(200, body=b"X-Y: z"), "fail"),
    ("Reject/drop (pass), normalize (fail), preserve (warn)", got(200, body=b"X_Y: z"), "warn"),
    ("400 preferred; poisoned follow-up = warn", got(200, 200), "pass"),
    ("400 preferred; poisoned follow-up = warn", got(200, 400), "warn"),
    ("400 preferred; poisoned follow-up = warn", got(500, 200), "warn"),
]


@pytest.mark.parametrize("words, outcome, verdict", JUDGED, ids=[f"{words}: {o}" for words, o, _ in JUDGED])
def test_verdict(words: str, outcome: Outcome, verdict: str) -> None:
    assert read(words)(outcome) == verdict


@pytest.mark.parametrize(
    "words",
    ["", "maybe", "400 or so", "2xx with luck", "400 (hopefully)", "400 then 2xx", "4000", "400 sometimes; 2xx"],
)
def test_words_without_a_known_meaning_are_an_error(words: str) -> None:
    with pytest.raises(ValueError, match="no meaning is known"):
        read(words)


def test_a_declared_status_goes_before_words() -> None:
    assert words_of("Exact(400)", True, "400 or 2xx") == "400 or close"
    assert words_of("Range2xx", False, None) == "2xx"
    assert words_of(None, False, "400 or 2xx") == "400 or 2xx"


@pytest.mark.parametrize("status, expect", [("Roughly(400)", None), (None, None), ("Exact(400)", "maybe")])
def test_a_case_that_is_not_understood_is_an_error(status: str | None, expect: str | None) -> None:
    with pytest.raises(ValueError):
        words_of(status, True, expect)


def answer_with(data: bytes, case: Case) -> str:
    """The verdict on a server that says this and closes, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as peer:
                peer.recv(65536)
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return attempt(case, listener.getsockname()).verdict
        finally:
            thread.join()


def test_a_server_that_answers_a_smuggled_request_fails() -> None:
    once = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    case = Case("ONE-ANSWER", "Must", "400, or close", (GET,))
    assert answer_with(once, case) == "pass"
    assert answer_with(once + once, case) == "fail"
    assert answer_with(b"", case) == "pass"


def test_a_response_that_is_cut_fails() -> None:
    case = Case("CUT", "Must", "400", (GET,))
    assert answer_with(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nab", case) == "pass"
    assert answer_with(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nab", case) == "fail"
