"""``pyservectl exclusive``: a command that runs while the server lets no request enter the app."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from pyserve.control.controlclient import Answer, UnavailableError
from pyserve.system import linux

REFUSED = 75  # EX_TEMPFAIL: try again later
INSIDE = "PYSERVECTL_EXCLUSIVE"  # the server's socket, for the command and for all that it runs
NOT_FOUND = 127
NOT_EXECUTABLE = 126
NAME_LIMIT = 80  # characters of the command that the server is told


def run(
    ask: Callable[..., Answer], command: tuple[str, ...], terms: dict[str, Any], warn: Callable[[str], None]
) -> int:
    """The command's exit code, 128 + N if signal N ended it; REFUSED if the server does not grant the gate.

    When this process dies the server sees its connection end, and lets requests enter again; so the command is then
    told to end, with a TERM.
    """
    name = os.fsencode(" ".join(command)).decode("utf-8", "replace")[:NAME_LIMIT]  # its arguments may be any bytes
    answer = ask("exclusive", patient=True, name=name, **terms)
    for said in answer:
        if said["event"] == "granted":
            code = execute(command, {**os.environ, INSIDE: os.path.realpath(answer.path)}, warn)
            try:
                released = all(end["ok"] for end in ask("release", ticket=said["ticket"]) if end["event"] == "end")
            except UnavailableError:
                warn("the server has gone before the command had ended")
            else:
                if not released:
                    warn("other requests have entered before the command had ended")
            return code
        if said["event"] == "end":
            warn(f"not run: {said['text']}")
    return REFUSED


def execute(command: tuple[str, ...], environ: dict[str, str], warn: Callable[[str], None]) -> int:
    parent = os.getpid()

    def follow_parent() -> None:
        linux.set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(REFUSED)

    try:
        child = subprocess.Popen(command, preexec_fn=follow_parent, env=environ)
    except OSError as error:
        warn(f"{command[0]}: {(error.strerror or str(error)).lower()}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    signal.signal(signal.SIGTERM, lambda number, _frame: child.send_signal(number))
    signal.signal(signal.SIGINT, lambda _number, _frame: None)  # the terminal tells the command, too
    code = child.wait()
    return code if code >= 0 else 128 - code
