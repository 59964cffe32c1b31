"""Another user of the machine, who may write a folder in which root makes files: a process of user nobody.

with Attacker() as attacker, watched(lambda step: attacker.do("link", path, victim)):
    ...            # before each system call, the file at ``path`` is exchanged for a link
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

NOBODY = 65534

# One line of standard input is one deed: a kind and two paths. The answer is an empty line.
DEEDS = f"""
import os, socket, sys
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
kept = []

def gone(name):
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass

def link(name, target):
    gone(name)
    os.symlink(target, name)

def listen(name, _target):
    gone(name)
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(name)
    kept[-1].listen(64)

def die(name, target):
    listen(name, target)
    kept.pop().close()

def file(name, target):
    gone(name)
    with open(name, "w") as made:
        made.write(target)

def folder(name, target):
    "The folder itself becomes a link to another."
    if not os.path.islink(name):
        os.rename(name, name + ".real")
        os.symlink(target, name)

def remove(name, _target):
    gone(name)

print(flush=True)
for line in sys.stdin:
    kind, name, target = line.rstrip("\\n").split("\\t")
    try:
        globals()[kind](name, target)
    except OSError as error:
        print("attacker:", kind, name, error, file=sys.stderr)
    print(flush=True)
"""

# Events of sys.audit() that are system calls on files and sockets. Each is a step of what is attacked.
STEPS = {"open", "socket.bind", "socket.connect", "os.chmod", "os.chown", "os.remove", "os.rename", "fcntl.flock"}


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that everybody may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="pyserve-open-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


class Attacker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DEEDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answered()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, _kind: type | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        self.process.communicate()

    def answered(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "\n", "the attacker has died"

    def do(self, kind: str, name: Path, target: Path | str = "") -> None:
        """Do it, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind}\t{name}\t{target}\n")
        self.process.stdin.flush()
        self.answered()


_watching: list[tuple[list[str], Callable[[int], None]]] = []  # whom the hook tells; more than one only by mistake
_hooked = False  # an audit hook is for good: there is one


@contextlib.contextmanager
def watched(deed: Callable[[int], None]) -> Iterator[list[str]]:
    """Before each system call on files and sockets that this process makes meanwhile, ``deed`` is called with its number
    (from 0); the names of all of them."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    made: list[str] = []
    _watching.append((made, deed))
    try:
        yield made
    finally:
        _watching.pop()


def _hook(event: str, _arguments: object) -> None:
    if event in STEPS and _watching:
        made, deed = _watching.pop()  # what the deed itself does does not count
        try:
            made.append(event)
            deed(len(made) - 1)
        finally:
            _watching.append((made, deed))
