"""Kills for lack of memory, from texts such as the kernel gives."""

from __future__ import annotations

import pytest

from pyserve.system.oom import FRESH, OomKills, candidates, counted

V2 = "low 0\nhigh 0\nmax 814\noom 3\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
OWN_V2 = "/sys/fs/cgroup/app.service/memory.events"


class Files:
    """The kernel's files: ``files[path] = text``."""

    def __init__(self, membership: str) -> None:
        self.texts = {"/proc/self/cgroup": membership}

    def __setitem__(self, path: str, text: str) -> None:
        self.texts[path] = text

    def read(self, path: str) -> str:
        return self.texts.get(path, "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (V2.format(0), 0),
        (V2.format(17), 17),
        (V1.format(2), 2),
        ("oom_kill_disable 0\nunder_oom 0\n", None),  # kernels before 4.13
        ("oom_kill\n", None),
        ("oom_kill many\n", None),
        ("", None),
    ],
)
def test_counted(text: str, number: int | None) -> None:
    assert counted(text) == number


def test_candidates() -> None:
    assert candidates("0::/app.service\n") == [OWN_V2, "/sys/fs/cgroup/memory.events"]
    assert candidates("4:memory:/docker/1\n1:cpu:/\n") == [
        "/sys/fs/cgroup/memory/docker/1/memory.oom_control",
        "/sys/fs/cgroup/memory/docker/memory.oom_control",
        "/sys/fs/cgroup/memory/memory.oom_control",
    ]


def test_each_kill_explains_one_death() -> None:
    files = Files("0::/app.service\n")
    files[OWN_V2] = V2.format(5)  # those were before our time
    kills = OomKills(files.read)
    assert kills.explain_one(1000.0) is False
    files[OWN_V2] = V2.format(6)
    assert kills.explain_one(1001.0) is True
    assert kills.explain_one(1001.0) is False
    files[OWN_V2] = V2.format(8)
    assert [kills.explain_one(1002.0) for _ in range(3)] == [True, True, False]


def test_a_kill_explains_no_death_long_after_it() -> None:
    """It was a process that the app had started, which is no child of ours."""
    files = Files("0::/app.service\n")
    files[OWN_V2] = V2.format(0)
    kills = OomKills(files.read)
    files[OWN_V2] = V2.format(2)
    assert kills.explain_one(1000.0) is True
    assert kills.explain_one(1000.0 + FRESH + 1) is False


def test_in_a_container_the_own_path_is_only_the_root() -> None:
    files = Files("4:memory:/docker/1\n")
    files["/sys/fs/cgroup/memory/memory.oom_control"] = V1.format(0)
    kills = OomKills(files.read)
    files["/sys/fs/cgroup/memory/memory.oom_control"] = V1.format(1)
    assert kills.explain_one(1000.0) is True


def test_where_nobody_counts_nothing_is_claimed() -> None:
    assert OomKills(Files("0::/app.service\n").read).explain_one(1000.0) is None


def test_the_counter_may_vanish() -> None:
    files = Files("0::/app.service\n")
    files[OWN_V2] = V2.format(0)
    kills = OomKills(files.read)
    files[OWN_V2] = ""
    assert kills.explain_one(1000.0) is None


def test_here() -> None:
    """Whatever this machine has: no error, and nobody is killed while we look."""
    assert OomKills().explain_one() in (False, None)
