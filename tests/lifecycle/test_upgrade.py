"""SIGUSR2: another pyserve goes on in the same process, and neither workers nor clients notice."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading

import pytest
import requests

import pyserve
from lifecycle.load import Load
from lifecycle.project import Project, in_app
from support import Server, serve
from support.installed import Installed
from support.processes import GENEROUS, title

UPGRADED = r"upgraded: pyserve {} on Python \S+ goes on in place of pyserve {}, pid {}; 2 workers not touched"


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("site"))


def upgrade(server: Server, times: int = 1) -> None:
    """Ask for it, and wait until the new program is the master."""
    for _ in range(times):
        before = server.log.count("upgraded:")
        server.signal(signal.SIGUSR2)
        server.wait_for(lambda before=before: server.log.count("upgraded:") > before)  # type: ignore[misc]  # mypy does not see its type


def settled(server: Server) -> list[int]:
    """The master, its zygote and two workers, when the process that was between zygote and worker is gone, too."""
    server.wait_for(lambda: len(server.tree()) == 4)
    return server.tree()


def descriptors(pid: int) -> list[str]:
    return sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.usefixtures("worker_class")
def test_another_version_takes_over_under_load(project: Project, installed: Installed) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder, env=installed.environ) as server:
        workers, zygotes = server.workers(), server.zygotes()
        with (
            Load(server.url, threads=2) as fresh,
            Load(server.url, threads=2, reuse=True, pause=0.01) as kept,
            Load(server.url, "/sleep?until=go", threads=1) as slow,
        ):
            server.wait_for(lambda: in_app(server, 1))
            slow.stopped.set()
            before = pyserve.__version__
            for version in ("8.8", "9.9"):
                installed.release(version)
                server.signal(signal.SIGUSR2)
                server.wait_for_log(UPGRADED.format(version, before, server.pid))
                before = version
                served = len(fresh.answers)
                server.wait_for(lambda served=served: len(fresh.answers) > served + 50)  # type: ignore[misc]  # as above
            project.let_go()
            slow.stop()
        for load in (fresh, kept, slow):
            assert load.failures == []
            assert {status for status, _ in load.answers} == {200}
        assert (server.workers(), server.zygotes()) == (workers, zygotes)
        server.wait_for(lambda: title(server.pid) == "pyserve: master [app:wsgi]")  # said a moment after the log's line
        assert server.process.poll() is None
        project.replace('"one"', '"two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves with 2 workers")
        assert server.get("/").text.startswith("two ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_nothing_is_lost_or_left_over_by_many_upgrades(project: Project) -> None:
    """No descriptor more in the master, and none that does not belong there in the children it starts afterwards."""
    with serve("app:wsgi", "--workers", "2", "--keep-previous", "0", cwd=project.folder) as server:
        server.get("/")
        before = {pid: descriptors(pid) for pid in [server.pid, *server.zygotes(), *server.workers()]}
        upgrade(server, 3)
        server.wait_for(lambda: {pid: descriptors(pid) for pid in before} == before)
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        server.wait_for(lambda: len(server.workers()) == 2 and len(server.zygotes()) == 1)
        after = [server.pid, *server.zygotes(), *server.workers()]
        server.wait_for(lambda: [descriptors(pid) for pid in after] == list(before.values()))


def test_files_and_numbers_go_along(project: Project) -> None:
    """The pidfile, the sockets' files, the log files that USR1 reopens, and how many workers there are to be."""
    log, pidfile, path = (project.folder / name for name in ("error.log", "pyserve.pid", "pyserve.sock"))
    options = ("--error-logfile", str(log), "--pid", str(pidfile), "--bind", f"unix:{path}", "--workers", "2")
    control = project.folder / "pyserve.ctl"
    with serve("app:wsgi", *options, "--control-socket", str(control), cwd=project.folder, error_log=log) as server:
        server.signal(signal.SIGTTIN)
        server.wait_for_log("workers: 2 → 3")
        server.wait_for(lambda: len(server.workers()) == 3)
        upgrade(server)
        assert int(pidfile.read_text()) == server.pid
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log("was killed by SIGKILL")
        server.wait_for(lambda: len([pid for pid in server.workers() if "booting" not in title(pid)]) == 3)
        log.rename(project.folder / "error.log.1")
        server.signal(signal.SIGUSR1)
        server.wait_for(lambda: log.exists() and "log files reopened" in log.read_text())
        assert control.exists()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not any(each.exists() for each in (pidfile, path, control))


