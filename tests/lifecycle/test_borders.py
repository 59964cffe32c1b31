"""A root master beside other users: files that they can exchange, and files that are another server's."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.operator import ctl
from lifecycle.project import Project
from support import serve
from support.attacker import NOBODY, Attacker, open_folder
from support.processes import GENEROUS

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose here")


def answers(path: Path) -> bool:
    """Is there a server at this unix socket?"""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(GENEROUS)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"


@pytest.fixture
def public() -> Iterator[Project]:
    """A project that workers of every user can read."""
    with open_folder() as folder:
        yield Project(folder)


@contextlib.contextmanager
def restless(path: Path, target: Path) -> Iterator[None]:
    """Meanwhile the file at ``path`` is exchanged for a link to ``target`` again and again."""
    over = threading.Event()

    def exchange(attacker: Attacker) -> None:
        while not over.is_set():
            attacker.do("link", path, target)
            attacker.do("remove", path)

    with Attacker() as attacker:
        thread = threading.Thread(target=exchange, args=(attacker,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@root
def test_who_exchanges_the_socket_of_a_root_master_for_a_link_gets_nothing(public: Project) -> None:
    secret, theirs = public.folder / "secret", public.folder / "theirs"
    secret.write_text("root's")
    secret.chmod(0o600)
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    path = theirs / "app.sock"
    options = ("app:wsgi", "--workers", "1", "--user", "nobody", "--bind", f"unix:{path}")
    with restless(path, secret):
        for _ in range(5):
            with serve(*options, cwd=public.folder, ready=False) as server:
                server.wait_for(lambda s=server: s.process.poll() is not None or "ready: 1 worker" in s.log)  # type: ignore[misc]
                if server.process.poll() is not None:
                    assert server.process.returncode == 69
                    assert server.log.count("\n") == 1
                    assert f"cannot listen on unix:{path}: " in server.log
            found = secret.stat()
            assert (found.st_uid, found.st_mode & 0o777, secret.read_text()) == (0, 0o600, "root's")
    path.unlink(missing_ok=True)
    with serve(*options, cwd=public.folder):
        assert path.stat().st_uid == NOBODY
        assert answers(path)
    assert not path.exists()


def test_two_sites_with_one_runtime_directory_do_not_take_each_others_socket(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runtime = tmp_path_factory.mktemp("run")
    environ = {"RUNTIME_DIRECTORY": str(runtime)}
    with serve("app:wsgi", "--workers", "1", cwd=project.folder, env=environ) as server:
        with serve("app:wsgi", cwd=project.folder, env=environ, ready=False) as other:
            assert other.wait() == 69
            assert f"{runtime}/pyserve.ctl: pid {server.pid} listens there" in other.log
            assert "a RuntimeDirectory of its own" in other.log
        assert f"pid {server.pid}" in ctl(project, "--socket", str(runtime / "pyserve.ctl"), "status")


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_server_that_stops_leaves_a_newer_ones_files_where_they_are(project: Project, upgraded: bool) -> None:
    paths = [project.folder / name for name in ("app.sock", "app.ctl", "app.pid")]
    sock, control, pid = map(str, paths)
    options = ("--workers", "1", "--bind", f"unix:{sock}", "--control-socket", control, "--pid", pid)
    with serve("app:wsgi", *options, cwd=project.folder) as older:
        if upgraded:
            older.signal(signal.SIGUSR2)
            older.wait_for_log("upgraded: ")
        for path in paths:
            path.unlink()
        with serve("app:wsgi", *options, cwd=project.folder) as newer:
            older.stop()
            assert answers(paths[0])
            assert f"pid {newer.pid}" in ctl(project, "--socket", control, "status")
            assert paths[2].read_text() == f"{newer.pid}\n"
    assert not any(path.exists() for path in paths)


# What others could have written.

AS_NOBODY = ("app:wsgi", "--workers", "1", "--user", "nobody")


def give(path: Path, uid: int = NOBODY) -> None:
    os.chown(path, uid, uid, follow_symlinks=False)


@root
def test_a_configuration_of_the_workers_user_ends_the_start(public: Project) -> None:
    file = public.folder / "pyserve.toml"
    file.write_text("workers = 1\n")
    give(file)
    with serve(*AS_NOBODY, cwd=public.folder, ready=False) as server:
        assert server.wait() == 78
        assert server.log == (
            f"pyserve: {file}: nobody (uid {NOBODY}) can write it, and what it says is done as root: chown root {file}, "
            "or name a file of root's with --config (/dev/null for none)\n"
        )
    with serve(*AS_NOBODY, "--config", "/dev/null", cwd=public.folder) as server:
        assert server.get("/").text.startswith("one ")


@root
def test_a_configuration_that_became_the_workers_users_is_not_taken_by_a_reload_or_an_upgrade(public: Project) -> None:
    """It said then that the workers are root."""
    file = public.folder / "pyserve.toml"
    file.write_text('user = "nobody"\n')
    with serve("app:wsgi", "--workers", "1", cwd=public.folder) as server:
        give(public.folder)
        file.write_text("[broken")
        file.write_text('user = "root"\n')
        server.signal(signal.SIGHUP)
        server.wait_for_log(f"reload refused, nothing was changed: {file}: nobody .* can write {public.folder}")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgraded: ")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: server.log.count("reload refused, nothing was changed") == 2)
        (worker,) = server.workers()
        assert Path(f"/proc/{worker}").stat().st_uid == NOBODY
        give(public.folder, 0)
        file.write_text('user = "nobody"\n')
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")


@root
def test_who_deploys_may_own_it_all(public: Project) -> None:
    """Code, configuration, virtual environment and logs are of a user who is neither root nor the workers'."""
    deploy = 4711
    (public.folder / "pyserve.toml").write_text('user = "nobody"\nerror_logfile = "logs/error.log"\n')
    (public.folder / "packages").mkdir()
    (public.folder / "logs").mkdir()
    for path in (public.folder, *public.folder.rglob("*")):
        give(path, deploy)
    environ = {"PYTHONPATH": str(public.folder / "packages")}
    errors = public.folder / "logs" / "error.log"
    with serve("app:wsgi", "--workers", "1", cwd=public.folder, env=environ, error_log=errors) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        assert server.get("/").text.startswith("one ")
        warned = [line.partition(" master    ")[2] for line in server.log.splitlines() if " warn " in line]
    folder = public.folder
    assert len(warned) == 3, "each once"
    assert warned[0].startswith(
        f"configuration: uid {deploy} can write {folder} and 1 more, and what it says is done as root"
    )
    assert warned[1].startswith(f"code: uid {deploy} can write {folder} and 1 more, and it is run as root")
    assert warned[2].startswith(f"code: uid {deploy} can write {folder}, and python -m looks there first")


