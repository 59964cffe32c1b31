"""pyservectl and the control socket of a server that runs: every command, and every kind of bad client."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from lifecycle.operator import CTL, ctl, serving, status
from lifecycle.project import Project, in_app
from pyserve.control.commands import COMMANDS
from pyserve.control.control import CLIENTS_LIMIT, REQUEST_LIMIT
from support import Server, serve
from support.processes import GENEROUS, wait_for

NOBODY = 65534


def connect(project: Project) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(project.folder / "pyserve.ctl"))  # which waits while many others are before it
    client.settimeout(GENEROUS)
    return client


def exchange(project: Project, request: bytes) -> list[dict[str, Any]]:
    """The lines with which a request is answered."""
    with connect(project) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not be read to its end
            client.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                answer += part
    return [json.loads(each) for each in answer.splitlines()]


def in_background(server: Server, path: str) -> threading.Thread:
    """A request whose answer does not matter."""

    def get() -> None:
        with contextlib.suppress(requests.ConnectionError):
            server.get(path)

    thread = threading.Thread(target=get)
    thread.start()
    return thread


def wait_for_workers(server: Server, count: int) -> None:
    server.wait_for(lambda: len(server.workers()) == count)


# The socket.


def test_the_socket_is_its_owners_and_goes_with_the_server(project: Project) -> None:
    path = project.folder / "pyserve.ctl"
    with serving(project):
        found = path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert not path.exists()


def test_without_the_setting_there_is_no_socket(project: Project) -> None:
    with serve("app:wsgi", cwd=project.folder) as server:
        assert "control socket" not in server.log
        assert "no running server was found" in ctl(project, "status", code=69)


def test_under_systemd_it_is_in_the_runtime_directory(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runtime = tmp_path_factory.mktemp("run")
    environ = {"RUNTIME_DIRECTORY": f"{runtime}:/run/other"}
    with serve("app:wsgi", "--workers", "1", cwd=project.folder, env=environ):
        assert "1 of 1 workers serve" in ctl(project, "--socket", str(runtime / "pyserve.ctl"), "status")


def test_the_socket_of_a_dead_server_is_replaced(project: Project) -> None:
    path = project.folder / "pyserve.ctl"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(project, "--workers", "1"):
        assert "1 of 1 workers serve" in ctl(project, "status")


def test_a_second_server_at_the_same_socket_is_refused(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        with serve("app:wsgi", cwd=project.folder, ready=False) as second:
            assert second.wait() == 69
            assert second.log.count("\n") == 1
            assert f"pyserve.ctl: pid {server.pid} listens there" in second.log
        assert "1 of 1 workers serve" in ctl(project, "status")


def test_another_user_is_refused_by_the_file_and_by_name(project: Project) -> None:
    """Root's rights are given up in a process of its own; the second time the file lets everybody in."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    path = project.folder / "pyserve.ctl"
    project.folder.chmod(0o711)
    attempt = (
        f"import os, socket; client = socket.socket(socket.AF_UNIX); os.chdir({str(project.folder)!r}); "
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); client.settimeout(60); client.connect('pyserve.ctl'); "
        """client.sendall(b'{"version": 1, "command": "stop"}\\n'); print(client.recv(4096))"""
    )
    with serving(project, "--workers", "1") as server:
        first = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
        assert "PermissionError" in first.stderr
        path.chmod(0o666)
        second = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
        assert "ok" not in second.stdout
        server.wait_for_log(rf"control socket: pid \d+ of uid {NOBODY} was refused")
        assert server.get("/").text.startswith("one ")


# Bad clients.

