"""503 while no worker can answer, and the way there and back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lifecycle.load import Load
from lifecycle.project import Project
from support import Server, serve
from support.processes import children, title

# A worker starts only while there is no file "broken"; the import is not concerned.
BREAKABLE = """
@pyserve.on_init
def boot():
    if os.path.exists("broken"):
        raise RuntimeError("broken by this test")
"""


@pytest.fixture
def breakable(project: Project) -> Project:
    project.append(BREAKABLE)
    return project


def responders(server: Server) -> list[int]:
    return [pid for pid in children(server.pid) if title(pid).startswith("pyserve: responder")]


def break_down(server: Server, project: Project) -> None:
    """From here on no worker starts, and none is left."""
    Path(project.folder, "broken").touch()
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)


def repair(project: Project) -> None:
    Path(project.folder, "broken").unlink()


@pytest.mark.usefixtures("worker_class")
def test_a_crash_loop_is_answered_with_503_until_the_app_is_repaired(breakable: Project) -> None:
    """Clients come all the time, with new connections and with kept ones: none of them is refused, reset or left waiting."""
    with serve("app:wsgi", "--workers", "2", cwd=breakable.folder) as server:
        assert responders(server) == []  # it costs nothing while all is well
        break_down(server, breakable)
        with (
            Load(server.url, threads=2, pause=0.005) as new,
            Load(server.url, threads=2, reuse=True, pause=0.005) as kept,
        ):
            loads = (new, kept)
            server.wait_for(lambda: all(load.answers and load.answers[-1][0] == 503 for load in loads))
            refused = server.get("/")
            repair(breakable)
            server.wait_for(lambda: all(load.answers[-1][0] == 200 for load in loads))
            for load in loads:
                load.stop()
        assert [load.failures for load in loads] == [[], []]
        assert {status for load in loads for status, _ in load.answers} == {200, 503}
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["Connection"] == "close"
        assert "Service unavailable" in refused.text
        server.wait_for_log("a worker can answer again; the responder has answered")
        assert server.get("/").status_code == 200


@pytest.mark.usefixtures("worker_class")
def test_who_comes_while_one_crash_is_repaired_waits_for_the_worker(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.get("/").status_code == 200
        assert responders(server) == []


def test_a_request_with_a_body_is_read_before_it_is_answered(breakable: Project) -> None:
    """Else the client, which is still sending, would get a reset instead of the answer."""
    with serve("app:wsgi", "--workers", "1", cwd=breakable.folder) as server:
        break_down(server, breakable)
        answer = server.request("PUT", "/", data=b"x" * (4 << 20))
        assert answer.status_code == 503
        head = server.request("HEAD", "/")
        assert (head.status_code, head.text) == (503, "")


def test_a_dead_responder_is_replaced(breakable: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=breakable.folder) as server:
        break_down(server, breakable)
        assert server.get("/").status_code == 503
        victim = responders(server)[0]
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log("responder was killed by SIGKILL")
        assert server.get("/").status_code == 503
        assert victim not in responders(server)


@pytest.mark.parametrize("state", ["booting", "ready", "serving"])
def test_one_that_dies_on_its_way_is_replaced(breakable: Project, tmp_path: Path, state: str) -> None:
    (tmp_path / f"responder.{state}").write_text("kill")
    env = {"PYSERVE_FAILPOINTS": str(tmp_path)}
    with serve("app:wsgi", "--workers", "1", cwd=breakable.folder, env=env) as server:
        break_down(server, breakable)
        assert server.get("/").status_code == 503
        assert f"responder.{state} kill" in (tmp_path / "journal").read_text()
        server.wait_for_log("responder was killed by SIGKILL")
        repair(breakable)
        server.wait_for(lambda: server.get("/").status_code == 200)


def test_one_that_dies_at_its_end_is_no_matter(breakable: Project, tmp_path: Path) -> None:
    env = {"PYSERVE_FAILPOINTS": str(tmp_path)}
    with serve("app:wsgi", "--workers", "1", cwd=breakable.folder, env=env) as server:
        break_down(server, breakable)
        assert server.get("/").status_code == 503
        (tmp_path / "responder.draining").write_text("kill")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "responder.draining kill" in (tmp_path / "journal").read_text()


def test_a_reload_of_repaired_code_ends_it(breakable: Project) -> None:
    """The reload need not wait for the next try, and meanwhile clients are told."""
    with serve("app:wsgi", "--workers", "1", cwd=breakable.folder) as server:
        break_down(server, breakable)
        assert server.get("/").status_code == 503
        breakable.replace('if os.path.exists("broken")', "if False")
        breakable.replace('"one"', '"two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves")
        assert server.get("/").text.startswith("two ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_meanwhile_answers_who_is_in_the_queue(breakable: Project, number: signal.Signals) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=breakable.folder) as server:
        break_down(server, breakable)
        assert server.get("/").status_code == 503
        with Load(server.url, threads=2) as load:
            server.wait_for(lambda: len(load.answers) > 20)
            server.signal(number)
            assert server.wait() == 0
            load.stop()
        assert {status for status, _ in load.answers} == {503}
        if number == signal.SIGTERM:
            assert load.failures == []


def test_it_writes_the_access_log_like_any_worker(breakable: Project) -> None:
    access = breakable.folder / "access.log"
    with serve("app:wsgi", "--workers", "1", "--access-logfile", str(access), cwd=breakable.folder) as server:
        break_down(server, breakable)
        assert server.get("/who-asks").status_code == 503
        server.wait_for(lambda: '"GET /who-asks HTTP/1.1" 503' in access.read_text())