@root
def test_a_log_in_a_folder_of_the_workers_user_ends_the_start(public: Project) -> None:
    logs = public.folder / "logs"
    logs.mkdir()
    give(logs)
    with serve(*AS_NOBODY, "--access-logfile", f"{logs}/access.log", cwd=public.folder, ready=False) as server:
        assert server.wait() == 78
        assert server.log.startswith(
            f"pyserve: the log {logs}/access.log: nobody (uid {NOBODY}) can write {logs}, and root"
        )
    assert not any(logs.iterdir())


@root
@pytest.mark.parametrize("user", ["nobody", "root"])
def test_a_link_that_is_planted_before_usr1_is_not_followed(public: Project, user: str) -> None:
    """As root: nobody watches over the folder then, and still no link is followed that others can have put there."""
    logs, secret = public.folder / "logs", public.folder / "secret"
    logs.mkdir()
    secret.write_text("root's\n")
    errors, access = logs / "error.log", logs / "access.log"
    options = ("--workers", "1", "--user", user, "--error-logfile", str(errors), "--access-logfile", str(access))
    with serve("app:wsgi", *options, cwd=public.folder, error_log=logs / "old", ready=False) as server:
        server.wait_for(lambda: errors.exists() and "ready: 1 worker" in errors.read_text())
        errors.rename(logs / "old")
        give(logs)
        with Attacker() as attacker:
            attacker.do("link", errors, secret)
            attacker.do("link", access, secret)
        server.signal(signal.SIGUSR1)
        server.wait_for_log("log files reopened")
        for name in (errors, access):
            why = "can write .*logs, and root" if user == "nobody" else "it is a symbolic link that another user could"
            assert re.search(f"the log {name}: .*{why}.*; the old file is written on", server.log)
        assert secret.read_text() == "root's\n"