GARBAGE = {
    "no JSON": (b"hello\n", "not a line of JSON"),
    "binary": (bytes(range(11, 256)) + b"\n", "not a line of JSON"),
    "empty": (b"\n", "not a line of JSON"),
    "deep": (b"[" * 60_000 + b"\n", "not a line of JSON"),
    "list": (b"[1]\n", "not a JSON object"),
    "no version": (b"{}\n", "version 1 of the protocol, not null"),
    "other version": (b'{"version": 2, "command": "status"}\n', "version 1 of the protocol, not 2"),
    "unknown": (b'{"version": 1, "command": "explode"}\n', "no such command here; there are status, reload"),
    "command is a list": (b'{"version": 1, "command": ["stop"]}\n', "no such command"),
    "argument": (b'{"version": 1, "command": "reload", "now": 1}\n', "reload has no argument now"),
    "type": (b'{"version": 1, "command": "reload", "wait": 1}\n', "wait is to be of the type bool"),
    "bool as number": (b'{"version": 1, "command": "dump", "worker": true}\n', "worker is to be of the type int"),
    "megabyte": (b"x" * (1 << 20), "a request has at most"),
    "megabyte after the line": (b"{}\n" + b"x" * (1 << 20), "version 1 of the protocol"),
}


def test_garbage_is_answered_with_what_is_wrong(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        for name, (request, reason) in GARBAGE.items():
            (end,) = exchange(project, request)
            assert (end["event"], end["ok"]) == ("end", False), name
            assert reason in end["text"], name
        assert server.get("/").text.startswith("one ")
        assert server.log.count(" error ") == 0


# One of each kind of JSON value, and the worst of each.
LONE = "\ud800"
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 10**30, -(10**30), 10**400, 0.5, -1.0, 1e308, math.nan, math.inf, -math.inf,
    "", "x", "on", LONE, "x" * 60_000, "é" * 30_000,
    [], ["/"], ["x"], [1], [None], [[]], [LONE], ["/" + LONE], ["/é"], ["/x?y"], ["/x" * 30_000], ["/" + "é" * 30_000],
    {}, {"wait": True}, {LONE: LONE},
]  # fmt: skip
# Those of the right type that are refused as well, by the type and the name of the argument.
HOSTILE: dict[type, list[Any]] = {
    bool: [],
    int: [10**30, -(10**30), 10**400],
    float: [-1.0, 1e308, math.nan, math.inf, -math.inf],
    str: [LONE],
    list: [["x"], [1], [None], [[]], [LONE], ["/" + LONE], ["/é"], ["/x?y"], ["/" + "é" * 30_000]],
}
WORSE: dict[str, list[Any]] = {"retry_after": [0, -1], "ticket": [0, 1, -1], "page": ["é" * 30_000]}
# What else a command has to be told, so that it would do something if the argument were right.
OTHERWISE: dict[str, dict[str, Any]] = {"maintenance": {"action": "on"}, "exclusive": {}, "stop": {}}


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


def wrong_requests() -> Iterator[dict[str, Any]]:
    """Every command with every argument of every wrong type, and of the right type and hostile."""
    for command, about in COMMANDS.items():
        for name, default in about.arguments.items():
            hostile = [*HOSTILE[type(default)], *WORSE.get(name, [])]
            for value in VALUES:
                if type(value) is not type(default) or any(same(value, each) for each in hostile):
                    yield {"command": command, **OTHERWISE.get(command, {}), name: value}
        yield from ({"command": command, name: True} for name in ("now", "", LONE, "x" * 60_000))
    yield from ({"command": value} for value in VALUES)
    yield from ({"command": "status", "version": value} for value in VALUES if value is not True and value != 1)


