"""SIGHUP: new code serves with no failed request; broken new code changes nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from lifecycle.load import Load
from lifecycle.project import Project, in_app
from support import serve


@pytest.mark.usefixtures("worker_class")
def test_new_code_serves_after_a_hup(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        assert server.get("/").text.startswith("one ")
        before = server.workers()
        project.replace('"one"', '"two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload done: generation 2 serves with 2 workers")
        assert server.get("/").text.startswith("two ")
        server.wait_for_log(r"(?s)has left \(reload\).*has left \(reload\)")
        assert not set(before) & set(server.workers())


@pytest.mark.usefixtures("worker_class")
def test_each_new_worker_serves_before_an_old_one_goes(project: Project) -> None:
    with serve("app:wsgi", "--workers", "3", "--log-level", "debug", cwd=project.folder) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        story = [line for line in server.log.splitlines() if "gen 2" in line or "drains" in line]
    steps = ["new" if "is serving" in line else "old" for line in story if "is serving" in line or "drains" in line]
    assert steps[:6] == ["new", "old", "new", "old", "new", "old"]


BROKEN = {
    "syntax error": ("\ndef broken(:\n", r"SyntaxError"),
    "import error": ("\nimport no_such_module\n", r"No module named 'no_such_module'"),
    "raises": ("\nraise RuntimeError('the database is away')\n", r"RuntimeError: the database is away"),
    "exits": ("\nimport sys; sys.exit(5)\n", r"SystemExit"),
    "exits hard": ("\nos._exit(7)\n", r"the process that loads the app exited with code 7"),
    "killed": ("\nos.kill(os.getpid(), 9)\n", r"the process that loads the app was killed by SIGKILL"),
    "no app any more": ("\ndel wsgi\n", r"wsgi"),
    "not callable": ("\nwsgi = 3\n", r"not callable|is an? int"),
    "hook on_app_loaded": ("\n@pyserve.on_app_loaded\ndef bad():\n    raise ValueError('no')\n", r"on_app_loaded hook app.bad failed: ValueError: no"),
    "hook before_fork": ("\n@pyserve.before_fork\ndef bad():\n    raise ValueError('no')\n", r"before_fork hook app.bad failed: ValueError: no"),
    "hook after_fork": ("\n@pyserve.after_fork\ndef bad():\n    raise ValueError('no')\n", r"after_fork hook app.bad failed: ValueError: no"),
    "hook on_init": ("\n@pyserve.on_init\ndef bad():\n    raise ValueError('no')\n", r"on_init hook app.bad failed: ValueError: no"),
    "async hook on_bootstrap": ("\n@pyserve.on_bootstrap\nasync def bad():\n    raise ValueError('no')\n", r"on_bootstrap hook app.bad failed: ValueError: no"),
    "hook exits": ("\n@pyserve.on_init\ndef bad():\n    os._exit(9)\n", r"exited with code 9"),
}  # fmt: skip


@pytest.mark.parametrize("code, reason", BROKEN.values(), ids=BROKEN.keys())
def test_broken_new_code_changes_nothing(project: Project, code: str, reason: str) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        before = server.workers()
        good = project.app.read_text()
        project.append(code)
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload aborted, nothing was changed: generation 1 goes on serving\. Generation 2: .*")
        server.wait_for_log(reason)
        assert server.workers() == before
        assert server.get("/").text.startswith("one ")
        project.app.write_text(good.replace('"one"', '"repaired"'))
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 3")
        assert server.get("/").text.startswith("repaired ")


@pytest.mark.parametrize(
    "code",
    ["\ntime.sleep(600)\n", "\n@pyserve.on_init\ndef slow():\n    time.sleep(600)\n", "\nwhile True: pass\n"],
    ids=["import sleeps", "hook sleeps", "import loops"],
)
def test_new_code_that_hangs_is_given_up_after_the_boot_timeout(project: Project, code: str) -> None:
    with serve("app:wsgi", "--workers", "2", "--boot-timeout", "2", cwd=project.folder) as server:
        before = server.workers()
        project.append(code)
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload aborted, nothing was changed: .*boot_timeout \(2 s\)")
        server.wait_for_log(r"(?s)stacks of its threads follow.*app\.py")
        assert server.workers() == before
        assert server.get("/").text.startswith("one ")


def test_a_wrong_configuration_refuses_the_reload(project: Project) -> None:
    settings = project.folder / "pyserve.toml"
    settings.write_text("workers = 2\n")
    with serve("app:wsgi", cwd=project.folder) as server:
        settings.write_text("workers = 'many'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload refused, nothing was changed: .*workers")
        settings.write_text("workers = 3\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload done: generation 2 serves with 3 workers")
        assert len(server.workers()) >= 3


@pytest.mark.parametrize(
    "settings",
    [
        "x = " + "[" * 100_000,
        "workers = " + "9" * 5000,
        "[env]\n" + "".join(f"V{n} = '{'x' * 90}'\n" for n in range(2000)),
    ],
    ids=["deep", "long number", "too much"],
)
def test_no_configuration_ends_a_server_that_serves(project: Project, settings: str) -> None:
    file = project.folder / "pyserve.toml"
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        file.write_text(settings)
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload refused, nothing was changed|reload aborted, nothing was changed")
        assert server.get("/").text.startswith("one ")
        file.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")


def test_a_second_hup_is_coalesced(project: Project) -> None:
    project.append("\ntime.sleep(1)\n")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 2 is being prepared")
        for _ in range(3):
            server.signal(signal.SIGHUP)
            server.wait_for_log("another follows when it has ended")
        server.wait_for_log("reload done: generation 3")
        assert "generation 4" not in server.log


def test_term_during_a_reload_ends_all_generations(project: Project) -> None:
    project.append("\ntime.sleep(1 if VERSION == 'one' else 600)\n")
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        project.replace('"one"', '"two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 2 is being prepared")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_ten_reloads_under_load_lose_no_request(project: Project) -> None:
    with serve("app:wsgi", "--workers", "4", cwd=project.folder) as server:
        with Load(server.url, threads=4) as fresh, Load(server.url, threads=8, reuse=True, pause=0.05) as kept:
            for generation in range(2, 12):
                project.replace(server.get("/").text.split()[0], f"version{generation}")
                server.signal(signal.SIGHUP)
                server.wait_for_log(rf"reload done: generation {generation} serves with 4 workers")
                assert server.get("/").text.startswith(f"version{generation} ")
        assert fresh.failures == []
        assert len(fresh.answers) > 100
        assert {status for status, _ in fresh.answers} == {200}
        # Kept connections think for less than keepalive_linger, so that theirs are answered, too.
        assert kept.failures == []
        assert {status for status, _ in kept.answers} == {200}
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.log.count("reload done") == 10


@pytest.mark.usefixtures("worker_class")
def test_a_request_under_way_is_finished_by_the_old_code(project: Project) -> None:
    with (
        serve("app:wsgi", "--workers", "1", cwd=project.folder) as server,
        Load(server.url, "/sleep?until=go", threads=1) as slow,
    ):
        server.wait_for(lambda: in_app(server, 1))
        project.replace('"one"', '"two"')
        slow.stopped.set()
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        assert server.get("/").text.startswith("two ")
        project.let_go()
        slow.stop()
        assert [body[:4] for _, body in slow.answers] == [b"one "]


def test_a_symlinked_release_is_looked_up_again(project: Project) -> None:
    """chdir = "current", a link to the release: after the switch and a HUP the new release is imported."""
    for name in ("one", "two"):
        (project.folder / name).mkdir()
        (project.folder / name / "app.py").write_text(project.app.read_text().replace('"one"', f'"{name}"'))
    current = project.folder / "current"
    current.symlink_to("one")
    with serve("app:wsgi", "--workers", "1", "--chdir", str(current), cwd=Path("/")) as server:
        assert server.get("/").text.startswith("one ")
        current.unlink()
        current.symlink_to("two")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        assert server.get("/").text.startswith("two ")


def test_every_generation_finds_the_same_process_around_it(project: Project) -> None:
    """The first zygote is forked, the others are exec'd: the app must not be able to tell."""
    project.append("""
import json, signal, sys

def process():
    fds = {fd: os.readlink("/proc/self/fd/" + fd).partition(":")[0] for fd in os.listdir("/proc/self/fd") if int(fd) < 3}
    return {
        "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": str(sys.flags).replace("safe_path=True", "safe_path=False"),
        "main": sorted(vars(sys.modules["__main__"])), "environ": dict(os.environ), "cwd": os.getcwd(),
        "signals": {int(n): str(signal.getsignal(n)).partition(" at ")[0] for n in signal.valid_signals()},
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "fds": fds, "umask": oct(os.umask(0o22)), "session": os.getsid(0), "group": os.getpgid(0),
        "modules": sorted(sys.modules),
    }

FOUND = process()
VERSION = "one"

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({**FOUND, "version": VERSION}).encode()]
""")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        first = server.get("/").json()
        project.replace('VERSION = "one"', 'VERSION = "two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        second = server.get("/").json()
    assert (first.pop("version"), second.pop("version")) == ("one", "two")
    assert set(second.pop("modules")) <= set(first.pop("modules")), "the launcher may have imported more (python -m)"
    for what, found in first.items():
        assert found == second[what], what


@pytest.mark.usefixtures("worker_class")
def test_an_app_that_starts_a_thread_is_not_preloaded(project: Project) -> None:
    project.append(
        "\nimport threading\nthreading.Thread(target=time.sleep, args=(600,), daemon=True, name='ticker').start()\n"
    )
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        server.wait_for_log(r"not preloaded, .*the import started 1 (thread \(ticker\)|greenlet);")
        assert server.get("/").text.startswith("one ")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        deadline = time.monotonic() + 60
        while len(server.workers()) != 2 and time.monotonic() < deadline:
            server.get("/")
        assert len(server.workers()) == 2
