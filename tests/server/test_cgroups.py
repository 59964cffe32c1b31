"""Control groups: where their files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyserve.system import cgroups

V1 = "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/b", ["/a/b", "/a", ""]), ("/a", ["/a", ""]), ("/", [""]), ("", [""]), ("/../x", ["/../x", "/..", ""])],
)
def test_ancestors(path: str, expected: list[str]) -> None:
    assert cgroups.ancestors(path) == expected


def test_folders_of_v2() -> None:
    assert cgroups.folders("0::/system.slice/app.service\n", "memory") == [
        (True, "/sys/fs/cgroup/system.slice/app.service"),
        (True, "/sys/fs/cgroup/system.slice"),
        (True, "/sys/fs/cgroup"),
    ]


def test_folders_of_v1_are_those_of_the_controller() -> None:
    folders = ["/docker/1", "/docker", ""]
    assert cgroups.folders(V1, "memory") == [(False, f"/sys/fs/cgroup/memory{folder}") for folder in folders]
    assert cgroups.folders(V1, "cpu") == [(False, f"/sys/fs/cgroup/cpu{folder}") for folder in folders]
    assert cgroups.folders(V1, "pids") == []


@pytest.mark.parametrize("text", ["", "nonsense\n", "5:memory\n", "::\n"])
def test_whatever_the_text_is(text: str) -> None:
    assert all(folder.startswith(cgroups.ROOT) for _, folder in cgroups.folders(text, "memory"))


def test_read(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroups.read(f"{tmp_path}/cpu.max") == "max 100000\n"
    assert cgroups.read(f"{tmp_path}/missing") == ""
    assert cgroups.read(str(tmp_path)) == ""