@root
def test_a_link_of_roots_is_a_log_as_any_other(public: Project) -> None:
    """Images of containers have one to /dev/stdout."""
    link = public.folder / "error.log"
    link.symlink_to("/dev/stderr")
    with serve(*AS_NOBODY, "--error-logfile", str(link), cwd=public.folder) as server:
        server.signal(signal.SIGUSR1)
        server.wait_for_log("log files reopened")
        assert "the old file is written on" not in server.log


# What is imported.

# Says who imported it, and is the real one then.
HOSTILE = """
import os, sys
with open({seen!r}, "a") as file:
    file.write(f"{{os.getpid()}} {{__name__}}\\n")
path = list(sys.path)
sys.path[:] = [each for each in path if os.path.realpath(each) != {folder!r}]
del sys.modules[__name__]
import importlib
sys.modules[__name__] = importlib.import_module(__name__)
sys.path[:] = path
"""
WAYS = {
    "python -m pyserve": ["-m", "pyserve"],
    "python -P -m pyserve": ["-P", "-m", "pyserve"],
    "pyserve": [str(Path(sys.executable).with_name("pyserve"))],
}


def needed_for_m() -> set[str]:
    """What the interpreter imports for -m, before anything of pyserve can run."""
    command = [sys.executable, "-c", "import runpy, sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("way", WAYS)
def test_modules_in_the_folder_of_the_app_are_the_apps_and_never_the_masters(project: Project, way: str) -> None:
    """``python -m`` looks in the working directory first: a json.py of the app was once the master's, too."""
    seen = project.folder / "seen"
    seen.touch()
    names = {*sys.stdlib_module_names, "setproctitle", "click", "pyserve_workers", "pyserve", "json"}
    if way == "python -m pyserve":  # who can write there decides what the interpreter itself runs
        names -= needed_for_m() | {"pyserve"}
    hostile = HOSTILE.format(seen=str(seen), folder=str(project.folder))
    for name in names - {"__main__"}:
        if name.startswith("pyserve"):
            (project.folder / name).mkdir()
            (project.folder / name / "__init__.py").write_text(hostile)
        else:
            (project.folder / f"{name}.py").write_text(hostile)
    project.append("\nimport colorsys\n")
    project.folder.joinpath("pyserve.toml").write_text('control_socket = "pyserve.ctl"\n')
    if not Path(WAYS[way][-1]).exists() and way == "pyserve":
        pytest.skip("the command is not installed beside the interpreter")
    words = [sys.executable, *WAYS[way]]
    with serve("app:wsgi", "--workers", "1", cwd=project.folder, program=words) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        ctl(project, "maintenance", "on")
        ctl(project, "maintenance", "off")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgraded: ")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 3")
        assert server.get("/").text.startswith("one ")
        roots = {str(server.pid), *re.findall(r"upgrade: pid (\d+) tries", server.log)}
    assert len(roots) == 2
    imported = [line.split() for line in seen.read_text().splitlines()]
    assert [name for pid, name in imported if pid in roots] == []
    assert "colorsys" in [name for _, name in imported], "the app finds what is in its folder"
