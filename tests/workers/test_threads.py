"""The threaded worker: what its threads do beside each other, and what one of them may do to the others."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from support import Server, serve
from support.processes import GENEROUS, wait_for

HERE = Path(__file__).parent
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
Started = Callable[..., AbstractContextManager["Threaded"]]


class Threaded:
    """A server of ``threaded_app`` with one worker, and clients that ask at the same time."""

    def __init__(self, server: Server, gate: Path) -> None:
        self.server = server
        self.gate = gate
        self.pool = ThreadPoolExecutor(64)
        self.kept: list[socket.socket] = []

    def ask(self, path: str, times: int = 1) -> list[Future[tuple[int, str]]]:
        return [self.pool.submit(self.get, path) for _ in range(times)]

    def get(self, path: str) -> tuple[int, str]:
        answer = self.server.get(path)
        return answer.status_code, answer.text

    def connect(self) -> socket.socket:
        """A connection that stays open, and has been accepted."""
        client = socket.create_connection(("127.0.0.1", self.server.port), GENEROUS)
        self.kept.append(client)
        client.sendall(GET % b"/")
        assert read_response(client).endswith(b"hello")
        return client

    def says(self, name: str) -> int:
        """A field of the one worker's slot of the scoreboard."""
        from pyserve.ipc.scoreboard import SLOTS, Scoreboard

        folder = f"/proc/{self.server.pid}/fd"
        for fd in os.listdir(folder):
            if "pyserve-scoreboard" in os.readlink(f"{folder}/{fd}"):
                board = Scoreboard(os.open(f"{folder}/{fd}", os.O_RDWR))
                os.close(board.fd)
                return next(slot.get(name) for slot in map(board.slot, range(SLOTS)) if slot.get("pid"))
        raise AssertionError("the master has no scoreboard")

    def until(self, **fields: int) -> None:
        """Wait until the scoreboard says so."""
        wait_for(lambda: {name: self.says(name) for name in fields} == fields, f"{fields} on the scoreboard")

    def asleep(self) -> bool:
        """Do all threads of the worker sleep, however often one looks?"""
        tasks = list(Path(f"/proc/{self.server.workers()[0]}/task").iterdir())
        return all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "S" for _ in range(50) for task in tasks
        )


