"""Lifecycle hooks: order, event loop, failures."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyserve
from pyserve.app import lifecycle
from pyserve.app.lifecycle import HookFailedError, close, has, run_start, run_stop
from pyserve.errors import HookTimeout


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table of hooks of each test's own."""
    monkeypatch.setattr(lifecycle, "_hooks", {event: [] for event in lifecycle.START + lifecycle.STOP})
    yield
    close()


def decorator(event: str) -> Callable[[Any], Any]:
    found: Callable[[Any], Any] = getattr(pyserve, event)
    return found


def quiet(text: str) -> None: ...


def no_failure(text: str, error: BaseException) -> None:
    raise AssertionError(text) from error


@pytest.mark.parametrize("event", lifecycle.START + lifecycle.STOP)
def test_each_event_has_a_public_decorator_that_returns_the_function(event: str) -> None:
    def hook() -> None: ...

    assert not has(event)
    assert decorator(event)(hook) is hook
    assert has(event)


@pytest.mark.parametrize("event", lifecycle.START + lifecycle.STOP)
def test_what_cannot_be_called_is_refused_where_it_stands(event: str) -> None:
    with pytest.raises(TypeError, match=f"{event} takes a function, not str"):
        decorator(event)("close_pool")
    assert not has(event)


@pytest.mark.parametrize("event", lifecycle.START)
def test_start_hooks_run_in_order_of_registration(event: str) -> None:
    ran: list[int] = []
    for number in range(3):
        decorator(event)(functools.partial(ran.append, number))
    run_start(event, quiet)
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("event", lifecycle.STOP)
def test_stop_hooks_run_in_reverse_and_get_the_cause(event: str) -> None:
    ran: list[tuple[int, str]] = []
    for number in range(3):
        decorator(event)(lambda cause, number=number: ran.append((number, cause)))
    run_stop(event, "SIGTERM", quiet, no_failure)
    assert ran == [(2, "SIGTERM"), (1, "SIGTERM"), (0, "SIGTERM")]


def test_events_do_not_run_each_other() -> None:
    ran: list[str] = []
    for event in lifecycle.START:
        decorator(event)(functools.partial(ran.append, event))
    run_start("on_init", quiet)
    assert ran == ["on_init"]


def test_the_first_start_hook_that_fails_ends_it() -> None:
    ran: list[str] = []

    @pyserve.on_init
    def opens_pool() -> None:
        raise ConnectionError("no database")

    pyserve.on_init(lambda: ran.append("after it"))
    with pytest.raises(HookFailedError) as failure:
        run_start("on_init", quiet)
    name = f"{__name__}.{opens_pool.__qualname__}"
    assert str(failure.value) == f"on_init hook {name} failed: ConnectionError: no database"
    assert isinstance(failure.value.__cause__, ConnectionError)
    assert ran == []


def test_stop_hooks_that_fail_are_told_and_the_others_still_run() -> None:
    ran: list[str] = []
    told: list[tuple[str, BaseException]] = []
    pyserve.on_shutdown(lambda _cause: ran.append("first registered"))

    @pyserve.on_shutdown
    def closes_pool(_cause: str) -> None:
        raise ValueError("closed already")

    @pyserve.on_shutdown
    async def closes_session(_cause: str) -> None:
        raise KeyError("session")

    pyserve.on_shutdown(lambda _cause: ran.append("last registered"))
    run_stop("on_shutdown", "reload", quiet, lambda text, error: told.append((text, error)))
    assert ran == ["last registered", "first registered"]
    (first, error), (second, _) = told
    assert first.endswith("closes_session failed: KeyError: 'session'")
    assert second.endswith("closes_pool failed: ValueError: closed already")
    assert isinstance(error, KeyError)


def test_hook_without_a_name_is_shown_as_it_is() -> None:
    pyserve.on_init(functools.partial(int, "x"))
    with pytest.raises(HookFailedError, match=r"functools\.partial\(<class 'int'>, 'x'\)"):
        run_start("on_init", quiet)


def test_async_hooks_of_a_worker_share_one_loop() -> None:
    """A pool opened in on_init is closed in on_shutdown, on the loop that it belongs to."""
    loops: list[asyncio.AbstractEventLoop] = []
    task: list[asyncio.Task[str]] = []

    async def background() -> str:
        await asyncio.sleep(0)
        return "done"

    @pyserve.on_init
    async def open_pool() -> None:
        loops.append(asyncio.get_running_loop())
        task.append(asyncio.create_task(background()))

    @pyserve.on_bootstrap
    async def warm() -> None:
        loops.append(asyncio.get_running_loop())

    @pyserve.on_shutdown
    async def close_pool(cause: str) -> None:
        loops.append(asyncio.get_running_loop())
        assert (cause, await task[0]) == ("SIGTERM", "done")

    run_start("on_init", quiet)
    run_start("on_bootstrap", quiet)
    run_stop("on_shutdown", "SIGTERM", quiet, no_failure)
    assert len(loops) == 3
    assert len(set(loops)) == 1
    assert not loops[0].is_closed()
    close()
    assert loops[0].is_closed()
    close()  # once more does no harm


