"""The control groups that this process is in (those of its container, too), as the kernel's files tell of them.

There are two hierarchies, and some systems have both: v2 has one tree for all controllers, v1 one for each.
"""

from __future__ import annotations

ROOT = "/sys/fs/cgroup"


def membership() -> str:
    """One line for each hierarchy: ``"0::/system.slice/app.service"`` for v2, ``"4:memory:/docker/1"`` for v1."""
    return read("/proc/self/cgroup")


def folders(text: str, controller: str) -> list[tuple[bool, str]]:
    """Where files of a controller may be: (is it v2?, folder), for each group its own first, then its ancestors'.

    text: a membership. Inside a container the group's own folder may not exist, but its root does.
    """
    found = []
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            found += [(True, f"{ROOT}{folder}") for folder in ancestors(path)]
        elif controller in controllers.split(","):
            found += [(False, f"{ROOT}/{controller}{folder}") for folder in ancestors(path)]
    return found


def ancestors(path: str) -> list[str]:
    """For /a/b: ["/a/b", "/a", ""]."""
    parts = [part for part in path.split("/") if part]
    return ["".join(f"/{part}" for part in parts[:length]) for length in range(len(parts), -1, -1)]


def read(path: str) -> str:
    """The text of one of these files; empty if it is not there or cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
