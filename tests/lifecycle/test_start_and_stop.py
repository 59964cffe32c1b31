"""From the command line to the last exit code."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lifecycle.load import Load
from lifecycle.project import Project, in_app
from support import serve
from support.processes import GENEROUS, title, wait_for


def run(*arguments: str, cwd: Path, timeout: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "pyserve", *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_four_workers_serve(project: Project) -> None:
    with serve("app:wsgi", "--workers", "4", cwd=project.folder) as server:
        server.wait_for_log("ready: 4 workers")
        assert len(server.workers()) == 4
        assert server.get("/").text.startswith("one ")


def test_processes_have_titles(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        server.wait_for_log("ready: 1 worker")
        title = Path(f"/proc/{server.pid}/cmdline").read_bytes().strip(b"\0").decode()
        assert title == "pyserve: master [app:wsgi]"
        worker = Path(f"/proc/{server.workers()[0]}/cmdline")
        server.wait_for(lambda: worker.read_bytes().strip(b"\0").decode() == "pyserve: worker 0 gen 1 [app:wsgi]")


def test_the_master_never_imports_the_app(project: Project) -> None:
    project.append("\nopen('imported-by', 'a').write(f'{os.getpid()}\\n')\n")
    with serve("app:wsgi", "--workers", "3", cwd=project.folder) as server:
        server.wait_for_log("ready")
        importers = (project.folder / "imported-by").read_text().split()
        assert len(importers) == 1  # once for all workers
        assert importers[0] not in {str(server.pid), *map(str, server.workers())}


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop_answers_the_request_under_way(project: Project, number: signal.Signals) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        # A worker that accepts alone may take both connections; each is to have one.
        server.wait_for(lambda: all("ready" not in title(pid) for pid in server.workers()))
        with Load(server.url, "/sleep?until=go", threads=2) as load:
            server.wait_for(lambda: in_app(server, 2))
            load.stopped.set()
            server.signal(number)
            server.wait_for_log("stopping")
            project.let_go()
            load.stop()
        assert [status for status, _ in load.answers] == [200, 200]
        assert load.failures == []
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_term_under_load_answers_all_that_was_accepted(project: Project) -> None:
    with serve("app:wsgi", "--workers", "4", cwd=project.folder) as server:
        with Load(server.url, threads=8) as fresh, Load(server.url, threads=8, reuse=True, pause=0.01) as kept:
            server.wait_for(lambda: len(fresh.answers) > 200 and len(kept.answers) > 200)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            fresh.stop()
        assert fresh.failures == []
        assert {status for status, _ in fresh.answers + kept.answers} == {200}
        # A kept connection is told to close with its last answer; after that nobody listens.
        assert all(isinstance(failure, ConnectionRefusedError) for failure in kept.failures)


@pytest.mark.usefixtures("worker_class")
def test_clients_that_wait_in_the_queue_are_served_at_the_stop(project: Project) -> None:
    """Six clients queue before one busy worker; then comes the TERM. (gunicorn sync resets five of them.)"""
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        with Load(server.url, "/sleep?until=go", threads=6) as load:
            server.wait_for(lambda: in_app(server, 1) and len(load.sent) >= 6)
            load.stopped.set()
            server.signal(signal.SIGTERM)
            server.wait_for_log("stopping")
            project.let_go()
            load.stop()
        assert load.failures == []
        assert len(load.answers) == 6
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_the_graceful_timeout_cuts_and_says_so(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--graceful-timeout", "1", cwd=project.folder) as server:
        with Load(server.url, "/sleep?60", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            server.signal(signal.SIGTERM)
            assert server.wait() == 70
            load.stop()
        assert "GET /sleep" in server.log
        assert "time.sleep" in server.log  # the stack
        assert "1 request had to be cut" in server.log


@pytest.mark.usefixtures("worker_class")
def test_quit_stops_at_once(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        with Load(server.url, "/sleep?60", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            server.signal(signal.SIGQUIT)
            assert server.wait() == 70
            load.stop()
        assert len(load.failures) == 1


def test_a_second_interrupt_is_fast(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        with Load(server.url, "/sleep?60", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            server.signal(signal.SIGINT)
            server.wait_for_log("stopping")
            server.signal(signal.SIGINT)
            assert server.wait() == 70
            load.stop()


def test_ctrl_c_in_the_terminal_is_graceful(project: Project) -> None:
    """Ctrl-C reaches every process of the group; only the master may take it."""
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        with Load(server.url, "/sleep?until=go", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            for pid in server.tree():
                with contextlib.suppress(ProcessLookupError):  # it has ended by what the master did since
                    os.kill(pid, signal.SIGINT)
            server.wait_for_log("stopping")
            project.let_go()
            load.stop()
        assert [status for status, _ in load.answers] == [200]
        assert server.wait() == 0


@pytest.mark.parametrize(
    "code, exit_code, reason",
    [
        ("import no_such_thing\n", 4, "No module named 'no_such_thing'"),
        ("def broken(\n", 4, "SyntaxError"),
        ("import os; os._exit(3)\n", 4, "exited with code 3"),
        ("wsgi = 'text'\n", 4, "wsgi"),
        (
            "import pyserve\nwsgi = print\n@pyserve.on_app_loaded\ndef h(): raise ValueError('no')\n",
            3,
            "ValueError: no",
        ),
        ("import pyserve\nwsgi = print\n@pyserve.on_init\ndef h(): raise ValueError('no')\n", 3, "ValueError: no"),
        ("import time; time.sleep(600)\n", 4, "boot_timeout"),
    ],
    ids=["import", "syntax", "exit", "not callable", "on_app_loaded", "on_init", "hangs"],
)
def test_the_first_generation_that_fails_ends_the_master(
    tmp_path: Path, code: str, exit_code: int, reason: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    ended = run("broken:wsgi", "-b", "127.0.0.1:0", "-w", "2", "--boot-timeout", "2", cwd=tmp_path)
    assert reason in ended.stderr
    assert ended.returncode == exit_code
    if "stacks of its threads follow" not in ended.stderr:
        assert "pyserve_workers" not in ended.stderr  # the user's traceback, not ours
    assert left_behind(tmp_path) == []


def test_a_zygote_that_dies_before_it_can_write_its_stacks_is_still_explained(tmp_path: Path) -> None:
    """The signal for the stacks ended it, as one without a handler does, and the log named a number of a signal."""
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)\n")
    ended = run("slow:wsgi", "-b", "127.0.0.1:0", "--boot-timeout", "0.001", cwd=tmp_path)
    assert re.search(r"zygote 1 was killed by pyserve \(.*\): the app did not load within boot_timeout", ended.stderr)
    assert ended.returncode == 4


def left_behind(folder: Path) -> list[str]:
    """Processes that still have this folder as their own."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(folder):
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_port_in_use_names_its_holder(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        ended = run("app:wsgi", "--bind", f"127.0.0.1:{port}", cwd=project.folder)
    assert ended.returncode == 69
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use by" in ended.stderr
    assert f"(pid {os.getpid()})" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("worker_class")
def test_kill_9_of_the_master_ends_every_process(project: Project) -> None:
    with serve("app:wsgi", "--workers", "3", cwd=project.folder) as server:
        tree = server.tree()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in tree))
        assert "the master is gone" in server.log


