"""``pyserve.exclusive``: requests during which no other request runs, in any worker of this server.

On a Flask or Django view, or any WSGI callable, a whole app included:

    @pyserve.exclusive(on_busy="wait")
    def sync(): ...

In a worker the master's gate does it (``gatekeeper.py``). Where there is no pyserve (tests, ``flask
run``, another server), a lock keeps such requests of this process from each other, and the log says so once.
"""

from __future__ import annotations

import sys
from functools import wraps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NamedTuple, Protocol, TypeVar, overload

    View = TypeVar("View", bound=Callable[..., Any])

    class Keeper(Protocol):
        def enter_alone(self, terms: Terms) -> Any:
            """Wait until the caller is alone; what ``leave_alone`` takes, or None. Refused: it is not to be."""

        def leave_alone(self, ticket: Any) -> None: ...
else:
    from pyserve.records import NamedTuple

    def overload(function):
        """typing's takes long to import."""
        return function


ON_BUSY = ("reject", "wait")
ON_STUCK = ("refuse", "kill")
RETRY_AFTER = 5  # seconds, for clients that are refused


class Terms(NamedTuple):
    """What a request that wants to be alone asks for. Times are seconds; a ``timeout`` of 0 is none."""

    name: str
    waits: bool = False
    drain_timeout: float = 30.0
    hold: float = 0.0
    timeout: float = 0.0
    kills: bool = False


class Refused(Exception):  # noqa: N818  (an answer, not an error)
    """This request cannot be alone now; the text says why. ``retry_after``: seconds."""

    def __init__(self, why: str, retry_after: int = RETRY_AFTER) -> None:
        super().__init__(why)
        self.retry_after = retry_after


@overload
def exclusive(view: View, /) -> View: ...
@overload
def exclusive(  # noqa: F811  (overloads, without importing typing)
    *,
    on_busy: str = ...,
    drain_timeout: float = ...,
    hold: float = ...,
    timeout: float | None = ...,
    on_stuck: str = ...,
) -> Callable[[View], View]: ...
def exclusive(  # noqa: F811  (the same)
    view: Callable[..., Any] | None = None,
    *,
    on_busy: str = "reject",
    drain_timeout: float = 30.0,
    hold: float = 0.0,
    timeout: float | None = None,
    on_stuck: str = "refuse",
) -> Any:
    """Have a view, or a WSGI callable, run alone: while it does no other request is in the app of any worker.

    Requests that are there already have ``drain_timeout`` seconds to end, else it is answered with 503 and everything
    goes on; with ``on_stuck="kill"`` the workers that they are in are killed instead. If another has the gate,
    ``on_busy="reject"`` answers 503 at once, and ``"wait"`` waits for up to ``drain_timeout`` for its turn. Everybody
    else gets a 503, or with ``hold`` waits for so many seconds first. ``timeout`` (seconds, no limit by default)
    replaces the request timeout. TypeError or ValueError if an argument cannot be right.
    """
    _one_of("on_busy", on_busy, ON_BUSY)
    _one_of("on_stuck", on_stuck, ON_STUCK)
    for name, seconds in (("drain_timeout", drain_timeout), ("hold", hold), ("timeout", timeout or 0.0)):
        if not _is_number(seconds) or not 0 <= seconds < float("inf"):
            raise ValueError(f"exclusive: {name} is a number of seconds, not {seconds!r}")
    terms = Terms("", on_busy == "wait", drain_timeout, hold, timeout or 0.0, on_stuck == "kill")
    if view is None:
        return lambda function: _alone(function, terms)
    return _alone(view, terms)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"exclusive: {name} is {' or '.join(map(repr, known))}, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _alone(view: Callable[..., Any], terms: Terms) -> Callable[..., Any]:
    """``view``, run alone; in messages it has the name in ``terms``, or else its own."""
    if isinstance(view, type) or not callable(view):
        raise TypeError(f"exclusive takes a view or a WSGI callable, not {view!r}")
    if getattr(getattr(view, "__code__", None), "co_flags", 0) & 0x80:  # inspect.CO_COROUTINE
        raise TypeError(f"exclusive cannot be used on the coroutine function {_name(view)}: a view must be a function")
    terms = terms._replace(name=terms.name or _name(view))

    @wraps(view)
    def alone(*args: Any, **kwargs: Any) -> Any:
        try:
            ticket = _keeper.enter_alone(terms)
        except Refused as error:
            return _refuse(error, args)
        if ticket is None:
            return view(*args, **kwargs)
        try:
            result = view(*args, **kwargs)
        except BaseException:
            _keeper.leave_alone(ticket)
            raise
        if _is_wsgi(args):
            return _Until(result, ticket)
        _keeper.leave_alone(ticket)
        return result

    return alone


