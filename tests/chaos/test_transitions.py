"""Every kind of process, killed and stopped at every transition of boot, reload and shutdown, one after another."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from chaos.battle import battle
from chaos.evidence import Evidence
from chaos.oracle import judge, summary
from chaos.schedule import POINTS, UPGRADE_POINTS
from pyserve.errors import ExitCode
from support import WORKER_CLASSES, serve
from support.processes import wait_for

# So many crashes, one after another, are not to count as a service that is broken.
PATIENT = ("--crash-window", "0.1", "--max-crashes", "1000")
STOPS = ("worker.ready", "worker.draining", "master.Spawn", "master.Go", "master.Drain")
classes = pytest.mark.parametrize("kind", WORKER_CLASSES)


def check(evidence: Evidence) -> None:
    print("\n".join(evidence.done))
    print(summary(evidence))
    assert evidence.fates
    assert judge(evidence) == []


@pytest.mark.timeout(300)
@classes
def test_reload(tmp_path: Path, kind: str) -> None:
    with battle(tmp_path, kind, *PATIENT) as one:
        check(one.walk([(point, "kill") for point in POINTS] + [(point, "stop") for point in STOPS]))


@classes
def test_upgrade(tmp_path: Path, kind: str) -> None:
    with battle(tmp_path, kind) as one:
        check(one.walk(UPGRADE_POINTS))


@classes
@pytest.mark.parametrize("point", ["StartZygote", "Spawn", "Go", "Drain", "Rolled"])
def test_death_of_the_master_in_a_reload(tmp_path: Path, kind: str, point: str) -> None:
    """Whoever serves finishes what it has begun; nothing is left over."""
    with battle(tmp_path, kind) as one:
        evidence = one.end(f"kill master at: master.{point}")
        assert f"master.{point} kill" in one.watch.reached
    check(evidence)


@classes
@pytest.mark.parametrize(
    "point, action",
    [
        ("worker.draining", "kill"),
        ("worker.exited", "stop"),
        ("master.handshakes", "kill"),
    ],
)
def test_shutdown(tmp_path: Path, kind: str, point: str, action: str) -> None:
    with battle(tmp_path, kind) as one:
        evidence = one.end(f"term with failpoint: {point} {action}")
        assert f"{point} {action}" in one.watch.reached
    check(evidence)


@pytest.mark.parametrize(
    "point, code",
    [
        *[(f"master.{action}", -signal.SIGKILL) for action in ("StartZygote", "Spawn", "Go", "Committed")],
        *[(point, ExitCode.APP) for point in ("zygote.loading", "zygote.forking", "worker.booting", "worker.ready")],
    ],
)
@classes
def test_boot_that_fails_leaves_nothing(tmp_path: Path, kind: str, point: str, code: int) -> None:
    points = tmp_path / "points"
    points.mkdir()
    (points / point).write_text("kill")
    (tmp_path / "app.py").write_text("def wsgi(environ, start_response):\n    raise AssertionError('nobody asks')\n")
    with serve("app:wsgi", "-k", kind, cwd=tmp_path, env={"PYSERVE_FAILPOINTS": str(points)}, ready=False) as server:
        assert server.wait() == code
        wait_for(lambda: not server.processes(), "the end of every process")
