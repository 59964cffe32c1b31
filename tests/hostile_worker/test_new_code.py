"""New code that misbehaves while it is imported, in the zygote, or in the boot of its workers: the old code goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile_worker.shell import Shell, hostile

pytestmark = pytest.mark.usefixtures("worker_class")

LOADED = """tell('["LOADED", {"description": "x", "seconds": 0, "folder": "/", "interpreter": "x"}]', to=3)"""
LOAD_FAILED = """tell('["LOAD_FAILED", {"kind": "app", "message": "x", "details": ""}]', to=3)"""
UNSAFE = """tell('["UNSAFE", {"reasons": "x"}]', to=3)"""
MISUSE = "it misused its channel: "

IMPORTS = {
    "garbage": ("tell('garbage', to=3)", MISUSE),
    "a wrong number": (LOADED.replace(": 0", ": NaN"), MISUSE),
    "a descriptor": ('tell(\'["UNSAFE", {"reasons": "x"}]\', 0, to=3)', MISUSE + "UNSAFE with 1 descr"),
    "what workers say": ("""tell('["HELLO", {"pid": 1}]', to=3)""", MISUSE + "HELLO"),
    "what the master says": ("""tell('["GO", {}]', to=3)""", MISUSE + "GO"),
    "a worker that it was not asked for": (
        """tell('["SPAWN_FAILED", {"id": 1, "kind": "app", "message": "x", "details": ""}]', to=3)""",
        MISUSE + "SPAWN_FAILED",
    ),
    "loaded and not loaded": (f"{LOADED}; {LOAD_FAILED}", MISUSE + "LOAD_FAILED"),
    "loaded twice": (f"{LOADED}; {LOADED}", MISUSE + "LOADED again"),
    "loaded and unsafe": (f"{LOADED}; {UNSAFE}", MISUSE + "UNSAFE"),
    "an unknown kind of failure": (LOAD_FAILED.replace('"app"', '"x"'), "reload aborted"),
    "a flood": (f"while True: {LOADED.replace('LOADED', 'SPAWN')}", MISUSE),
    "its channel closed": ("posix.close(3); time.sleep(600)", "did not load within boot_timeout"),
    "loaded, and its channel closed": (
        f"{LOADED}; posix.close(3); time.sleep(600)",
        "a worker ended before it could say its pid",
    ),
    "stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", "did not load within boot_timeout"),
}


@pytest.fixture(scope="module")
def old(worker_class: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with hostile(tmp_path_factory.mktemp(worker_class), "--boot-timeout", "4", "--graceful-timeout", "4") as shell:
        yield shell


def is_turned_down(shell: Shell, code: str, line: str) -> None:
    """A reload with this code is given up, for this reason, and the old workers serve on."""
    before, shell.mark = shell.server.workers(), len(shell.server.log)
    (shell.folder / "at_import").write_text(code)
    shell.server.signal(signal.SIGHUP)
    try:
        shell.said("reload aborted|rolled back")
        shell.said(line)
        shell.is_well()
        assert shell.server.workers() == before or "rolled back" in shell.news
    finally:
        (shell.folder / "at_import").unlink()


@pytest.mark.parametrize("code, line", IMPORTS.values(), ids=IMPORTS)
def test_imports(old: Shell, code: str, line: str) -> None:
    is_turned_down(old, code, line)


def test_unsafe_is_said_once(worker_class: str, tmp_path: Path) -> None:
    """Each time another zygote is started: not without end."""
    with hostile(tmp_path, "--boot-timeout", "5") as shell:
        shell.mark = len(shell.server.log)
        (tmp_path / "at_import").write_text(UNSAFE + "; time.sleep(600)")
        shell.server.signal(signal.SIGHUP)
        shell.said("not preloaded")
        shell.said("reload done|reload aborted|rolled back")
        (tmp_path / "at_import").unlink()
        shell.is_well()
        assert shell.news.count("not preloaded") == 1


BOOT = """
def adopt(self):
    while os.getppid() != self.generation.master_pid:
        posix_sleep()
    def say(packet, *fds):
        tell(packet, *fds, to=self.channel)
    {boot}
    while os.getppid() == self.generation.master_pid:
        posix_sleep()
    os._exit(1)

import ctypes
posix_sleep = lambda: ctypes.CDLL(None).usleep(1000)
Worker.adopt = adopt
"""
HELLO = """say('["HELLO", {"pid": %d}]' % os.getpid())"""
READY = """say('["READY", {"seconds": 0, "heartbeat": false, "takes": true}]')"""

BOOTS = {
    "ready before it is there": (READY, MISUSE + "READY before HELLO"),
    "alone before it is there": ("ask_alone(ticket())", MISUSE + "EXCLUSIVE before HELLO"),
    "garbage before it is there": ("say('garbage')", MISUSE),
    "the pid of its zygote": ("""say('["HELLO", {"pid": %d}]' % zygote_pid)""", MISUSE + "HELLO from pid"),
    "the pid of a worker": ("""say('["HELLO", {"pid": %d}]' % old_pid)""", MISUSE + "HELLO from pid"),
    "the pid of nobody": ("""say('["HELLO", {"pid": 4194304}]')""", MISUSE + "HELLO from pid"),
    "ready again and again": (f"{HELLO}; {READY}; {READY}", MISUSE + "READY again"),
    "never ready": (HELLO, "was not ready within boot_timeout"),
    "never there": ("pass", "was not ready within boot_timeout"),
    "never ready, and a request": (
        HELLO + "\n    while True: self.slot.set('request_start', 1); self.slot.set('request_start', 2)",
        "was not ready within boot_timeout",
    ),
    "its channel closed at once": ("self.channel.socket.close()", "ended before it could say its pid"),
    "its channel closed": (HELLO + "; self.channel.socket.close()", "it has closed its channel|was not ready"),
    "checked": (HELLO + """; say('["CHECKED", {"status": 200, "details": ""}]')""", MISUSE + "CHECKED"),
    "failed, and no end": (
        HELLO + """; say('["BOOT_FAILED", {"kind": "x", "message": "x", "details": "x"}]')""",
        "goes on; the stacks of its threads follow",
    ),
    "failed twice": (
        HELLO + """; [say('["BOOT_FAILED", {"kind": "x", "message": "x", "details": "x"}]') for _ in range(2)]""",
        MISUSE + "BOOT_FAILED again",
    ),
}


@pytest.mark.parametrize("boot, line", BOOTS.values(), ids=BOOTS)
def test_boots(old: Shell, boot: str, line: str) -> None:
    known = f"zygote_pid, old_pid = os.getpid(), {old.server.workers()[0]}\n"
    is_turned_down(old, known + BOOT.format(boot=boot), line)