def test_every_argument_of_every_wrong_kind_is_refused_in_one_line_and_changes_nothing(project: Project) -> None:
    """A page of half a surrogate pair once ended the connections of all clients; paths that were too long for the channel
    closed the gate in the master, and no worker heard of it."""
    with serving(project, "--workers", "1") as server:
        before = server.workers()
        requests = list(wrong_requests())
        assert {request["command"] for request in requests if isinstance(request["command"], str)} >= COMMANDS.keys()
        for request in requests:
            for ascii_only in (True, False):
                try:
                    line = json.dumps({"version": 1, **request}, ensure_ascii=ascii_only).encode()
                except UnicodeEncodeError:  # only JSON's own escapes can say it
                    continue
                lines = exchange(project, line + b"\n")
                assert [(each["event"], each["ok"]) for each in lines] == [("end", False)], line[:200]
                assert "BUG" not in lines[0]["text"], line[:200]
        state = status(project)
        assert (state["gate"]["gate"], state["gate"]["maintenance"], state["target"]) == ("open", False, 1)
        assert server.get("/").text == f"one {before[0]}"
        assert server.workers() == before
        assert not re.search(" (error|warn|crit) |maintenance is on|reload|stopping", server.log)


def test_values_that_are_nested_deeply_are_refused(project: Project) -> None:
    begins = (b'{"version": ', b'{"version": 1, "command": ', b'{"version": 1, "command": "maintenance", "allow": ')
    with serving(project, "--workers", "1"):
        for depth in (100, 900, *range(970, 1010), 5000, 30_000):
            for begin in begins:
                (end,) = exchange(project, begin + b"[" * depth + b"]" * depth + b"}\n")
                assert (end["event"], end["ok"]) == ("end", False)


