"""Requests that run alone, and everything that can come in between.

The oracle is the app's journal: no other request was in the app, of any worker, while one was to be alone; and
afterwards the gate is open and a usual request is answered.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.gated import BODIES, Gated, digest, eventually, status_on
from lifecycle.load import Load
from support import serve

CONTENDERS = 50

every_class = pytest.mark.usefixtures("worker_class")


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    gated = Gated(tmp_path)
    yield gated
    gated.close()


@every_class
def test_requests_that_are_there_end_first_and_others_are_refused_meanwhile(gated: Gated) -> None:
    with gated.serving() as server:
        before = gated.enter(server, "/before?until=a")
        sync = gated.ask(server, "/sync?alone=1&until=b", data=b"x" * 100_000)
        refused = eventually(server, lambda: server.get("/refused-while-draining"), 503)
        assert refused.headers["Retry-After"] == "5"
        assert not gated.entered("sync")
        gated.let_go("a")
        server.wait_for(lambda: gated.entered("sync"))
        assert (
            eventually(server, lambda: server.get("/refused-while-held"), 503)
            .headers["Content-Type"]
            .startswith("text/html")
        )
        gated.let_go("b")
        assert (before.result().status_code, sync.result().status_code) == (200, 200)


@every_class
def test_fifty_contenders_have_it_one_after_the_other(gated: Gated) -> None:
    with gated.serving() as server, Load(server.url, threads=2) as load:
        contenders = [
            gated.send(server, "PUT", "/sync?alone=1&on_busy=wait&drain_timeout=60") for _ in range(CONTENDERS)
        ]
        assert [contender.result().status_code for contender in contenders] == [200] * CONTENDERS
        load.stop()
        assert len(gated.runs_of("sync")) == CONTENDERS
        assert {status for status, _ in load.answers} <= {200, 503}
        assert load.failures == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_two_one_runs_and_the_other_is_refused(gated: Gated, concurrent: str, workers: str) -> None:
    """Both in one worker, and in two."""
    with gated.serving("-k", concurrent, workers=workers) as server:
        first = gated.enter(server, "/first?alone=1&until=a", "PUT")
        assert server.request("PUT", "/second?alone=1").status_code == 503
        gated.let_go("a")
        assert first.result().status_code == 200
        assert not gated.entered("second")


@every_class
def test_two_that_come_together_do_not_wait_for_each_other(gated: Gated) -> None:
    """Both are in the app when they ask: each must count as idle for the other, or none would ever run."""
    with gated.serving(workers="3") as server:
        before = gated.enter(server, "/before?until=a")
        path = "alone=1&on_busy=wait&ask_when=b"
        both = [gated.send(server, "PUT", f"/{name}?{path}") for name in ("first", "second")]
        server.wait_for(lambda: len(gated.said("asks")) == 2)
        gated.let_go("b")
        eventually(server, lambda: server.get("/"), 503)
        gated.let_go("a")
        assert before.result().status_code == 200
        assert [each.result().status_code for each in both] == [200, 200]


@every_class
def test_with_hold_others_wait_until_it_is_over(gated: Gated) -> None:
    with gated.serving() as server:
        sync = gated.enter(server, "/sync?alone=1&hold=60&until=a", "PUT")
        held = [gated.send(server, "GET", f"/held-{n}") for n in range(6)]
        gone = socket.create_connection(("127.0.0.1", server.port))
        gone.sendall(b"GET /gone HTTP/1.1\r\nHost: x\r\n\r\n")
        gone.close()
        gated.let_go("a")
        assert [each.result().status_code for each in (sync, *held)] == [200] * 7


@every_class
def test_who_was_held_for_long_enough_is_refused(gated: Gated) -> None:
    with gated.serving() as server:
        sync = gated.enter(server, "/sync?alone=1&hold=0.2&until=a", "PUT")
        assert server.get("/held").status_code == 503
        gated.let_go("a")
        assert sync.result().status_code == 200


@every_class
def test_a_check_of_new_code_may_be_one_that_runs_alone(gated: Gated) -> None:
    with gated.serving("--reload-check", "/check?alone=1") as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves")
        assert gated.entered("check")


@every_class
def test_a_check_of_new_code_that_has_begun_ends_first(gated: Gated) -> None:
    with gated.serving("--reload-check", "/check?until=a") as server:
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: gated.entered("check"))
        sync = gated.ask(server, "/sync?alone=1")
        eventually(server, lambda: server.get("/refused"), 503)
        assert not gated.entered("sync")
        gated.let_go("a")
        assert sync.result().status_code == 200
        server.wait_for_log("reload done: generation 2 serves")


@every_class
@pytest.mark.parametrize("holding", [False, True], ids=["draining", "holding"])
def test_the_death_of_the_owner_opens_the_gate(gated: Gated, holding: bool) -> None:
    with gated.serving() as server:
        before = gated.enter(server, "/before?until=a")
        sync = gated.ask(server, "/sync?alone=1&until=never")
        eventually(server, lambda: server.get("/"), 503)
        if holding:
            gated.let_go("a")
            server.wait_for(lambda: gated.entered("sync"))
        os.kill(gated.said("asks")[0], signal.SIGKILL)
        server.wait_for_log("was killed by SIGKILL")
        gated.let_go("a")
        gated.assert_open(server)
        assert sync.exception() is not None
        assert before.exception() is None or gated.runs_of("before")


@every_class
def test_a_worker_that_dies_is_not_waited_for(gated: Gated) -> None:
    with gated.serving() as server:
        victim, other = server.workers()
        to_victim, to_other = gated.connect(server, victim), gated.connect(server, other)
        before = gated.send_on(to_victim, "GET", "/before?until=never")
        server.wait_for(lambda: gated.entered("before"))
        sync = gated.send_on(to_other, "PUT", "/sync?alone=1")
        server.wait_for(lambda: gated.said("asks"))
        eventually(server, lambda: server.get("/"), 503)
        assert not gated.entered("sync")
        os.kill(victim, signal.SIGKILL)
        assert before.exception() is not None
        assert sync.result() == 200


@every_class
def test_a_drain_that_takes_too_long_is_given_up_and_all_goes_on(gated: Gated) -> None:
    with gated.serving() as server:
        endless = gated.send(server, "GET", "/endless?stream=a", stream=True)  # a response that does not end
        server.wait_for(lambda: gated.entered("endless"))
        refused = server.request("PUT", "/sync?alone=1&drain_timeout=0.3")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "5"
        server.wait_for_log("is refused: 1 worker did not finish in 0.3 s")
        assert not gated.entered("sync")
        gated.assert_open(server)
        gated.let_go("a")
        assert endless.result().text.startswith("first")


@every_class
def test_workers_that_do_not_end_in_time_are_killed_only_if_that_is_asked_for(gated: Gated) -> None:
    with gated.serving() as server:
        stuck, other = server.workers()
        to_other = gated.connect(server, other)
        endless = gated.send_on(gated.connect(server, stuck), "GET", "/endless?stream=never")
        server.wait_for(lambda: gated.entered("endless"))
        sync = gated.send_on(to_other, "PUT", "/sync?alone=1&drain_timeout=0.3&on_stuck=kill")
        assert sync.result() == 200
        assert endless.exception() is not None
        server.wait_for_log(rf"pid {stuck} was killed by pyserve \(SIGKILL\): it did not become idle in time")


def test_the_responder_answers_for_the_only_sync_worker(gated: Gated) -> None:
    with gated.serving("-k", "sync", workers="1") as server:
        sync = gated.enter(server, "/sync?alone=1&until=a", "PUT")
        for _ in range(3):
            refused = server.get("/")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        gated.let_go("a")
        assert sync.result().status_code == 200


@every_class
@pytest.mark.parametrize("workers", ["1", "3"])
def test_kept_connections_of_the_owners_worker_are_refused_at_once_too(gated: Gated, workers: str) -> None:
    """The owner runs until all have their answers."""
    with gated.serving(workers=workers) as server:
        kept = [gated.keep(server) for _ in range(12)]
        sync = gated.enter(server, "/sync?alone=1&until=a", "PUT")
        assert {status_on(connection, "/refused") for connection in kept} == {503}
        gated.let_go("a")
        assert sync.result().status_code == 200
        gated.assert_open(server)
        assert {status_on(connection, "/") for connection in kept} == {200}


@pytest.mark.parametrize("workers", ["2", "3"])
def test_kept_connections_of_workers_that_wait_for_the_gate_are_refused_at_once_too(gated: Gated, workers: str) -> None:
    """One sync worker is alone, and another waits for its turn: of two that is all, of three one can still say no."""
    with gated.serving("-k", "sync", workers=workers) as server:
        kept = [gated.keep(server) for _ in range(12)]
        terms = "alone=1&on_busy=wait&drain_timeout=60&ask_when=both&until=a"
        pair = [gated.ask(server, f"/sync{number}?{terms}") for number in (1, 2)]
        gated.let_go("both")
        server.wait_for(lambda: gated.entered("sync1") or gated.entered("sync2"))
        assert {status_on(connection, "/refused") for connection in kept} == {503}
        gated.let_go("a")
        assert [sync.result().status_code for sync in pair] == [200, 200]


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_requests_that_wait_for_the_only_sync_worker_are_held_by_the_responder(gated: Gated, kept: bool) -> None:
    """With their bodies; then they run alone, one after the other. Others are refused meanwhile."""
    job = "/job?alone=1&on_busy=wait&drain_timeout=60"
    with gated.serving("-k", "sync", workers="1") as server:
        others = [gated.keep(server) for _ in range(3)]
        connections = [gated.keep(server) if kept else gated.new(server) for _ in BODIES]
        first = gated.ask(server, f"{job}&until=a")
        server.wait_for(lambda: gated.entered("job"))
        waiting = [
            gated.put_on(connection, job, body, chunked=number % 2 == 1)
            for number, (connection, body) in enumerate(zip(connections, BODIES, strict=True))
        ]
        server.wait_for_log("the responder answers with 503")
        assert {status_on(connection, "/refused") for connection in others} == {503}
        assert server.get("/").status_code == 503
        assert not any(each.done() for each in waiting)
        gated.let_go("a")
        assert first.result().status_code == 200
        assert [each.result() for each in waiting] == [(200, digest(body)) for body in BODIES]
        gated.assert_open(server)
        assert len(gated.runs_of("job")) == 1 + len(BODIES)
        assert {status_on(connection, "/") for connection in connections} == {200}


def test_requests_that_have_waited_at_the_responder_for_long_enough_are_refused(gated: Gated) -> None:
    with gated.serving("-k", "sync", workers="1") as server:
        job = "/job?alone=1&on_busy=wait&drain_timeout=0.6"
        first = gated.ask(server, f"{job}&until=a")
        server.wait_for(lambda: gated.entered("job"))
        assert server.request("PUT", job).status_code == 503
        gated.let_go("a")
        assert first.result().status_code == 200
        gated.assert_open(server)
        assert len(gated.runs_of("job")) == 1


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_requests_that_wait_at_the_responder_are_refused_at_the_end(gated: Gated, end: signal.Signals) -> None:
    """Of the server, and of its master, whom nothing survives but what is in the app."""
    with gated.serving("-k", "sync", workers="1") as server:
        job = "/job?alone=1&on_busy=wait&drain_timeout=60"
        first = gated.ask(server, f"{job}&until=a")
        server.wait_for(lambda: gated.entered("job"))
        waiting = gated.put_on(gated.new(server), job, b"x")
        server.wait_for_log("the responder answers with 503")
        assert server.get("/").status_code == 503
        assert not waiting.done()
        os.kill(server.pid, end)
        assert waiting.result()[0] == 503
        gated.let_go("a")
        assert first.result().status_code == 200
        server.wait()
        server.wait_for(lambda: not server.processes())
    assert len(gated.runs_of("job")) == 1


@every_class
def test_a_candidate_whose_client_goes_away_does_not_keep_the_gate_closed(gated: Gated) -> None:
    with gated.serving() as server:
        before = gated.enter(server, "/before?until=a")
        candidate = socket.create_connection(("127.0.0.1", server.port))
        candidate.sendall(b"PUT /sync?alone=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        server.wait_for(lambda: gated.said("asks"))
        candidate.close()
        server.wait_for(lambda: server.get("/").status_code == 200)
        assert not before.done()
        gated.let_go("a")
        assert before.result().status_code == 200
        assert not gated.entered("sync")


@every_class
def test_an_app_that_calls_itself_is_refused(gated: Gated) -> None:
    """Not held: it would wait for itself. Under sync workers the other one, or the responder, says so."""
    for workers in ("1", "2"):
        with gated.serving(workers=workers) as server:
            assert server.request("PUT", "/sync?alone=1&call=1").status_code == 200
    assert gated.said("called") == [503, 503]


@every_class
def test_an_owner_that_raises_or_answers_500_opens_the_gate(gated: Gated) -> None:
    with gated.serving() as server:
        assert server.request("PUT", "/sync?alone=1&raise=1").status_code == 500
        gated.assert_open(server)
        assert server.request("PUT", "/sync?alone=1&status=500+No").status_code == 500


@every_class
def test_the_gate_opens_when_the_response_is_closed_and_not_before(gated: Gated) -> None:
    with gated.serving() as server:
        sync = gated.ask(server, "/sync?alone=1&stream=a", stream=True)
        assert sync.result().status_code == 200  # its head has come
        assert eventually(server, lambda: server.get("/"), 503).status_code == 503
        gated.let_go("a")
        assert sync.result().text.startswith("first .")


@every_class
def test_a_worker_that_is_born_meanwhile_lets_nothing_in(gated: Gated) -> None:
    with gated.serving(workers="1") as server:
        sync = gated.enter(server, "/sync?alone=1&until=a", "PUT")
        server.signal(signal.SIGTTIN)
        server.wait_for(lambda: server.log.count("is serving") == 2)
        for _ in range(4):
            assert server.get("/").status_code == 503
        gated.let_go("a")
        assert sync.result().status_code == 200


@every_class
@pytest.mark.parametrize("holding", [False, True], ids=["draining", "holding"])
def test_reload_and_scale_down_wait_until_it_is_over(gated: Gated, holding: bool) -> None:
    """They would give the request the graceful timeout and no more."""
    with gated.serving("--graceful-timeout", "1") as server:
        workers = set(server.workers())
        before = gated.enter(server, "/before?until=a")
        sync = gated.ask(server, "/sync?alone=1&until=b")
        eventually(server, lambda: server.get("/"), 503)
        if holding:
            gated.let_go("a")
            server.wait_for(lambda: gated.entered("sync"))
        server.signal(signal.SIGTTOU)
        server.wait_for_log("workers: 2 → 1")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload: app\.wsgi.* runs alone; it begins when it has ended")
        assert set(server.workers()) == workers
        gated.let_go("a")
        server.wait_for(lambda: gated.entered("sync"))
        gated.let_go("b")
        assert (before.result().status_code, sync.result().status_code) == (200, 200)
        server.wait_for_log("reload done: generation 2 serves")


@every_class
@pytest.mark.parametrize("holding", [False, True], ids=["draining", "holding"])
def test_a_stop_lets_the_owner_finish_and_refuses_who_only_waits(gated: Gated, holding: bool) -> None:
    with gated.serving() as server:
        before = gated.enter(server, "/before?until=a")
        sync = gated.ask(server, "/sync?alone=1&hold=60&until=b")
        server.wait_for(lambda: gated.said("asks"))
        if holding:
            gated.let_go("a")
            server.wait_for(lambda: gated.entered("sync"))
        server.signal(signal.SIGTERM)
        server.wait_for_log(r"stopping \(SIGTERM\)")
        if not holding:
            assert sync.result().status_code == 503
        gated.let_go("a")
        gated.let_go("b")
        assert before.result().status_code == 200
        assert sync.result().status_code == (200 if holding else 503)
        assert server.wait() == 0
        gated.assert_alone()


@every_class
def test_the_death_of_the_master_does_not_end_the_owner(gated: Gated) -> None:
    with gated.serving() as server:
        sync = gated.enter(server, "/sync?alone=1&hold=0.1&until=a", "PUT")
        held = gated.send(server, "GET", "/held")
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        gated.let_go("a")
        assert sync.result().status_code == 200
        server.wait_for(lambda: not server.processes())
        gated.assert_alone()
        assert held.exception() is not None or held.result().status_code in (200, 503)


# Time.


@every_class
def test_the_request_timeout_does_not_count_and_its_own_does(gated: Gated) -> None:
    with gated.serving("--timeout", "1") as server:
        sync = gated.ask(server, "/sync?alone=1&until=a")
        server.wait_for(lambda: bool(gated.runs_of("sync")) and lasted(gated) > 2.5)
        gated.let_go("a")
        assert sync.result().status_code == 200
        gated.assert_open(server)
        assert server.request("PUT", "/late?alone=1&timeout=1&until=never").status_code == 504
        server.wait_for_log("has run alone for longer than its timeout")


@every_class
def test_one_that_cannot_be_interrupted_does_not_keep_the_gate_closed(gated: Gated) -> None:
    """In a thread, one long sleep is not; its worker is then replaced."""
    with gated.serving() as server:
        assert server.request("PUT", "/late?alone=1&timeout=0.5&sleep=600").status_code == 504
        server.wait_for(lambda: server.get("/").status_code == 200)


@every_class
def test_one_that_computes_has_its_own_timeout_and_not_the_servers(gated: Gated) -> None:
    """Under gevent it keeps its worker from showing that it lives."""
    with gated.serving("--timeout", "1") as server:
        assert server.request("PUT", "/sync?alone=1&compute=6").status_code == 200
        gated.assert_open(server)
        assert server.request("PUT", "/late?alone=1&timeout=1&compute=600").status_code == 504


def lasted(gated: Gated) -> float:
    run = gated.runs_of("sync")[0]
    return run.ended - run.began


@every_class
@pytest.mark.parametrize("first, second", [("GET", "HEAD"), ("HEAD", "GET")])
def test_a_head_waits_for_its_turn_with_the_get(gated: Gated, first: str, second: str) -> None:
    """The same view answers both; the second, which cannot say that it would wait, is held for it."""
    job = "/job?alone=1&on_busy=wait&drain_timeout=60"
    with gated.serving(workers="1") as server:
        alone = gated.send(server, first, f"{job}&until=a")
        server.wait_for(lambda: gated.entered("job"))
        waiting = gated.send(server, second, job)
        eventually(server, lambda: server.get("/"), 503)
        assert not waiting.done()
        gated.let_go("a")
        assert alone.result().status_code == 200
        assert waiting.result().status_code == 200


# From the configuration.


@every_class
def test_requests_named_in_the_configuration_run_alone(gated: Gated) -> None:
    config = gated.folder / "pyserve.toml"
    config.write_text('app = "app:configured"\nworkers = 2\nexclusive = ["PUT /api/sync"]\n')
    with serve(cwd=gated.folder) as server:
        sync = gated.send(server, "PUT", "/api/sync?until=a", data=b"[]")
        server.wait_for(lambda: gated.entered("api/sync"))
        assert server.request("PUT", "/api/sync").status_code == 503
        assert server.get("/api/sync").status_code == 503
        gated.let_go("a")
        assert sync.result().status_code == 200
        gated.assert_open(server)
        assert server.get("/api/sync").status_code == 200


@every_class
def test_a_get_named_in_the_configuration_is_alone_also_as_a_head(gated: Gated) -> None:
    config = gated.folder / "pyserve.toml"
    config.write_text('app = "app:configured"\nworkers = 2\nexclusive = ["GET /report"]\n')
    with serve(cwd=gated.folder) as server:
        report = gated.send(server, "HEAD", "/report?until=a")
        server.wait_for(lambda: gated.entered("report"))
        assert server.get("/report").status_code == 503
        assert server.get("/").status_code == 503
        gated.let_go("a")
        assert report.result().status_code == 200
        assert server.request("HEAD", "/report").status_code == 200
        gated.assert_open(server)


@every_class
@pytest.mark.parametrize("holding", [False, True], ids=["draining", "holding"])
def test_an_upgrade_waits_until_it_is_over(gated: Gated, holding: bool) -> None:
    with gated.serving() as server:
        before = gated.enter(server, "/before?until=a")
        sync = gated.ask(server, "/sync?alone=1&until=b")
        eventually(server, lambda: server.get("/"), 503)
        if holding:
            gated.let_go("a")
            server.wait_for(lambda: gated.entered("sync"))
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade: it waits until nobody runs alone, or wants to")
        gated.let_go("a")
        gated.let_go("b")
        assert (before.result().status_code, sync.result().status_code) == (200, 200)
        server.wait_for_log("upgraded: pyserve")
        assert server.request("PUT", "/again?alone=1").status_code == 200
