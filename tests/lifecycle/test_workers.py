"""Signals to workers, their deaths, and requests that run too long."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from lifecycle.load import Load
from lifecycle.project import Project, in_app
from support import serve


@pytest.mark.usefixtures("worker_class")
def test_term_to_a_worker_finishes_its_request_and_replaces_it_at_once(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        old = server.workers()[0]
        with Load(server.url, "/sleep?until=go", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            os.kill(old, signal.SIGTERM)
            # The replacement serves while the old one is still in its request.
            server.wait_for_log(rf"pid {old} was told to stop \(SIGTERM\); a replacement starts")
            assert server.get("/").status_code == 200
            assert old in server.workers()
            project.let_go()
            load.stop()
        assert [status for status, _ in load.answers] == [200]
        server.wait_for_log(rf"pid {old} has left \(SIGTERM\)")


@pytest.mark.usefixtures("worker_class")
def test_quit_to_a_worker_ends_it_now(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        old = server.workers()[0]
        os.kill(old, signal.SIGQUIT)
        server.wait_for_log("as a SIGQUIT asked for")
        assert server.get("/").status_code == 200
        assert server.workers() != [old]


@pytest.mark.usefixtures("worker_class")
def test_int_and_hup_to_workers_and_zygote_are_ignored(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        tree = [pid for pid in server.tree() if pid != server.pid]
        for pid in tree:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGHUP)
        assert server.get("/").status_code == 200
        assert set(tree) == {pid for pid in server.tree() if pid != server.pid}


def test_ttin_and_ttou_scale(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        server.signal(signal.SIGTTIN)
        server.wait_for_log("workers: 1 → 2")
        server.wait_for(lambda: len(server.workers()) == 2)
        server.signal(signal.SIGTTOU)
        server.wait_for_log("workers: 2 → 1")
        server.wait_for(lambda: len(server.workers()) == 1)
        server.signal(signal.SIGTTOU)
        server.wait_for_log("1 worker: there are 1 to 512, and not 0")
        assert server.get("/").status_code == 200


def test_a_killed_worker_is_replaced_at_once(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log(rf"pid {victim} was killed by SIGKILL; not by pyserve")
        server.wait_for(lambda: len(server.workers()) == 2 and victim not in server.workers())


def test_a_crash_loop_backs_off_and_never_ends_the_server(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--max-crashes", "3", cwd=project.folder) as server:
        for _ in range(3):
            server.wait_for(lambda: len(server.workers()) == 1)
            with Load(server.url, "/exit?3", threads=1) as load:
                server.wait_for(partial(bool, load.failures))
        server.wait_for_log("degraded: 3 crashes")
        assert "exited with code 3; 1 request cut" in server.log
        server.wait_for(lambda: server.get("/").status_code == 200)  # 503 while the next try is far away


def test_respawns_come_from_the_generation_that_serves(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        project.replace('"one"', '"never deployed"')
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log("was killed by SIGKILL")
        assert server.get("/").text.startswith("one ")


def test_a_dead_zygote_is_replaced(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        zygote = next(pid for pid in server.tree() if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(zygote, signal.SIGKILL)
        server.wait_for_log(r"(?s)zygote 1 was killed by SIGKILL.*generation 1: loaded")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log("was killed by SIGKILL")
        assert server.get("/").status_code == 200


def test_a_zygote_that_is_stuck_is_replaced(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--boot-timeout", "1", cwd=project.folder) as server:
        os.kill(server.zygotes()[0], signal.SIGSTOP)
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log(r"zygote 1 was killed by pyserve \(SIGKILL\): it did not fork a worker within boot_timeout")
        assert server.get("/").status_code == 200


def test_a_request_that_runs_too_long_is_interrupted_with_its_stack_in_the_log(
    project: Project, worker_class: str
) -> None:
    project.append("\nimport threading\nthreading_started = []\n")
    with serve("app:wsgi", "--workers", "1", "--timeout", "1", cwd=project.folder) as server:
        worker = server.workers()
        assert server.get("/sleep?60", timeout=60).status_code == 504
        assert "GET /sleep?60 has run for" in server.log
        assert "time.sleep(float(query))" in server.log
        assert server.get("/").status_code == 200
        if worker_class == "threads":  # nothing interrupts sleep() in a thread
            server.wait_for_log("this worker is replaced; its client is answered with 504")
        else:
            assert server.workers() == worker


@pytest.mark.usefixtures("worker_class")
def test_a_request_that_is_stuck_in_c_is_ended_with_its_worker(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--timeout", "1", cwd=project.folder) as server:
        worker = server.workers()[0]
        with Load(server.url, "/c?13", threads=1) as load:
            server.wait_for_log("stacks of its threads follow, then it is killed")
            load.stopped.set()
            server.wait_for_log(
                rf"pid {worker} was killed by pyserve \(SIGKILL\): (GET /c\?13 has run|a request has blocked it) for"
            )
        assert "app.py" in server.log.partition("stacks of its threads follow")[2]  # faulthandler's
        assert server.get("/").status_code == 200


@pytest.mark.usefixtures("worker_class")
def test_a_process_that_the_app_forked_ends_on_term(project: Project) -> None:
    """multiprocessing's terminate() sends a TERM; the child must not take itself for the worker."""
    project.append(
        "\ndef forks(environ, start_response):\n"
        "    import multiprocessing\n"
        "    child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,))\n"
        "    child.start(); child.terminate(); child.join()\n"
        "    start_response('200 OK', [])\n"
        "    return [str(child.exitcode).encode()]\n"
    )
    with serve("app:forks", "--workers", "1", cwd=project.folder) as server:
        assert server.get("/", timeout=60).text == "-15"
        assert server.get("/", timeout=60).text == "-15"
        assert "told to stop" not in server.log


@pytest.mark.usefixtures("worker_class")
def test_connections_spread_over_the_workers(project: Project) -> None:
    """64 keep-alive connections that come in turn are shared by four workers, by turns. (Two of them took nearly all
    when gevent's hub had been at work in the zygote.)"""
    import http.client
    from collections import Counter

    with serve("app:wsgi", "--workers", "4", cwd=project.folder) as server:
        served: Counter[str] = Counter()
        kept = []
        for _ in range(64):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", "/")
            served[connection.getresponse().read().split()[1].decode()] += 1
            kept.append(connection)
        for connection in kept:
            connection.close()
        assert len(served) == 4
        assert max(served.values()) <= 24