def test_a_client_of_the_control_socket_is_told(project: Project) -> None:
    """One whose answer takes long. Who has not asked yet is heard out by the new program."""
    path = str(project.folder / "pyserve.ctl")
    with serve("app:wsgi", "--workers", "1", "--control-socket", path, cwd=project.folder) as server:
        [worker] = server.workers()
        os.kill(worker, signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as dumping, socket.socket(socket.AF_UNIX) as silent:
            for client in (dumping, silent):
                client.settimeout(GENEROUS)
                client.connect(path)
            silent.sendall(b'{"ver')
            dumping.sendall(b'{"version": 1, "command": "dump"}\n')
            server.signal(signal.SIGUSR2)
            said = dumping.makefile().readlines()
            server.wait_for_log("upgraded:")
            silent.sendall(b'sion": 1, "command": "status"}\n')
            assert json.loads(silent.makefile().readline())["pid"] == server.pid
        assert json.loads(said[-1])["text"] in ("pyserve is being upgraded: ask again", "not every worker has answered")
        server.wait_for_log("upgraded:")
        os.kill(worker, signal.SIGCONT)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(GENEROUS)
            client.connect(path)
            client.sendall(b'{"version": 1, "command": "status"}\n')
            status = json.loads(client.makefile().readline())
        assert (status["pid"], status["workers"][0]["pid"]) == (server.pid, worker)


def test_a_timeout_that_began_before_goes_on(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", "--timeout", "3", cwd=project.folder) as server:
        answers: list[requests.Response] = []
        client = threading.Thread(target=lambda: answers.append(server.get("/sleep?600")))
        client.start()
        server.wait_for(lambda: in_app(server, 1))
        upgrade(server)
        client.join()
        assert [answer.status_code for answer in answers] == [504]


def test_a_drain_that_began_before_goes_on(project: Project) -> None:
    """The old worker of a reload is in a request, and cut at its deadline by the new program."""
    with serve("app:wsgi", "--workers", "2", "--graceful-timeout", "3", cwd=project.folder) as server:
        with Load(server.url, "/sleep?600", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            server.signal(signal.SIGHUP)
            server.wait_for_log("reload done")
            upgrade(server)
            server.wait_for_log(r"(?s)upgraded.*it did not end within the graceful timeout.*has left \(reload\)")


@pytest.mark.usefixtures("worker_class")
def test_kill_9_of_the_master_still_ends_every_process(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        upgrade(server)
        tree = server.tree()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in tree))


# What fails changes nothing.

BROKEN = {
    "syntax error": (("pyserve/master/master.py", "class Master:", "class Master(:"), "SyntaxError"),
    "import error": (("pyserve/master/population.py", "import time\n", "import time\nimport no_such_module\n"), "no_such_module"),
    "zygote": (("pyserve_workers/programs/zygote.py", "def main() -> None:", "raise RuntimeError('no')\ndef main() -> None:"),
               "RuntimeError: no(?s:.*)the process that is to load the app exited with code 1"),
    "native code": (
        ("pyserve_workers/native/system.py", "__all__ = ", "raise ImportError('undefined symbol: x')\n_ = "),
        "undefined symbol: x",
    ),
    "exits": (("pyserve/__init__.py", "__version__ = ", "import os; os._exit(9)\n__version__ = "), "exited with code 9"),
    "another format": (("pyserve/master/carried.py", "FORMAT = ", "FORMAT = 99 + "), r"has format \d, this version reads format 1\d\d"),
    "another state": (("pyserve/system/suspension.py", "def __init__(self, now: float)", "def __init__(self)"), "TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("change, reason", BROKEN.values(), ids=BROKEN.keys())
def test_a_pyserve_that_is_broken_changes_nothing(
    project: Project, installed: Installed, change: tuple[str, str, str], reason: str
) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder, env=installed.environ) as server:
        before = settled(server)
        installed.replace(*change)
        server.signal(signal.SIGUSR2)
        server.wait_for_log(rf"upgrade failed, nothing was changed: the pyserve that is installed now(?s:.*){reason}")
        server.wait_for(lambda: server.tree() == before)
        assert server.get("/").text.startswith("one ")
        installed.restore(change[0])
        installed.release("9.9")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgraded: pyserve 9.9")
        assert server.tree() == before


def test_a_configuration_that_is_refused_changes_nothing(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        (project.folder / "pyserve.toml").write_text("timeout = 'soon'")
        server.signal(signal.SIGUSR2)
        server.wait_for_log(
            r"upgrade failed, nothing was changed: .* exited with code 78\n.*pyserve.toml line 1: timeout"
        )
        assert server.get("/").text.startswith("one ")


@pytest.mark.parametrize("name", ["pyserve/master/master.py", "pyserve_workers/classes/sync.py"])
def test_a_pyserve_that_hangs_is_given_up_after_the_boot_timeout(
    project: Project, installed: Installed, name: str
) -> None:
    options = ("--workers", "2", "--boot-timeout", "3")
    with serve("app:wsgi", *options, cwd=project.folder, env=installed.environ) as server:
        before = settled(server)
        installed.replace(name, "from __future__ import annotations", "while True: pass")
        server.signal(signal.SIGUSR2)
        server.wait_for_log(r"upgrade failed, nothing was changed: .* did not end within boot_timeout \(3 s\)")
        server.wait_for(lambda: server.tree() == before)  # nothing of it is left
        assert server.get("/").text.startswith("one ")


# Together with other signals.


def test_during_a_reload_it_waits(project: Project) -> None:
    project.append("\ntime.sleep(1)\n")
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 2 is being prepared")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("(?s)upgrade: it waits until.*reload done.*upgraded:")
        assert server.get("/").status_code == 200


def test_a_stop_while_it_is_proven_ends_both(project: Project, installed: Installed) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder, env=installed.environ) as server:
        installed.replace("pyserve/takeover.py", "from __future__ import annotations", "while True: pass")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade: pid")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade: one is under way")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "upgrade given up: pyserve is stopping" in server.log


def test_while_it_stops_it_is_refused(project: Project) -> None:
    options = ("--drain-delay", "600", "--graceful-timeout", "1000")
    with serve("app:wsgi", *options, cwd=project.folder) as server:
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgrade refused: pyserve is stopping")
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0


def test_no_signal_is_lost_on_the_way(project: Project) -> None:
    """Each HUP and TTIN comes while one program becomes the other, or just before or after."""
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        for number in range(4):
            upgrades, ready = server.log.count("upgraded:"), server.log.count("can take over")
            server.signal(signal.SIGUSR2)
            server.wait_for(lambda ready=ready: server.log.count("can take over") > ready)  # type: ignore[misc]  # as above
            server.signal(signal.SIGTTIN)
            if number == 3:
                server.signal(signal.SIGHUP)
            server.wait_for(lambda upgrades=upgrades: server.log.count("upgraded:") > upgrades)  # type: ignore[misc]  # as above
        server.wait_for_log("workers: 4 → 5")
        server.wait_for_log("reload done")


def test_a_worker_that_dies_on_the_way_is_replaced(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        for _ in range(3):
            upgrades, ready = server.log.count("upgraded:"), server.log.count("can take over")
            killed = server.workers()[0]
            server.signal(signal.SIGUSR2)
            server.wait_for(lambda ready=ready: server.log.count("can take over") > ready)  # type: ignore[misc]  # as above
            os.kill(killed, signal.SIGKILL)
            server.wait_for(lambda upgrades=upgrades: server.log.count("upgraded:") > upgrades)  # type: ignore[misc]  # as above
            server.wait_for_log(f"pid {killed} was killed by SIGKILL")
            server.wait_for(lambda: len([pid for pid in server.workers() if "booting" not in title(pid)]) == 2)
        assert server.get("/").status_code == 200