def _name(view: Callable[..., Any]) -> str:
    return f"{getattr(view, '__module__', '?')}.{getattr(view, '__qualname__', type(view).__qualname__)}"


class _Until:
    """The iterable of a response, at whose close the ticket is given back."""

    def __init__(self, iterable: Iterable[bytes], ticket: Any) -> None:
        self.iterable = iterable
        self.ticket = ticket

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.iterable)

    def close(self) -> None:
        try:
            finish = getattr(self.iterable, "close", None)
            if finish is not None:
                finish()
        finally:
            ticket, self.ticket = self.ticket, None
            if ticket is not None:
                _keeper.leave_alone(ticket)


# The 503, as the app's framework says it.


def _is_wsgi(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and isinstance(args[0], dict) and "wsgi.version" in args[0]


def _refuse(error: Refused, args: tuple[Any, ...]) -> Any:
    text = f"This cannot be done now: {error}.\n"
    fields = {"Retry-After": str(error.retry_after), "Content-Type": "text/plain; charset=utf-8"}
    if _is_wsgi(args):
        args[1]("503 Service Unavailable", list(fields.items()))
        return [text.encode()]
    django, flask = sys.modules.get("django.http"), sys.modules.get("flask")
    if django is not None and any(isinstance(each, django.HttpRequest) for each in args):
        return django.HttpResponse(text, status=503, headers=fields)
    if flask is not None and flask.has_request_context():
        from werkzeug.exceptions import ServiceUnavailable

        raise ServiceUnavailable(text, retry_after=error.retry_after) from None
    raise error


def as_get(line: str) -> str:
    """Of ``"HEAD /path"``, which does all that the GET does, and of any other request what it was."""
    return f"GET {line[5:]}" if line.startswith("HEAD ") else line


# As middleware, for the setting.


def exclusively(app: Callable[..., Any], requests: list[str]) -> Callable[..., Any]:
    """An app in which some requests, given as ``"PUT /path"``, run alone; those of a GET also as a HEAD."""
    alone = {each.encode().decode("latin-1"): _alone(app, Terms(each)) for each in requests}

    def choose(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        line = f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}{environ['PATH_INFO']}"
        return (alone.get(line) or alone.get(as_get(line), app))(environ, start_response)

    return choose


# Who keeps the gate.


class _Lock:
    """Without a server: one at a time, in this process."""

    def __init__(self) -> None:
        self.lock: Any = None

    def enter_alone(self, terms: Terms) -> bool:
        if self.lock is None:
            import logging
            import threading

            self.lock = threading.Lock()
            logging.getLogger("pyserve").warning(
                f"{terms.name}: not served by pyserve: exclusive keeps only such requests of this process apart"
            )
        if not self.lock.acquire(timeout=terms.drain_timeout if terms.waits else 0):
            raise Refused("another exclusive request runs")
        return True

    def leave_alone(self, _ticket: bool) -> None:
        self.lock.release()


class _Nobody:
    """In a process that the app has forked from a worker: it is no request, and the gate is none of its business."""

    def enter_alone(self, _terms: Terms) -> None:
        return None

    def leave_alone(self, _ticket: Any) -> None:
        pass


NOBODY: Keeper = _Nobody()
_keeper: Keeper = _Lock()


def kept_by(keeper: Keeper) -> None:
    """From here on a server keeps the gate."""
    global _keeper
    _keeper = keeper