def test_kill_9_of_the_master_ends_even_a_worker_that_is_stuck_in_c(project: Project) -> None:
    options = ("--workers", "1", "--graceful-timeout", "1", "--hook-timeout", "1")
    with serve("app:wsgi", *options, cwd=project.folder) as server:
        worker = server.workers()[0]
        with Load(server.url, "/c?13", threads=1) as load:
            server.wait_for(lambda: cpu_bound(worker))
            load.stopped.set()
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            server.wait_for(lambda: not os.path.exists(f"/proc/{worker}/exe"))


def cpu_bound(pid: int) -> bool:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) > os.sysconf("SC_CLK_TCK") // 4


def test_the_pidfile_is_there_while_serving(project: Project) -> None:
    pidfile = project.folder / "pyserve.pid"
    with serve("app:wsgi", "--pid", str(pidfile), cwd=project.folder) as server:
        assert int(pidfile.read_text()) == server.pid
        second = run("app:wsgi", "-b", "127.0.0.1:0", "--pid", str(pidfile), cwd=project.folder)
        assert second.returncode == 78
        assert f"pid {server.pid} is running" in second.stderr
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not pidfile.exists()


@pytest.mark.usefixtures("worker_class")
def test_a_unix_socket_is_served_and_removed(project: Project) -> None:
    path = project.folder / "pyserve.sock"
    with serve("app:wsgi", "--bind", f"unix:{path}", cwd=project.folder) as server:
        server.wait_for_log("ready")
        assert path.stat().st_mode & 0o777 == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200 OK")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not path.exists()


