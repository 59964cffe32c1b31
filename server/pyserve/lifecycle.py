"""Lifecycle hooks: what the app wants done when its process starts and when it is told to stop.

The decorators only add to a table; without a server (in tests, under ``flask run``) they do nothing. Start hooks
 run in order of registration, stop hooks in reverse. An ``async def`` hook runs on one event loop per worker, which is
kept for all of them, so that a pool opened in ``on_init`` can be closed in ``on_shutdown``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar

    Hook = TypeVar("Hook", bound=Callable[..., Any])

IN_ZYGOTE = ("on_app_loaded", "before_fork")
START = (*IN_ZYGOTE, "after_fork", "on_init", "on_bootstrap")
STOP = ("on_destroy", "before_shutdown", "on_shutdown")

_hooks: dict[str, list[Callable[..., Any]]] = {event: [] for event in START + STOP}
_loop: asyncio.AbstractEventLoop | None = None


class HookFailedError(Exception):
    """A start hook raised; ``__cause__`` is what it raised."""


def register(event: str, hook: Hook) -> Hook:
    """Add ``hook`` to ``event``'s hooks and return it, as a decorator does. TypeError if it cannot be called."""
    if not callable(hook):
        raise TypeError(f"{event} takes a function, not {type(hook).__name__}")
    _hooks[event].append(hook)
    return hook


def on_app_loaded(hook: Hook) -> Hook:
    """In the zygote, once per generation, after the app was imported. A failure: the generation does not start."""
    return register("on_app_loaded", hook)


def before_fork(hook: Hook) -> Hook:
    """In the zygote, before each worker is forked. A failure: that worker does not start."""
    return register("before_fork", hook)


def after_fork(hook: Hook) -> Hook:
    """In the worker, first thing after the fork. A failure: that worker does not start."""
    return register("after_fork", hook)


def on_init(hook: Hook) -> Hook:
    """In the worker, before it is ready: open pools, warm caches. A failure: that worker does not start."""
    return register("on_init", hook)


def on_bootstrap(hook: Hook) -> Hook:
    """In the worker, after all ``on_init`` hooks, just before it is ready. A failure: that worker does not start."""
    return register("on_bootstrap", hook)


def on_destroy(hook: Hook) -> Hook:
    """``hook(signal)`` in the worker when it is told to stop: produce no new work. A failure is logged."""
    return register("on_destroy", hook)


def before_shutdown(hook: Hook) -> Hook:
    """``hook(signal)`` after the ``on_destroy`` hooks have ended; then connections are closed. A failure is logged."""
    return register("before_shutdown", hook)


def on_shutdown(hook: Hook) -> Hook:
    """``hook(signal)`` when all connections are closed: release resources. A failure is logged."""
    return register("on_shutdown", hook)


def run_start(event: str) -> None:
    """Run the hooks of a start event in order of registration; the first that raises ends it with HookFailedError."""
    try:
        for hook in _hooks[event]:
            try:
                _call(hook)
            except (Exception, SystemExit) as error:
                raise HookFailedError(f"{event} hook {_name(hook)} failed: {type(error).__name__}: {error}") from error
    finally:
        if event in IN_ZYGOTE:
            close()  # workers that are forked with a loop would share its epoll, and wake each other


def run_stop(event: str, cause: str, failed: Callable[[str, BaseException], None]) -> None:
    """Run the hooks of a stop event in reverse order, each with the cause; ``failed`` is told of each that raises."""
    for hook in reversed(_hooks[event]):
        try:
            _call(hook, cause)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (it is told, and the other hooks still run)
            failed(f"{event} hook {_name(hook)} failed: {type(error).__name__}: {error}", error)


def has(event: str) -> bool:
    return bool(_hooks[event])


def close() -> None:
    """Close the worker's event loop, after the last stop hook."""
    global _loop
    if _loop is not None:
        _loop.run_until_complete(_loop.shutdown_asyncgens())
        _loop.close()
        _loop = None


def _call(hook: Callable[..., Any], *arguments: str) -> None:
    result = hook(*arguments)
    if hasattr(result, "__await__"):
        _run(result)


def _run(awaitable: Awaitable[Any]) -> None:
    import asyncio

    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()

    async def wait() -> None:
        await awaitable

    _loop.run_until_complete(wait())


def _name(hook: Callable[..., Any]) -> str:
    return f"{getattr(hook, '__module__', '?')}.{getattr(hook, '__qualname__', repr(hook))}"