def test_clients_that_say_nothing_make_room_for_one_that_does(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        silent = []
        for _ in range(100):
            silent.append(connect(project))
        assert "1 of 1 workers serve" in ctl(project, "status")
        open_ends = len(os.listdir(f"/proc/{server.pid}/fd"))
        assert open_ends < CLIENTS_LIMIT + 40
        assert silent[0].recv(1) == b"", "who came first has been given up"
        for client in silent:
            client.close()


def test_a_client_that_never_reads_is_given_up_and_disturbs_nobody(project: Project) -> None:
    request = b'{"version": 1, "command": "reload", "wait": true}\n'
    with serving(project, "--workers", "1") as server:
        lazy = [connect(project) for _ in range(3)]
        for client in lazy:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.sendall(request)
        server.wait_for_log("reload done: generation [23]")
        ctl(project, "reload", "--wait")
        for client in lazy:
            client.close()
        assert server.get("/").text.startswith("one ")


def test_a_client_may_come_in_pieces_and_go_at_any_moment(project: Project) -> None:
    request = b'{"version": 1, "command": "status"}\n'
    with serving(project, "--workers", "1") as server:
        for length in range(len(request)):
            with connect(project) as client:
                client.sendall(request[:length])
        with connect(project) as client:
            for byte in request:
                client.send(bytes([byte]))
            client.shutdown(socket.SHUT_WR)
            assert json.loads(client.makefile().readline())["target"] == 1
        wait_for(lambda: status(project)["phase"] == "stable")
        assert " error " not in server.log


def test_a_request_is_limited(project: Project) -> None:
    with serving(project, "--workers", "1"):
        (end,) = exchange(project, b"x" * (REQUEST_LIMIT + 1))
        assert end["text"] == f"a request has at most {REQUEST_LIMIT} bytes"


# status


@pytest.mark.usefixtures("worker_class")
def test_status_tells_what_each_worker_does(project: Project) -> None:
    with serving(project, "--workers", "2") as server:
        for path in ("/", "/", "/"):
            server.get(path)
        thread = in_background(server, "/sleep?until=go")
        server.wait_for(lambda: in_app(server, 1))
        told = status(project)
        assert (told["phase"], told["generation"], told["target"], told["pid"]) == ("stable", 1, 2, server.pid)
        assert told["listeners"] == [server.url]
        assert [worker["pid"] for worker in told["workers"]] == server.workers()
        assert [worker["state"] for worker in told["workers"]] == ["serving", "serving"]
        assert all(worker["rss"] > 1 << 20 for worker in told["workers"])
        assert told["totals"]["active"] == 1
        assert told["totals"]["requests"] == told["totals"]["status"]["2xx"] == 3
        (only,) = told["generations"]
        assert (only["role"], only["workers"], only["zygote_pid"]) == ("serving", 2, server.zygotes()[0])
        project.let_go()
        thread.join()


def test_status_for_people_names_the_request_and_for_how_long(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        thread = in_background(server, "/sleep?until=go")
        server.wait_for(lambda: in_app(server, 1))
        page = ctl(project, "status")
        assert f"pid {server.pid}" in page
        assert "WORKER  GEN  STATE" in page
        assert "GET /sleep?until=go for " in page
        project.let_go()
        thread.join()


# reload


@pytest.mark.usefixtures("worker_class")
def test_reload_wait_shows_the_steps_and_ends_when_the_new_code_serves(project: Project) -> None:
    with serving(project, "--workers", "2") as server:
        project.replace('"one"', '"two"')
        steps = ctl(project, "reload", "--wait").splitlines()
        assert "generation 2 is being prepared" in steps[0]
        assert "loaded app:wsgi" in steps[1]
        assert sum("gen 2" in step and "is serving" in step for step in steps) == 2
        assert steps[-1] == "generation 2 serves"
        assert server.get("/").text.startswith("two ")


def test_reload_wait_shows_the_traceback_of_code_that_fails(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        project.append("\nraise RuntimeError('the database is away')\n")
        said = ctl(project, "reload", "--wait", code=1)
        assert "Traceback (most recent call last)" in said
        assert "RuntimeError: the database is away" in said
        assert said.splitlines()[-1] == "generation 2 does not serve"
        assert server.get("/").text.startswith("one ")


def test_reload_wait_of_a_hook_that_fails_in_the_first_new_worker(project: Project) -> None:
    with serving(project, "--workers", "1"):
        project.append("\n@pyserve.on_init\ndef bad():\n    raise ValueError('no pool')\n")
        assert "ValueError: no pool" in ctl(project, "reload", "--wait", code=1)


def test_a_wrong_configuration_is_told_to_who_asked(project: Project) -> None:
    with serving(project, "--workers", "1"):
        project.folder.joinpath("pyserve.toml").write_text('control_socket = "pyserve.ctl"\nworkerz = 3\n')
        said = ctl(project, "--socket", "pyserve.ctl", "reload", code=1)
        assert 'no setting is called "workerz"' in said


def test_two_reloads_at_once_end_each_with_its_own_outcome(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        project.append("\nimport time\nwhile os.path.exists('wait'): time.sleep(0.01)\n")
        project.folder.joinpath("wait").touch()
        first = subprocess.Popen([*CTL, "reload", "--wait"], cwd=project.folder, stdout=subprocess.PIPE, text=True)
        server.wait_for_log("generation 2 is being prepared")
        second = subprocess.Popen([*CTL, "reload", "--wait"], cwd=project.folder, stdout=subprocess.PIPE, text=True)
        server.wait_for_log("another follows when it has ended")
        project.folder.joinpath("wait").unlink()
        for process, generation in ((first, 2), (second, 3)):
            said, _ = process.communicate(timeout=GENEROUS)
            assert process.returncode == 0
            assert said.splitlines()[-1] == f"generation {generation} serves"


def test_a_reload_that_a_stop_overtakes_has_failed(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        project.append("\nimport time\ntime.sleep(600)\n")
        waiting = subprocess.Popen([*CTL, "reload", "--wait"], cwd=project.folder, stderr=subprocess.PIPE, text=True)
        server.wait_for_log("generation 2 is being prepared")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        _, said = waiting.communicate(timeout=GENEROUS)
        assert waiting.returncode == 1
        assert "generation 2 does not serve" in said


# scale and stop


def test_scale(project: Project) -> None:
    with serving(project, "--workers", "2") as server:
        for words, target in ((["+1"], 3), (["-2"], 1), (["4"], 4)):
            assert f"→ {target}" in ctl(project, "scale", *words)
            wait_for_workers(server, target)
        assert "there are 1 to 512, and not" in ctl(project, "scale", "-4", code=1)
        assert "is to be a number" in ctl(project, "scale", "many", code=2)
        ctl(project, "scale", code=2)


def test_stop_wait_ends_with_the_server(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        thread = in_background(server, "/sleep?1")
        server.wait_for(lambda: in_app(server, 1))
        said = ctl(project, "stop", "--wait")
        assert "stopped; the stop cut no request" in said
        assert server.wait() == 0
        thread.join()


def test_stop_wait_has_the_exit_code_of_the_server(project: Project) -> None:
    with serving(project, "--workers", "1", "--graceful-timeout", "0.5") as server:
        thread = in_background(server, "/sleep?60")
        server.wait_for(lambda: in_app(server, 1))
        assert "1 request had to be cut" in ctl(project, "stop", "--wait", code=70)
        assert server.wait() == 70
        thread.join()


# dump


@pytest.mark.usefixtures("worker_class")
def test_dump_shows_where_a_worker_is(project: Project) -> None:
    with serving(project, "--workers", "2") as server:
        thread = in_background(server, "/sleep?until=go")
        server.wait_for(lambda: in_app(server, 1))
        whole = ctl(project, "dump")
        assert whole.count("most recent call first") >= 2
        assert "in wsgi" in whole
        assert "worker 0 gen 1" in ctl(project, "dump", "0")
        assert "there is no worker 7" in ctl(project, "dump", "7", code=1)
        project.let_go()
        thread.join()
        server.wait_for(lambda: status(project)["totals"]["requests"] == 1)
        assert "most recent call" not in server.log, "it goes to who asked"


def test_dump_of_a_worker_that_hangs_in_c(project: Project) -> None:
    with serving(project, "--workers", "1") as server:
        thread = in_background(server, "/c?8")
        server.wait_for(lambda: status(project)["workers"][0]["request"] == "GET /c?8")
        said = ctl(project, "dump")
        assert "GET /c?8" in said
        assert "in wsgi" in said
        thread.join()


def test_dump_of_a_worker_that_is_stopped_says_so(project: Project) -> None:
    with serving(project, "--workers", "2") as server:
        stopped, other = server.workers()
        os.kill(stopped, signal.SIGSTOP)
        said = ctl(project, "dump", code=1)
        assert "no answer within 5 s: it is stopped" in said
        assert "most recent call first" in said, "the other has answered"
        os.kill(stopped, signal.SIGCONT)
        assert ctl(project, "dump").count("most recent call first") >= 2
        assert server.workers() == [stopped, other]


def test_who_asks_for_a_state_does_not_hear_the_log(project: Project) -> None:
    """Lines of the log once stood between those of an answer to status or dump, whose readers took them for a part of it."""
    with serving(project, "--workers", "1") as server:
        os.kill(server.workers()[0], signal.SIGSTOP)
        client = connect(project)
        client.sendall(b'{"version": 1, "command": "dump"}\n')
        status(project)  # it came later, so the dump has begun
        server.signal(signal.SIGTTIN)
        server.wait_for_log("workers: 1 → 2")
        os.kill(server.workers()[0], signal.SIGCONT)
        with client, client.makefile("rb") as lines:
            assert {json.loads(line)["event"] for line in lines} == {"stacks", "end"}


# Finding the server.


def test_who_finds_no_server_hears_where_it_was_looked_for(project: Project) -> None:
    said = ctl(project, "status", code=69)
    assert "no configuration with a control_socket" in said
    assert "/run/*/pyserve.ctl" in said


def test_a_configured_server_that_is_not_there(project: Project) -> None:
    project.folder.joinpath("pyserve.toml").write_text('control_socket = "pyserve.ctl"\n')
    assert "pyserve.ctl: not there" in ctl(project, "status", code=69)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(project.folder / "pyserve.ctl"))
    assert "nobody listens there any more" in ctl(project, "status", code=69)
