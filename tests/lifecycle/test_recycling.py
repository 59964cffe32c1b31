"""Workers that have served enough are replaced: no gap, no lost request, also with one worker."""

from __future__ import annotations

import signal

import pytest
import requests

from lifecycle.load import Load
from lifecycle.project import Project
from support import Server, serve

LEAK = """
leaked = []
serves = wsgi

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        leaked.append(bytearray(b"x") * (int(environ["QUERY_STRING"]) << 20))
    if environ["PATH_INFO"] == "/runaway":
        leaked.append(bytearray(b"x") * (250 << 20))
        time.sleep(600)
    return serves(environ, start_response)
"""


def recycled(server: Server, cause: str, times: int) -> bool:
    return server.log.count(f"has left ({cause})") >= times


@pytest.mark.usefixtures("worker_class")
def test_max_requests_replaces_the_only_worker_without_a_gap(project: Project) -> None:
    with serve(
        "app:wsgi", "--workers", "1", "--max-requests", "20", "--log-level", "debug", cwd=project.folder
    ) as server:
        with Load(server.url, threads=2, pause=0.01) as fresh, Load(server.url, reuse=True, pause=0.05) as kept:
            server.wait_for(lambda: recycled(server, "max_requests", 2))
        assert fresh.failures == []
        assert kept.failures == []
        assert {status for status, _ in fresh.answers + kept.answers} == {200}
        assert len({body for _, body in fresh.answers}) > 2
        server.wait_for_log(r"has answered \d+ requests \(max_requests\): a fresh one takes its place")
        story = [line for line in server.log.splitlines() if "is serving" in line or "drains (max_requests)" in line]
        steps = ["fresh" if "is serving" in line else "worn" for line in story]
        assert steps[:5] == ["fresh", "fresh", "worn", "fresh", "worn"], "a fresh one serves before a worn one leaves"


@pytest.mark.usefixtures("worker_class")
def test_max_memory_replaces_a_worker_that_leaks(project: Project) -> None:
    project.append(LEAK)
    with serve("app:wsgi", "--workers", "1", "--max-memory", "100M", cwd=project.folder) as server:
        first = server.workers()
        with Load(server.url, threads=2) as load:
            assert server.get("/leak?40").status_code == 200
            assert server.get("/leak?90").status_code == 200
            server.wait_for_log(r"takes \d+ MiB of memory \(max_memory\): a fresh one takes its place")
            server.wait_for(lambda: recycled(server, "max_memory", 1))
        assert load.failures == []
        assert {status for status, _ in load.answers} == {200}
        assert not set(first) & set(server.workers())


@pytest.mark.usefixtures("worker_class")
def test_max_lifetime_replaces_a_worker_that_does_nothing(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--max-lifetime", "1", cwd=project.folder) as server:
        with Load(server.url, reuse=True, pause=0.1) as load:
            server.wait_for(lambda: recycled(server, "max_lifetime", 2))
        assert load.failures == []


@pytest.mark.usefixtures("worker_class")
def test_a_worker_that_grows_past_twice_its_limit_in_a_request_is_killed(project: Project) -> None:
    project.append(LEAK)
    with serve("app:wsgi", "--workers", "2", "--max-memory", "100M", cwd=project.folder) as server:
        with pytest.raises(requests.ConnectionError):
            server.get("/runaway")
        why = r"it has grown to \d+ MiB in GET /runaway, more than twice max_memory \(100 MiB\)"
        server.wait_for_log(why + "; it is killed")
        server.wait_for_log(r"was killed by pyserve \(SIGKILL\): " + why)
        assert server.get("/").status_code == 200


def test_a_limit_below_what_a_fresh_worker_takes_is_said_and_not_obeyed(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--max-memory", "1M", cwd=project.folder) as server:
        before = server.workers()
        server.wait_for_log(r"takes \d+ MiB from its start, not less than max_memory \(1 MiB\)")
        server.signal(signal.SIGTTIN)
        server.wait_for_log(r"(?s)from its start.*from its start")
        assert set(before) < set(server.workers())


def test_worn_workers_of_a_reload_are_not_in_its_way(project: Project) -> None:
    """Every worker is worn all the time, and each reload comes to its end."""
    with serve("app:wsgi", "--workers", "2", "--max-requests", "1", cwd=project.folder) as server:
        with Load(server.url, threads=2) as load:
            for generation in (2, 3):
                server.wait_for_log("a fresh one takes its place")
                server.signal(signal.SIGHUP)
                server.wait_for_log(f"reload done: generation {generation}")
        assert load.failures == []
