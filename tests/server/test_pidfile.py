"""The file with the master's pid."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyserve.errors import ConfigError, ExitCode
from pyserve.master.pidfile import Pidfile

ENDED = 2**22 + 1  # above the highest pid that Linux gives


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pyserve.pid"


def write(path: Path) -> None:
    Pidfile(str(path)).write()


def test_written_and_removed(path: Path) -> None:
    pidfile = Pidfile(str(path))
    pidfile.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    pidfile.remove()
    assert not path.exists()
    pidfile.remove()  # once more does no harm


def test_others_can_read_it_and_only_we_can_write_it(path: Path) -> None:
    before = os.umask(0o022)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "left",
    [f"{ENDED}\n", "", "nonsense", "-1\n", "0\n", "9" * 30, b"\xff\xfe", "1 2"],
    ids=["ended", "empty", "nonsense", "negative", "zero", "huge", "bytes", "two"],
)
def test_what_a_crash_left_is_overwritten(path: Path, left: str | bytes) -> None:
    path.write_bytes(left.encode() if isinstance(left, str) else left)
    write(path)
    assert path.read_text() == f"{os.getpid()}\n"


def test_our_own_pid_is_overwritten(path: Path) -> None:
    """In a container the master has the same pid each time."""
    path.write_text(f"{os.getpid()}\n")
    write(path)
    assert path.read_text() == f"{os.getpid()}\n"


def test_running_process_is_not_overruled(path: Path) -> None:
    """Also one that is not ours to signal."""
    other = os.getppid()
    path.write_text(f"{other}\n")
    with pytest.raises(ConfigError) as error:
        write(path)
    assert error.value.message == f"pidfile {path}: pid {other} is running; stop it or choose another --pid"
    assert error.value.exit_code == ExitCode.CONFIG == 78
    assert path.read_text() == f"{other}\n"


def test_process_of_somebody_else_is_running_too(path: Path) -> None:
    path.write_text("1\n")
    with pytest.raises(ConfigError, match="pid 1 is running"):
        write(path)


@pytest.fixture
def younger() -> Iterator[int]:
    """A process that has begun just now."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def test_a_number_that_is_somebody_elses_by_now_is_overruled(path: Path, younger: int) -> None:
    """After a crash and a reboot any process can have it."""
    path.write_text(f"{younger}\n")
    os.utime(path, (0, time.time() - 3600))
    write(path)
    assert path.read_text() == f"{os.getpid()}\n"


OWNER = """
import sys
from pyserve.master.pidfile import Pidfile
Pidfile(sys.argv[1]).write()
print(flush=True)
sys.stdin.read()
"""


def test_the_owner_runs_whatever_the_clock_says(path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        owner.stdout.readline()
        os.utime(path, (0, 0))  # as if the clock had been set since
        with pytest.raises(ConfigError, match=f"pid {owner.pid} is running"):
            write(path)
        owner.kill()
        owner.wait()
    write(path)
    assert path.read_text() == f"{os.getpid()}\n"


def test_who_can_only_read_it_cannot_make_it_look_alive(path: Path, younger: int) -> None:
    path.write_text(f"{younger}\n")
    os.utime(path, (0, 0))
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_SH)
        write(path)
    assert path.read_text() == f"{os.getpid()}\n"


def test_file_that_names_another_is_not_removed(path: Path) -> None:
    pidfile = Pidfile(str(path))
    pidfile.write()
    path.write_text(f"{ENDED}\n")
    pidfile.remove()
    assert path.exists()


def test_link_is_replaced_and_not_followed(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path.symlink_to(precious)
    write(path)
    assert precious.read_text() == "precious"
    assert not path.is_symlink()


def test_directory_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "pid"
    with pytest.raises(ConfigError) as error:
        write(path)
    assert error.value.message == f"cannot write the pidfile {path}: No such file or directory"


def test_path_that_is_a_directory_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    with pytest.raises(ConfigError) as error:
        write(path)
    assert error.value.message == f"cannot write the pidfile {path}: Is a directory"
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
