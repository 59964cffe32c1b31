"""How many CPUs may be used, from texts such as the kernel gives."""

from __future__ import annotations

import os

import pytest

from pyserve.system import cpus


@pytest.mark.parametrize(
    ("affinity", "limits", "expected"),
    [(8, [], 8), (8, [2.0], 2), (8, [1.5], 2), (8, [0.1], 1), (2, [4.0], 2), (8, [4.0, 3.0], 3), (0, [], 1)],
)
def test_count(affinity: int, limits: list[float], expected: int) -> None:
    assert cpus.count(affinity, limits) == expected


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("", None),
        ("150000", None),
        ("1 0", None),
        ("-1 100000", None),
    ],
)
def test_quota_v2(text: str, quota: float | None) -> None:
    assert cpus.quota_v2(text) == quota


@pytest.mark.parametrize(("quota", "period", "expected"), [("-1\n", "100000\n", None), ("200000\n", "100000\n", 2.0)])
def test_quota_v1(quota: str, period: str, expected: float | None) -> None:
    assert cpus.quota_v1(quota, period) == expected


def test_quotas_of_all_ancestors_count_in_v2() -> None:
    files = {
        "/sys/fs/cgroup/system.slice/app.service/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/system.slice/cpu.max": "300000 100000\n",
        "/sys/fs/cgroup/cpu.max": "400000 100000\n",
    }
    assert cpus.quotas("0::/system.slice/app.service\n", lambda path: files.get(path, "")) == [3.0, 4.0]


def test_v1_is_read_from_its_cpu_controller() -> None:
    files = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    membership = "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\nnonsense\n"
    assert cpus.quotas(membership, lambda path: files.get(path, "")) == [1.5]


def test_this_machine() -> None:
    assert 1 <= cpus.usable() <= len(os.sched_getaffinity(0))