def read_response(client: socket.socket) -> bytes:
    """A response with a Content-Length, over a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(client)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += receive(client)
    return head + b"\r\n\r\n" + body


def receive(client: socket.socket) -> bytes:
    data = client.recv(65536)
    assert data, "closed by the server"
    return data


@pytest.fixture
def start(tmp_path: Path) -> Started:
    """``with start("--threads", "4") as threaded: ...``; at the end every request that waits is let go."""

    @contextmanager
    def started(*arguments: str) -> Iterator[Threaded]:
        gate = tmp_path / "gate"
        with serve("threaded_app:app", "--workers", "1", *arguments, cwd=HERE, env={"GATE": str(gate)}) as server:
            threaded = Threaded(server, gate)
            try:
                yield threaded
            finally:
                gate.touch()
                for client in threaded.kept:
                    client.close()

    return started


@pytest.mark.parametrize("arguments", [["--threads", "2"], ["-k", "sync", "--threads", "2"], ["-k", "gthread"]])
def test_what_gunicorn_users_type(arguments: list[str], start: Started) -> None:
    with start(*arguments) as threaded:
        assert threaded.get("/multithread") == (200, "True")


def test_one_request_at_a_time_is_not_multithreaded(start: Started) -> None:
    with start("--threads", "1") as threaded:
        assert threaded.get("/multithread") == (200, "False")


# ------------------------------------------------------------------------------------------------ beside each other


def test_as_many_requests_as_threads_are_in_the_app_at_once(start: Started) -> None:
    with start("--threads", "3") as threaded:
        waiting = threaded.ask("/wait", 3)
        threaded.until(active=3)
        kept = threaded.ask("/", 5)  # not even accepted: another worker might have time
        wait_for(threaded.asleep)
        assert threaded.says("active") == 3
        assert threaded.says("connections") == 3
        threaded.gate.touch()
        assert [future.result(GENEROUS) for future in waiting] == [(200, "waited")] * 3
        assert [future.result(GENEROUS) for future in kept] == [(200, "hello")] * 5


def test_requests_of_open_connections_wait_in_a_queue_that_has_an_end(start: Started) -> None:
    with start("--threads", "2") as threaded:
        clients = [threaded.connect() for _ in range(8)]
        for client in clients:
            client.sendall(GET % b"/wait")
        threaded.until(active=2, queued=2)  # the other four are not read
        wait_for(threaded.asleep)
        assert threaded.says("queued") == 2
        assert threaded.says("queue_waits") == 0
        threaded.gate.touch()
        for client in clients:
            assert read_response(client).endswith(b"waited")
        threaded.until(active=0, queued=0)
        assert threaded.says("queue_waits") >= 6
        assert threaded.says("queue_time") > 0
        for client in clients:  # all are in the loop again
            client.sendall(GET % b"/")
            assert read_response(client).endswith(b"hello")


def test_a_request_that_takes_long_holds_nobody_up(start: Started) -> None:
    """The leader of the loop is in the app: another takes the loop over, however quick all requests were before."""
    with start("--threads", "2") as threaded:
        client = threaded.connect()
        for _ in range(200):
            client.sendall(GET % b"/")
            read_response(client)
        waiting = threaded.ask("/wait")
        threaded.until(active=1)
        for _ in range(200):  # past the requests after which a thread of the pool leads again
            client.sendall(GET % b"/")
            read_response(client)
        threaded.connect()
        assert not waiting[0].done()
        threaded.gate.touch()
        assert waiting[0].result(GENEROUS) == (200, "waited")


def test_what_is_sent_while_the_request_is_in_the_app_is_answered_afterwards(start: Started) -> None:
    with start("--threads", "2") as threaded:
        client = threaded.connect()
        client.sendall(GET % b"/wait")
        threaded.until(active=1)
        client.sendall((GET % b"/pid") * 50)
        wait_for(threaded.asleep)
        threaded.gate.touch()
        data = b""
        while data.count(b"HTTP/1.1 200 OK") < 51:
            data += receive(client)
        assert data.partition(b"\r\n\r\n")[2].startswith(b"waited")


def test_many_pipelined_requests_beside_others(start: Started) -> None:
    with start("--threads", "2") as threaded:
        waiting = threaded.ask("/wait")
        threaded.until(active=1)
        clients = [threaded.connect() for _ in range(4)]
        for client in clients:
            client.sendall((GET % b"/") * 100)
        for client in clients:
            data = b""
            while data.count(b"hello") < 100:
                data += receive(client)
            assert data.count(b"HTTP/1.1 200 OK") == 100
        threaded.gate.touch()
        assert waiting[0].result(GENEROUS) == (200, "waited")


def test_a_client_that_goes_away_while_its_request_waits_or_runs(start: Started) -> None:
    with start("--threads", "2") as threaded:
        clients = [threaded.connect() for _ in range(6)]
        for client in clients:
            client.sendall(GET % b"/wait")
        threaded.until(active=2, queued=2)
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            client.close()
        wait_for(threaded.asleep)
        threaded.gate.touch()
        threaded.until(active=0, queued=0, connections=0)
        assert threaded.get("/") == (200, "hello")


def test_a_stream_that_is_not_read_holds_nobody_up_and_ends_with_its_client(start: Started) -> None:
    arguments = ["--response-buffer", "64K", "--response-spool", "1M"]
    with start("--threads", "2", "--timeout", "1", *arguments) as threaded:
        client = threaded.connect()
        client.sendall(GET % b"/stream")
        threaded.until(active=1)
        wait_for(threaded.asleep)
        assert threaded.get("/") == (200, "hello")
        assert threaded.get("/closed") == (200, "0")
        client.close()
        wait_for(lambda: threaded.get("/closed") == (200, "1"))
        threaded.until(active=0)
        assert "has run for" not in threaded.server.log  # to wait for a client is not to run


# ------------------------------------------------------------------------------------------------------- threads


def test_threads_are_kept_and_context_variables_are_not(start: Started) -> None:
    with start("--threads", "3") as threaded:
        answers = [threaded.get("/who") for _ in range(50)]
        waiting = threaded.ask("/wait", 2)
        threaded.until(active=2)
        answers += [threaded.get("/who") for _ in range(50)]
        threaded.gate.touch()
        assert [future.result(GENEROUS)[0] for future in waiting] == [200, 200]
    names = set()
    counts: dict[str, int] = {}
    for _, text in answers:
        name, count, left = text.split()
        names.add(name)
        assert left == "0", "a request has left something to the next one"
        counts[name] = counts.get(name, 0) + 1
        assert int(count) == counts[name], "a thread was made anew"
    assert names <= {"pyserve-1", "pyserve-2", "pyserve-3"}


def test_thread_locals_are_released_before_the_last_hook(start: Started) -> None:
    with start("--threads", "2") as threaded:
        assert threaded.get("/who")[0] == 200
        threaded.server.stop()
        log = threaded.server.log
        assert log.index("a thread's locals are released") < log.rindex("stop hook")


def test_hooks_run_in_the_main_thread(start: Started) -> None:
    with start("--threads", "2") as threaded:
        assert threaded.get("/hooks") == (200, "MainThread,MainThread")
        threaded.server.stop()
        assert threaded.server.log.count("stop hook (SIGTERM) in MainThread") == 3


# ------------------------------------------------------------------------------------------------------ lateness


def test_a_late_request_is_interrupted_with_the_stack_of_its_thread_in_the_log(start: Started) -> None:
    with start("--threads", "3", "--timeout", "1") as threaded:
        worker = threaded.server.workers()
        late = threaded.ask("/wait", 2)
        assert [future.result(GENEROUS)[0] for future in late] == [504, 504]
        log = threaded.server.log
        assert log.count("GET /wait has run for") == 2
        assert log.count("time.sleep(0.005)") == 2
        assert log.count("Thread pyserve-") == 2
        assert threaded.get("/") == (200, "hello")
        assert threaded.server.workers() == worker


def test_a_request_that_cannot_be_interrupted_costs_its_worker_and_nobody_else(start: Started) -> None:
    with start("--threads", "3", "--timeout", "1") as threaded:
        worker = threaded.server.workers()[0]
        stuck = [*threaded.ask("/stubborn"), *threaded.ask("/sleep?300")]
        assert [future.result(GENEROUS) for future in stuck] == [(504, "The request took too long.\n")] * 2
        log = threaded.server.log
        assert "GET /stubborn goes on: this worker is replaced; its client is answered with 504" in log
        assert "swallowed" in log
        threaded.server.wait_for_log(r"has to leave \(a request that cannot be interrupted\); a replacement starts")
        threaded.server.wait_for_log(rf"pid {worker} has left")  # it does not wait for them
        assert int(threaded.get("/pid")[1]) != worker


def test_a_stream_that_is_stuck_is_cut_when_its_worker_leaves(start: Started) -> None:
    with start("--threads", "2", "--timeout", "1", "--graceful-timeout", "1", "--access-logfile", "-") as threaded:
        client = threaded.connect()
        client.sendall(GET % b"/half")
        threaded.server.wait_for_log("GET /half goes on: this worker is replaced$")
        data = b""
        while part := client.recv(65536):
            data += part
        assert data.endswith(b"half\r\n")  # a chunk, and no end
        threaded.server.wait_for_log("1 request was cut: the graceful timeout is over")
        threaded.server.wait_for_log(r"has left \(a request that cannot be interrupted\)")


def test_an_app_that_comes_back_after_its_client_was_answered(start: Started) -> None:
    arguments = ["--timeout", "1", "--access-logfile", "-", "--keepalive-linger", "60", "--graceful-timeout", "60"]
    with start("--threads", "2", *arguments) as threaded:
        idle = threaded.connect()  # keeps the worker from leaving
        assert threaded.ask("/stubborn")[0].result(GENEROUS)[0] == 504
        threaded.gate.touch()
        threaded.server.wait_for_log("the app has come back after its client was answered with 504")
        threaded.server.wait_for_log('"GET /stubborn HTTP/1.1" 504 ')
        idle.sendall(GET % b"/")
        assert read_response(idle).endswith(b"hello")


def test_requests_that_are_cut_are_answered_and_leave_their_stacks(start: Started) -> None:
    """Nothing interrupts sleep() in a thread. (Their connections were closed without a word.)"""
    with start("--threads", "3", "--graceful-timeout", "1", "--timeout", "0") as threaded:
        cut = threaded.ask("/sleep?300", 2)
        threaded.until(active=2)
        threaded.server.signal(signal.SIGTERM)
        assert threaded.server.wait() == 70
        assert [future.result(GENEROUS)[0] for future in cut] == [504] * 2
        log = threaded.server.log
        for number in (1, 2):
            assert f"pyserve-{number} runs GET /sleep?300" in log
        assert log.count('time.sleep(float(environ["QUERY_STRING"]))') == 2
        assert "2 requests were cut: the graceful timeout is over" in log
        assert "was killed by" not in log


def test_a_drain_finishes_what_runs_and_what_waits(start: Started) -> None:
    with start("--threads", "2") as threaded:
        clients = [threaded.connect() for _ in range(6)]
        for client in clients:
            client.sendall(GET % b"/wait")
        threaded.until(active=2, queued=2)
        threaded.server.signal(signal.SIGTERM)
        threaded.server.wait_for_log("stop hook")
        threaded.gate.touch()
        for client in clients:
            assert read_response(client).endswith(b"waited")
        assert threaded.server.wait() == 0


def test_signals_are_taken_while_every_thread_is_busy(start: Started) -> None:
    with start("--threads", "2") as threaded:
        worker = threaded.server.workers()[0]
        waiting = threaded.ask("/wait", 2)
        threaded.until(active=2)
        os.kill(worker, signal.SIGTERM)
        threaded.server.wait_for_log(rf"pid {worker} was told to stop \(SIGTERM\); a replacement starts")
        threaded.server.wait_for_log("stop hook")
        assert int(threaded.get("/pid")[1]) != worker
        threaded.gate.touch()
        assert [future.result(GENEROUS) for future in waiting] == [(200, "waited")] * 2
        threaded.server.wait_for_log(rf"pid {worker} has left \(SIGTERM\)")
