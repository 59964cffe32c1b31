"""How pyserve was called: the names of its working directory and interpreter, with the links that are on their ways.

A deploy that exchanges a link (``current -> releases/7``) means what starts from then on. The kernel's name of a
working directory, and the interpreter that a script names, have no such link on them. So both are kept under the names
by which they were called, and are looked up again for each generation.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_interpreter: tuple[str, str] | None = None  # its folder as it was called at the start, and its name there


def directory(environ: Mapping[str, str]) -> str:
    """The working directory, as the shell knows it ($PWD), or as it is on the way to the script that was called.

    If it was removed, as a release may be under a shell that stands in it, what has its name now.
    """
    names = (environ.get("PWD", ""), *_folders(sys.argv[0]))
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        return names[0] or "/"
    return next((name for name in names if os.path.isabs(name) and _same(name, cwd)), cwd)


def interpreter() -> str:
    """This interpreter, in the folder by whose name the script or the interpreter was called.

    A newer release may have it under another name.
    """
    global _interpreter
    folder, name = os.path.split(sys.executable)
    if _interpreter is None:
        started = [path for path in (sys.argv[0], sys.orig_argv[0]) if "/" in path]
        names = [os.path.dirname(os.path.join(directory(os.environ), path)) for path in started]
        _interpreter = next((other for other in names if _same(other, folder)), folder), name
    folder, name = _interpreter
    paths = [os.path.join(folder, each) for each in (name, "python3", "python")]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def environ() -> dict[str, str]:
    """The environment for another start of this program. An agent that came by PYTHONPATH may have taken itself off it,
    to spare the programs that the app starts."""
    return {**os.environ, **({} if _import_path is None else {"PYTHONPATH": _import_path})}


def _started_with(name: bytes) -> str | None:
    """The variable as the kernel was given it; None if it was not, or cannot be known."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [pair.partition(b"=") for pair in file.read().split(b"\0")]
    except OSError:
        return None
    return next((os.fsdecode(value) for key, _, value in pairs if key == name), None)


_import_path = _started_with(b"PYTHONPATH")  # now: the process's title will be written over it


def real(path: str) -> str:
    """A path whose folder has no link on it, so that it stays what it is when links change. The last name may be one:
    it makes the interpreter that of its virtual environment."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def follow(cwd: str) -> None:
    """Be where ``cwd`` leads now; a directory that was removed would fail whatever asks for it."""
    for folder in (cwd, "."):
        try:
            os.chdir(folder)
            os.getcwd()
            return
        except OSError:
            pass
    os.chdir("/")


def links(paths: Iterable[str]) -> dict[str, str]:
    """Every link on the ways to some files, and where it leads."""
    from pyserve.system.way import way

    found = (entry.path for path in paths for entry in way(path) if stat.S_ISLNK(entry.mode))
    return {link: os.path.realpath(link) for link in found}


def left_behind(links: Mapping[str, str], path: str) -> str:
    """The link that led to ``path`` once, and leads elsewhere now; empty if none does."""
    for link, led_to in links.items():
        if f"{path}/".startswith(f"{led_to}/") and os.path.realpath(link) != led_to:
            return link
    return ""


def _folders(path: str) -> Iterator[str]:
    """Those on the way to a file, as they are called there."""
    while path not in ("", "/"):
        path = os.path.dirname(path)
        yield path


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False