def test_sync_hooks_make_no_loop() -> None:
    pyserve.on_init(lambda: None)
    run_start("on_init", quiet)
    assert lifecycle._loop is None


def test_any_awaitable_is_waited_for() -> None:
    ran: list[str] = []

    class Awaitable:
        def __await__(self) -> Iterator[None]:
            ran.append("awaited")
            yield from ()

    pyserve.on_init(lambda: Awaitable())
    run_start("on_init", quiet)
    assert ran == ["awaited"]


@pytest.mark.parametrize("event", lifecycle.IN_ZYGOTE)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the timer of pytest-timeout is a thread
def test_workers_do_not_inherit_the_loop_of_the_zygote(event: str) -> None:
    """They would share its epoll: each would take the others' wake-ups away."""

    @decorator(event)
    async def hook() -> None: ...

    run_start(event, quiet)
    assert lifecycle._loop is None

    @pyserve.on_init
    async def on_init() -> None:
        await asyncio.to_thread(os.getpid)  # needs the loop's wake-up

    child = os.fork()
    if child == 0:
        try:
            run_start("on_init", quiet)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_loop_of_a_zygote_is_closed_also_when_its_hook_fails() -> None:
    @pyserve.before_fork
    async def hook() -> None:
        raise ValueError("no")

    with pytest.raises(HookFailedError):
        run_start("before_fork", quiet)
    assert lifecycle._loop is None


def test_the_decorators_take_a_timeout() -> None:
    def one() -> None: ...

    async def other() -> None: ...

    assert pyserve.on_init(timeout=2.5)(one) is one
    assert pyserve.on_init()(other) is other
    assert [(hook.name, hook.timeout) for hook in lifecycle._hooks["on_init"]] == [
        (f"{__name__}.{one.__qualname__}", 2.5),
        (f"{__name__}.{other.__qualname__}", None),
    ]


@pytest.mark.parametrize("timeout", [0, -1, "5", True])
def test_a_timeout_that_is_none(timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"on_init: timeout is .*, but must be a number of seconds, more than 0"):
        pyserve.on_init(timeout=timeout)


def test_a_function_is_a_hook_of_an_event_once() -> None:
    ran: list[int] = []

    def hook() -> None:
        ran.append(1)

    for _ in range(2):
        pyserve.on_init(hook)
    pyserve.on_bootstrap(hook)
    run_start("on_init", quiet)
    run_start("on_bootstrap", quiet)
    assert ran == [1, 1]


def test_what_has_ended_is_told_with_its_time() -> None:
    told: list[str] = []

    @pyserve.on_init
    def first() -> None: ...

    @pyserve.on_init
    async def second() -> None: ...

    run_start("on_init", told.append)
    for line, hook in zip(told, (first, second), strict=True):
        start, _, end = line.partition(" took ")
        assert start == f"on_init hook {__name__}.{hook.__qualname__}"
        assert float(end.removesuffix(" s")) >= 0


def test_a_hook_that_takes_too_long() -> None:
    @pyserve.on_init(timeout=0.01)
    def slow() -> None:
        while True:
            pass

    with pytest.raises(HookFailedError, match=r"slow failed: it took longer than its timeout of 0\.01 s$") as failure:
        run_start("on_init", quiet)
    assert isinstance(failure.value.__cause__, HookTimeout)


def test_a_hooks_own_timeout_error_is_an_error_like_others() -> None:
    @pyserve.on_init(timeout=60)
    async def hook() -> None:
        raise TimeoutError("the database does not answer")

    with pytest.raises(HookFailedError, match="failed: TimeoutError: the database does not answer"):
        run_start("on_init", quiet)


def test_without_a_server_nothing_runs() -> None:
    program = (
        "import pyserve\n"
        "@pyserve.on_init(timeout=1)\ndef hook(): print('ran')\n"
        "@pyserve.on_shutdown\nasync def other(signal): print('ran')\n"
        "print(hook.__name__, pyserve.on_init.__doc__[:13])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "hook In the worker\n"
