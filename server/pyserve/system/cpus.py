"""How many CPUs this process may use: its affinity and the quota of its control group (that of its container)."""

from __future__ import annotations

import os

from pyserve.system import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def usable() -> int:
    """CPUs this process may use, at least 1."""
    return count(len(os.sched_getaffinity(0)), quotas(cgroups.membership(), cgroups.read))


def count(affinity: int, limits: list[float]) -> int:
    """A quota of one and a half CPUs can keep two workers busy, so quotas are rounded up."""
    return max(1, min([affinity, *(-int(-limit // 1) for limit in limits)]))


def quotas(membership: str, read: Callable[[str], str]) -> list[float]:
    """The quotas, in CPUs, of all control groups that this process is in; a group's ancestors limit it as well.

    membership: the text of /proc/self/cgroup; read: path → text, empty if there is no such file.
    """
    found = []
    for is_v2, folder in cgroups.folders(membership, "cpu"):
        if is_v2:
            found.append(quota_v2(read(f"{folder}/cpu.max")))
        else:
            found.append(quota_v1(read(f"{folder}/cpu.cfs_quota_us"), read(f"{folder}/cpu.cfs_period_us")))
    return [quota for quota in found if quota]


def quota_v2(text: str) -> float | None:
    """CPUs of a cpu.max file: "150000 100000" is 1.5, "max 100000" has no limit."""
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def quota_v1(quota: str, period: str) -> float | None:
    """CPUs of cpu.cfs_quota_us and cpu.cfs_period_us; a quota of -1 has no limit."""
    return quota_v2(f"{quota.strip()} {period.strip()}")