@pytest.mark.usefixtures("worker_class")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop privileges")
def test_privileges_are_dropped(project: Project) -> None:
    os.chmod(project.folder, 0o755)
    for parent in project.folder.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    with serve("app:wsgi", "--workers", "1", "--user", "nobody", cwd=project.folder) as server:
        status = Path(f"/proc/{server.workers()[0]}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        assert set(uids) == {"65534"}
        assert server.get("/").status_code == 200


@pytest.mark.usefixtures("worker_class")
def test_environment_directory_and_umask_reach_the_app(project: Project) -> None:
    project.append(
        "\ndef show(environ, start_response):\n"
        "    mask = os.umask(0); os.umask(mask)\n"
        "    start_response('200 OK', [])\n"
        "    return [f\"{os.environ['COLOUR']} {os.getcwd()} {mask:o}\".encode()]\n"
    )
    with serve("app:show", "-e", "COLOUR=green", "--umask", "027", cwd=project.folder) as server:
        assert server.get("/").text == f"green {project.folder} 27"


@pytest.mark.usefixtures("worker_class")
def test_start_hooks_run_in_order_and_stop_hooks_in_reverse(project: Project) -> None:
    hooks = "".join(
        f"\n@pyserve.{event}\n{prefix}def {event}_{name}({argument}):\n    print('hook', '{event}', '{name}', {argument or '0'}, flush=True)\n"
        for event, argument in [
            ("on_app_loaded", ""), ("before_fork", ""), ("after_fork", ""), ("on_init", ""), ("on_bootstrap", ""),
            ("on_destroy", "signal"), ("before_shutdown", "signal"), ("on_shutdown", "signal"),
        ]
        for name, prefix in [("a", ""), ("b", "async ")]
    )  # fmt: skip
    project.append(hooks)
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        server.wait_for_log("ready")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        told = [line.split()[1:] for line in server.log.splitlines() if line.startswith("hook ")]
    starts = ["on_app_loaded", "before_fork", "after_fork", "on_init", "on_bootstrap"]
    stops = ["on_destroy", "before_shutdown", "on_shutdown"]
    assert told == [[event, name, "0"] for event in starts for name in "ab"] + [
        [event, name, "SIGTERM"] for event in stops for name in "ba"
    ]


def test_a_term_during_the_boot_keeps_its_deadline(project: Project) -> None:
    """READY came after the TERM and took the deadline away; a hook that never ends then held the server for ever."""
    project.append("\n@pyserve.on_init\ndef slow():\n    time.sleep(2)\n")
    project.append("\n@pyserve.on_destroy\ndef endless(signal):\n    while True: time.sleep(1)\n")
    options = ("--workers", "1", "--graceful-timeout", "1", "--hook-timeout", "1")
    with serve("app:wsgi", *options, cwd=project.folder, ready=False) as server:
        server.wait_for_log("loaded app:wsgi")
        server.signal(signal.SIGTERM)
        assert server.wait() in (0, 70)


@pytest.mark.usefixtures("worker_class")
def test_a_hook_that_exits_does_not_cut_requests(project: Project) -> None:
    project.append("\n@pyserve.on_destroy\ndef leave(signal):\n    raise SystemExit(0)\n")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
            server.get("/")  # so the worker has taken the other connection, too
            server.signal(signal.SIGTERM)
            server.wait_for_log("on_destroy hook app.leave failed: SystemExit")
            client.sendall(b"b")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert server.wait() == 0


def test_closed_standard_streams(project: Project) -> None:
    log = project.folder / "error.log"
    command = f'exec "{sys.executable}" -m pyserve app:wsgi -b 127.0.0.1:0 -w 1 --error-logfile {log} <&- >&- 2>&-'
    with subprocess.Popen(["sh", "-c", command], cwd=project.folder) as process:
        wait_for(lambda: log.exists() and "ready: 1 worker" in log.read_text(), "the server")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize("count", ["1", "99999", "abc"])
def test_listen_fds_of_somebody_else(project: Project, count: str) -> None:
    command = f'LISTEN_PID=$$ LISTEN_FDS={count} exec "{sys.executable}" -m pyserve app:wsgi -b 127.0.0.1:0'
    log = project.folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(["sh", "-c", command], cwd=project.folder, stderr=output) as started,
    ):
        wait_for(lambda: started.poll() is not None or "ready: " in log.read_text(), "the server")
        started.terminate()
        assert started.wait(GENEROUS) in (69, 0)
    assert "Traceback" not in log.read_text()


RUBBISH = {
    "no message": "b'rubbish'",
    "no text": "b'\\xff\\x00'",
    "of another kind": """b'["HELLO", {"pid": 1}]'""",
    "of no kind": """b'["LOAD_FAILED", {"kind": "x", "message": "of no kind", "details": ""}]'""",
    "too long": "b'x' * 130_000",
}


@pytest.mark.parametrize("packet", RUBBISH.values(), ids=RUBBISH)
def test_an_app_that_writes_into_the_channel_at_start_is_told_in_one_line(project: Project, packet: str) -> None:
    """One that closes descriptors that are not its own, and opens others, for example."""
    project.append(f"""
import gc
from pyserve.ipc.channel import Channel
for each in gc.get_objects():
    if isinstance(each, Channel):
        each.socket.send({packet})
""")
    checked = run("--check-config", "app:wsgi", cwd=project.folder)
    assert (checked.returncode, checked.stdout) == (4, "")
    (line,) = checked.stderr.splitlines()
    assert re.match("pyserve: (the process that loads the app misused its channel: |of no kind$)", line)
    started = run("app:wsgi", "-b", "127.0.0.1:0", cwd=project.folder)
    assert started.returncode in (1, 4)
    assert "Traceback" not in started.stderr
    assert len(re.findall("misused its channel|of no kind", started.stderr)) == 1
    assert left_behind(project.folder) == []


def test_check_config_loads_the_app_and_serves_nothing(project: Project) -> None:
    fine = run("--check-config", "app:wsgi", "-b", "127.0.0.1:0", cwd=project.folder)
    assert (fine.returncode, fine.stdout) == (0, "configuration and app are fine\n")
    project.append("\nimport no_such_thing\n")
    broken = run("--check-config", "app:wsgi", cwd=project.folder)
    assert broken.returncode == 4
    assert "No module named 'no_such_thing'" in broken.stderr
    assert left_behind(project.folder) == []
