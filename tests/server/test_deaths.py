"""Deaths: what the log says of them."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from pyserve.master.deaths import MEMORY, NOT_MEMORY, SOMEBODY, explain, loss, signal_name, unexplained_kill
from pyserve.system.signals import END


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "killed_because", "text"),
    [
        (None, "", "ended before it could say its pid"),
        (None, "it was not ready", "ended before it could say its pid"),
        (exited(0), "", "exited with code 0"),
        (exited(3), "", "exited with code 3"),
        (exited(255), "", "exited with code 255"),
        (exited(131), "", "ended at once, as a SIGQUIT asked for"),
        (exited(131), "fast shutdown", "ended at once, as a SIGQUIT asked for"),
        (int(signal.SIGSEGV), "", "was killed by SIGSEGV"),
        (signal.SIGSEGV | 0x80, "", "was killed by SIGSEGV"),  # and left a core
        (int(signal.SIGTERM), "", "was killed by SIGTERM"),
        (
            int(signal.SIGKILL),
            "",
            "was killed by SIGKILL; not by pyserve: by someone, or by the kernel for lack of memory",
        ),
        (int(signal.SIGKILL), "it was late", "was killed by pyserve (SIGKILL): it was late"),
        (int(END), "", f"was killed by signal {int(END)}: it was stuck and ended by its own timer"),
        (int(signal.SIGALRM), "", "was killed by SIGALRM"),
        (40, "", "was killed by signal 40"),
    ],
)
def test_explanation(status: int | None, killed_because: str, text: str) -> None:
    assert explain(status, killed_because) == text


@pytest.mark.parametrize("number", range(1, signal.NSIG))
def test_every_signal_can_be_told(number: int) -> None:
    assert explain(number).startswith(f"was killed by {signal_name(number)}")


@pytest.mark.parametrize(
    ("code", "text"),
    [("import os; os._exit(7)", "exited with code 7"), ("import os; os.abort()", "was killed by SIGABRT")],
)
def test_statuses_of_the_kernel(code: str, text: str) -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    assert explain(os.waitpid(pid, 0)[1]) == text


@pytest.mark.parametrize(("oom", "text"), [(None, SOMEBODY), (False, NOT_MEMORY), (True, MEMORY)])
def test_a_kill_that_is_not_ours(oom: bool | None, text: str) -> None:
    assert explain(signal.SIGKILL, oom=oom) == f"was killed by SIGKILL{text}"
    assert explain(signal.SIGKILL, "it was late", oom=oom) == "was killed by pyserve (SIGKILL): it was late"
    assert explain(signal.SIGSEGV, oom=oom) == "was killed by SIGSEGV"


@pytest.mark.parametrize(
    ("status", "killed_because", "expected"),
    [
        (int(signal.SIGKILL), "", True),
        (int(signal.SIGKILL), "it was late", False),
        (int(signal.SIGSEGV), "", False),
        (exited(int(signal.SIGKILL)), "", False),
        (None, "", False),
    ],
)
def test_the_kernel_is_asked_only_about_kills_that_are_not_ours(
    status: int | None, killed_because: str, expected: bool
) -> None:
    assert unexplained_kill(status, killed_because) is expected


@pytest.mark.parametrize(
    ("cut", "inside", "text"),
    [
        (0, [], ""),
        (0, ["GET /"], ""),
        (1, [], "; 1 request cut"),
        (1, ["GET /pay?for=it"], "; 1 request cut: GET /pay?for=it"),
        (3, [], "; 3 requests cut"),
        (2, ["GET /pay", "GET /"], "; 2 requests cut: GET /pay, GET /"),
        (30, ["GET /pay", "GET /"], "; 30 requests cut: GET /pay, GET / and 28 more"),
        (1, ["GET /pay", "GET /"], "; 1 request cut: GET /pay, GET /"),  # one was about to enter, or to leave
    ],
)
def test_what_a_death_has_cost(cut: int, inside: list[str], text: str) -> None:
    assert loss(cut, inside) == text
