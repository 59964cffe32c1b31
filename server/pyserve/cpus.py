"""How many CPUs this process may use: its affinity and the quota of its control group (that of its container)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CGROUP = "/sys/fs/cgroup"


def usable() -> int:
    """CPUs this process may use, at least 1."""
    return count(len(os.sched_getaffinity(0)), quotas(_read("/proc/self/cgroup"), _read))


def count(affinity: int, limits: list[float]) -> int:
    """A quota of one and a half CPUs can keep two workers busy, so quotas are rounded up."""
    return max(1, min([affinity, *(-int(-limit // 1) for limit in limits)]))


def quotas(membership: str, read: Callable[[str], str]) -> list[float]:
    """The quotas, in CPUs, of all control groups that this process is in.

    membership: the text of /proc/self/cgroup; read: path → text, empty if there is no such file.
    A group's ancestors limit it as well, and inside a container the path may not exist, but its root does.
    """
    found = []
    for line in membership.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for folder in ancestors(path):
            if not controllers:
                found.append(quota_v2(read(f"{CGROUP}{folder}/cpu.max")))
            elif "cpu" in controllers.split(","):
                base = f"{CGROUP}/cpu{folder}"
                found.append(quota_v1(read(f"{base}/cpu.cfs_quota_us"), read(f"{base}/cpu.cfs_period_us")))
    return [quota for quota in found if quota]


def ancestors(path: str) -> list[str]:
    """For /a/b: ["/a/b", "/a", ""]."""
    parts = [part for part in path.split("/") if part]
    return ["".join(f"/{part}" for part in parts[:length]) for length in range(len(parts), -1, -1)]


def quota_v2(text: str) -> float | None:
    """CPUs of a cpu.max file: "150000 100000" is 1.5, "max 100000" has no limit."""
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def quota_v1(quota: str, period: str) -> float | None:
    """CPUs of cpu.cfs_quota_us and cpu.cfs_period_us; a quota of -1 has no limit."""
    return quota_v2(f"{quota.strip()} {period.strip()}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # no such controller here: no limit from it
