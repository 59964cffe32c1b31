"""Lifecycle hooks: what the app wants done when its process starts and when it is told to stop.

The decorators only add to a table; without a server (in tests, under ``flask run``) they do nothing. Start hooks
run in order of registration, stop hooks in reverse. An ``async def`` hook runs on one event loop per worker, which is
kept for all of them, so that a pool opened in ``on_init`` can be closed in ``on_shutdown``.
"""

from __future__ import annotations

import time

from pyserve.errors import HookTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar, overload

    Function = TypeVar("Function", bound=Callable[..., Any])
else:

    def overload(function):
        return function


IN_ZYGOTE = ("on_app_loaded", "before_fork")
START = (*IN_ZYGOTE, "after_fork", "on_init", "on_bootstrap")
STOP = ("on_destroy", "before_shutdown", "on_shutdown")
EVENTS = START + STOP
BLOCKED = 1.0  # seconds that an async hook has, once it was cancelled, before it counts as one that blocks the loop


class Hook:
    """A function of the app's and the seconds that it may take; None: as many as there are."""

    __slots__ = ("function", "timeout")

    def __init__(self, function: Callable[..., Any], timeout: float | None) -> None:
        self.function = function
        self.timeout = timeout

    @property
    def name(self) -> str:
        function = self.function
        return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


_hooks: dict[str, list[Hook]] = {event: [] for event in EVENTS}
_loop: asyncio.AbstractEventLoop | None = None
# Told of each hook that has ended, however: where there is a server, it ends processes that the hook has forked.
ended: Callable[[str], None] | None = None


class HookFailedError(Exception):
    """A start hook raised, or took too long; ``__cause__`` is what it raised."""


def register(event: str, function: Function, timeout: float | None = None) -> Function:
    """Add ``function`` to ``event``'s hooks, if it is not there, and return it. TypeError if it cannot be called."""
    if not callable(function):
        raise TypeError(f"{event} takes a function, not {type(function).__name__}")
    if all(hook.function is not function for hook in _hooks[event]):
        _hooks[event].append(Hook(function, timeout))
    return function


class Decorator:
    """``@on_init`` or ``@on_init(timeout=5)``, for functions with and without ``async``. They stay as they are."""

    def __init__(self, event: str, doc: str) -> None:
        self.event = event
        self.__doc__ = doc

    @overload
    def __call__(self, function: Function, *, timeout: float | None = None) -> Function: ...

    @overload
    def __call__(  # noqa: F811  (ruff does not see that it is typing's overload)
        self, *, timeout: float | None = None
    ) -> Callable[[Function], Function]: ...

    def __call__(self, function: Any = None, *, timeout: Any = None) -> Any:  # noqa: F811  (the same)
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0):
            raise ValueError(f"{self.event}: timeout is {timeout!r}, but must be a number of seconds, more than 0")
        if function is None:
            return lambda function: register(self.event, function, timeout)
        return register(self.event, function, timeout)


on_app_loaded = Decorator(
    "on_app_loaded",
    "In the zygote, once per generation, after the app was imported. A failure: the generation does not start.",
)
before_fork = Decorator(
    "before_fork", "In the zygote, before each worker is forked. A failure: that worker does not start."
)
after_fork = Decorator(
    "after_fork", "In the worker, first thing after the fork. A failure: that worker does not start."
)
on_init = Decorator(
    "on_init", "In the worker, before it is ready: open pools, warm caches. A failure: that worker does not start."
)
on_bootstrap = Decorator(
    "on_bootstrap",
    "In the worker, after all ``on_init`` hooks, just before it is ready. A failure: that worker does not start.",
)
on_destroy = Decorator(
    "on_destroy",
    "``hook(signal)`` in the worker when it is told to stop: produce no new work. A failure is logged.",
)
before_shutdown = Decorator(
    "before_shutdown",
    "``hook(signal)`` after the ``on_destroy`` hooks have ended; then connections are closed. A failure is logged.",
)
on_shutdown = Decorator(
    "on_shutdown", "``hook(signal)`` when all connections are closed: release resources. A failure is logged."
)


def run_start(event: str, told: Callable[[str], None]) -> None:
    """Run the hooks of a start event in order of registration; the first that fails ends it with HookFailedError.
    ``told`` hears of each that has ended, and how long it took."""
    try:
        for hook in _hooks[event]:
            try:
                _run(event, hook, (), told)
            except (Exception, SystemExit, HookTimeout) as error:
                raise HookFailedError(_failure(event, hook, error)) from error
    finally:
        if event in IN_ZYGOTE:
            close()  # workers that are forked with a loop would share its epoll, and wake each other


def run_stop(event: str, cause: str, told: Callable[[str], None], failed: Callable[[str, BaseException], None]) -> None:
    """Run the hooks of a stop event in reverse order, each with the cause; ``failed`` is told of each that fails."""
    for hook in reversed(_hooks[event]):
        try:
            _run(event, hook, (cause,), told)
        except (Exception, SystemExit, HookTimeout) as error:  # noqa: BLE001  (it is told, and the others still run)
            failed(_failure(event, hook, error), error)


def has(event: str) -> bool:
    return bool(_hooks[event])


def prepare() -> None:
    """Import what the hooks will need, before it may be gone: of those that can be seen to wait."""
    if any(map(_may_wait, _hooks.values())):
        import asyncio  # noqa: F401


def _may_wait(hooks: list[Hook]) -> bool:
    codes = [getattr(hook.function, "__code__", None) for hook in hooks]
    return any(code is None or code.co_flags & 0x80 for code in codes)  # inspect.CO_COROUTINE


def close() -> None:
    """Close the worker's event loop, after the last stop hook."""
    global _loop
    if _loop is not None:
        _loop.run_until_complete(_loop.shutdown_asyncgens())
        _loop.close()
        _loop = None


def _run(event: str, hook: Hook, arguments: tuple[str, ...], told: Callable[[str], None]) -> None:
    began = time.monotonic()
    timeout = hook.timeout
    try:
        result = _within(timeout, lambda: hook.function(*arguments))
        if hasattr(result, "__await__"):
            _within(timeout and timeout + BLOCKED, lambda: _wait_for(result, timeout))
    finally:
        if ended is not None:
            ended(f"{event} hook {hook.name}")
    told(f"{event} hook {hook.name} took {time.monotonic() - began:.3f} s")


def _within(seconds: float | None, function: Callable[[], Any]) -> Any:
    if seconds is None:
        return function()
    from pyserve.app.hooktime import within  # where there is no server there may be no Linux

    return within(seconds, function)


def _wait_for(awaitable: Awaitable[Any], timeout: float | None) -> None:
    import asyncio

    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()

    async def wait() -> None:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await awaitable
        except TimeoutError as error:
            if limit.expired():
                raise HookTimeout from error
            raise

    _loop.run_until_complete(wait())


def _failure(event: str, hook: Hook, error: BaseException) -> str:
    if isinstance(error, HookTimeout):
        return f"{event} hook {hook.name} failed: it took longer than its timeout of {hook.timeout:g} s"
    return f"{event} hook {hook.name} failed: {type(error).__name__}: {error}"
