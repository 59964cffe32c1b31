"""What follows a roll: new code is watched, and old code comes back, by itself or when somebody asks."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from lifecycle.load import Load
from lifecycle.operator import ctl, serving, status
from lifecycle.project import Project

LONG = "600"  # seconds of a soak whose end no test waits for
ROLLED_BACK = r"reload rolled back: generation 1 goes on serving\. Generation 2: a worker "
CRASH_LATER = """
import threading

@pyserve.on_bootstrap
def crash_later():
    threading.Timer(2.0, os._exit, (9,)).start()
"""


def workers_of(project: Project, generation: int) -> list[int]:
    return [each["pid"] for each in status(project)["workers"] if each["generation"] == generation]


def generation(project: Project, number: int) -> dict[str, Any]:
    return next(each for each in status(project)["generations"] if each["generation"] == number)


# The canary's check.


HEALTH = """
answers = wsgi

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/healthz":
        SAID
    return answers(environ, start_response)
"""


def with_health(project: Project, said: str) -> None:
    project.append(HEALTH.replace("SAID", said))


@pytest.mark.usefixtures("worker_class")
def test_a_canary_that_answers_its_check_badly_changes_nothing(project: Project) -> None:
    with serving(project, "--workers", "2", "--reload-check", "/healthz") as server:
        before = server.workers()
        with_health(project, "raise LookupError('the database has no table')")
        said = ctl(project, "reload", "--wait", code=1)
        assert "reload_check /healthz was answered with 500" in said
        assert "LookupError: the database has no table" in said
        assert "reload aborted, nothing was changed: generation 1 goes on serving" in said
        server.wait_for(lambda: server.workers() == before)
        assert server.get("/").text.startswith("one ")


@pytest.mark.usefixtures("worker_class")
def test_a_canary_that_answers_its_check_well_is_followed_by_the_others(project: Project) -> None:
    """Its app is called once, as by a client of the site that the URL names; the first generation is not checked."""
    url = "https://shop.example/healthz?from=pyserve"
    with_health(project, "asked(environ)")
    project.append("""
def asked(environ):
    names = ("REQUEST_METHOD", "HTTP_HOST", "wsgi.url_scheme", "PATH_INFO", "QUERY_STRING")
    with open("asked", "a") as file:
        print(*(environ[name] for name in names), file=file)
""")
    with serving(project, "--workers", "2", "--reload-check", url) as server:
        assert not (project.folder / "asked").exists()
        project.replace('"one"', '"two"')
        with Load(server.url, threads=2) as load:
            said = ctl(project, "reload", "--wait")
        assert load.failures == []
        assert f"reload_check {url} was answered with 200" in said
        assert server.get("/").text.startswith("two ")
        assert (project.folder / "asked").read_text() == "GET shop.example https /healthz from=pyserve\n"


@pytest.mark.usefixtures("worker_class")
def test_a_canary_that_hangs_in_its_check_is_given_up_after_the_boot_timeout(project: Project) -> None:
    with serving(project, "--workers", "1", "--reload-check", "/healthz", "--boot-timeout", "6") as server:
        with_health(project, "time.sleep(600)")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload aborted, nothing was changed: .*reload_check /healthz was not answered within")
        assert server.get("/").text.startswith("one ")


def test_a_canary_that_dies_in_its_check_changes_nothing(project: Project) -> None:
    with serving(project, "--workers", "1", "--reload-check", "/healthz") as server:
        with_health(project, "os._exit(9)")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload aborted, nothing was changed: .*a worker exited with code 9")
        assert server.get("/").text.startswith("one ")


# The soak.


@pytest.mark.usefixtures("worker_class")
def test_code_that_crashes_two_seconds_after_it_is_ready_is_rolled_back(project: Project) -> None:
    with serving(project, "--workers", "2", "--reload-soak", "60") as server:
        with Load(server.url, threads=1, pause=0.01) as load:
            project.replace('"one"', '"two"')
            project.append(CRASH_LATER)
            server.signal(signal.SIGHUP)
            server.wait_for_log("reload done: generation 2 serves with 2 workers")
            server.wait_for_log(ROLLED_BACK + "exited with code 9")
            server.wait_for(lambda: status(project)["phase"] == "stable" and len(workers_of(project, 1)) == 2)
            answered = len(load.answers)
            server.wait_for(lambda: len(load.answers) > answered + 10)
        # Only what was inside a worker when it crashed can be lost, and there is one client.
        assert len(load.failures) <= server.log.count("exited with code 9")
        assert {status for status, _ in load.answers} == {200}
        assert {body[:4] for _, body in load.answers} == {b"one ", b"two "}
        assert {body[:4] for _, body in load.answers[answered:]} == {b"one "}


def test_a_worker_that_is_killed_in_the_soak_counts(project: Project) -> None:
    """The first is replaced by one of its own generation, the second brings the old code back."""
    with serving(project, "--workers", "2", "--reload-soak", LONG) as server:
        project.replace('"one"', '"two"')
        ctl(project, "reload")
        server.wait_for_log("reload done: generation 2")
        os.kill(workers_of(project, 2)[0], signal.SIGKILL)
        server.wait_for(lambda: len(workers_of(project, 2)) == 2)
        assert status(project)["phase"] == "soaking"
        assert server.get("/").text.startswith("two ")
        os.kill(workers_of(project, 2)[0], signal.SIGKILL)
        server.wait_for_log(ROLLED_BACK + "was killed by SIGKILL")
        server.wait_for(lambda: len(workers_of(project, 1)) == 2 and not workers_of(project, 2))
        assert server.get("/").text.startswith("one ")


def test_reload_wait_tells_of_code_that_crashes_in_its_soak(project: Project) -> None:
    with serving(project, "--workers", "2", "--reload-soak", "60"):
        project.append(CRASH_LATER)
        said = ctl(project, "reload", "--wait", code=1)
        assert "reload done: generation 2 serves with 2 workers" in said
        assert "reload rolled back: generation 1 goes on serving" in said
        assert said.splitlines()[-1] == "generation 2 does not serve"


def test_a_hup_in_the_soak_follows_it(project: Project) -> None:
    with serving(project, "--workers", "1", "--reload-soak", "2") as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        server.signal(signal.SIGHUP)
        server.wait_for_log("another follows when it has ended")
        server.wait_for_log(r"(?s)generation 2 is committed.*generation 3 is being prepared.*reload done: generation 3")


def test_a_term_in_the_soak_ends_all_generations(project: Project) -> None:
    with serving(project, "--workers", "2", "--reload-soak", LONG) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


# The way back.


@pytest.mark.usefixtures("worker_class")
def test_rollback_brings_the_code_of_before_back_without_a_lost_request(project: Project) -> None:
    with serving(project, "--workers", "2", "--reload-soak", "0") as server:
        project.replace('"one"', '"two"')
        ctl(project, "reload", "--wait")
        project.replace('"two"', '"three, never deployed"')
        with Load(server.url, threads=2) as load:
            before = generation(project, 1)
            assert (before["role"], before["workers"], before["zygote"]) == ("previous", 0, "ready")
            said = ctl(project, "rollback", "--wait").splitlines()
            assert said[0].endswith("rollback: generation 1 comes back")
            assert any("rollback done: generation 1 serves with 2 workers" in line for line in said)
            assert said[-1] == "generation 1 serves"
            assert server.get("/").text.startswith("one ")
        assert load.failures == []
        assert {status for status, _ in load.answers} == {200}
        assert "rollback refused, nothing was changed" in ctl(project, "rollback", code=1), "it is not undone by itself"
        os.kill(workers_of(project, 1)[0], signal.SIGKILL)
        server.wait_for(lambda: len(workers_of(project, 1)) == 2)
        assert server.get("/").text.startswith("one ")
        ctl(project, "reload", "--wait")
        assert server.get("/").text.startswith("three, never deployed ")


THREAD = """
import threading
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""


def test_rollback_of_releases_in_folders_of_their_own_needs_no_preload(project: Project) -> None:
    """An import that starts a thread is not preloaded; each worker imports from the folder that "current" named once."""
    project.append(THREAD)
    for name in ("one", "two"):
        (project.folder / name).mkdir()
        (project.folder / name / "app.py").write_text(project.app.read_text().replace('"one"', f'"{name}"'))
    current = project.folder / "current"
    current.symlink_to("one")
    places = ("--chdir", "current", "--control-socket", str(project.folder / "pyserve.ctl"))
    with serving(project, "--workers", "1", "--reload-soak", "0", *places) as server:
        current.unlink()
        current.symlink_to("two")
        ctl(project, "reload", "--wait")
        assert server.get("/").text.startswith("two ")
        said = ctl(project, "rollback", "--wait")
        assert "generation 1 is not preloaded: its new workers import what its folder holds now" in said
        assert server.get("/").text.startswith("one ")


SCHEDULER = """
import threading

def schedule():
    while True:
        with open("jobs", "a") as file:
            file.write(f"{VERSION} {os.getpid()}\\n")
        time.sleep(0.01)

threading.Thread(target=schedule, daemon=True).start()
"""


def test_a_scheduler_in_the_zygote_runs_once_also_while_the_old_generation_can_come_back(project: Project) -> None:
    """With preload = always its thread lives in the zygote only, as people have it; after a reload, in one of two."""
    project.append(SCHEDULER)
    jobs = project.folder / "jobs"
    with serving(project, "--workers", "1", "--reload-soak", "0", "--preload") as server:
        server.wait_for(jobs.exists)
        project.replace('"one"', '"two"')
        said = ctl(project, "reload", "--wait")
        assert "generation 1 can come back for 300 s, and its threads rest until then" in said
        old, new = server.zygotes()

        def only(version: str, zygote: int) -> bool:
            jobs.write_text("")
            server.wait_for(lambda: jobs.read_text().count("\n") >= 5)
            return set(jobs.read_text().splitlines()) == {f"{version} {zygote}"}

        server.wait_for(lambda: only("two", new))
        ctl(project, "rollback", "--wait")
        server.wait_for(lambda: only("one", old))
        assert server.get("/").text.startswith("one ")


def test_rollback_takes_the_configuration_of_before_too(project: Project) -> None:
    with serving(project, "--reload-soak", "0") as server:
        settings = project.folder / "pyserve.toml"
        same = settings.read_text()
        settings.write_text(same + "workers = 1\n")
        ctl(project, "reload", "--wait")
        settings.write_text(same + "workers = 3\n")
        ctl(project, "reload", "--wait")
        assert len(workers_of(project, 3)) == 3
        ctl(project, "rollback", "--wait")
        server.wait_for(lambda: len(server.workers()) == 1)


def test_rollback_in_the_soak_gives_the_new_code_up(project: Project) -> None:
    with serving(project, "--workers", "2", "--reload-soak", LONG) as server:
        project.replace('"one"', '"two"')
        ctl(project, "reload")
        server.wait_for_log("reload done: generation 2")
        said = ctl(project, "rollback", "--wait")
        assert "Generation 2: a roll-back was asked for" in said
        assert said.splitlines()[-1] == "generation 1 serves"
        assert server.get("/").text.startswith("one ")


def test_rollback_is_refused_when_nothing_is_there_to_come_back(project: Project) -> None:
    with serving(project, "--workers", "1", "--reload-soak", "0", "--keep-previous", "1") as server:
        refusal = r"rollback refused, nothing was changed: no generation before this one is loaded any more"
        assert "nothing was changed" in ctl(project, "rollback", code=1)
        server.wait_for_log(refusal)
        ctl(project, "reload", "--wait")
        server.wait_for(lambda: len(server.zygotes()) == 1)
        assert "each stays for keep_previous (1 s) at most" in ctl(project, "rollback", code=1)
        assert [each["generation"] for each in status(project)["generations"]] == [2]


# How many at a time.


def test_percentages_bound_how_many_workers_there_are(project: Project) -> None:
    """Half of four above, and one of them may be missing: the log tells what was there at each step."""
    budgets = ("--max-surge", "50%", "--max-unavailable", "25%")
    with serving(project, "--workers", "4", "--log-level", "debug", *budgets) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        serving_now, fewest = 4, 4
        for line in server.log.partition("generation 2 is being prepared")[2].splitlines():
            serving_now += ("is serving" in line) - ("drains (reload)" in line)
            fewest = min(fewest, serving_now)
        assert (serving_now, fewest) == (4, 3)


def test_a_reload_without_surge_replaces_in_place(project: Project) -> None:
    budgets = ("--max-surge", "0", "--max-unavailable", "1")
    with serving(project, "--workers", "2", "--log-level", "debug", *budgets) as server:
        with Load(server.url, threads=2) as load:
            server.signal(signal.SIGHUP)
            server.wait_for_log("reload done")
        assert load.failures == []
        story = [line for line in server.log.splitlines() if "gen 2" in line or "drains (reload)" in line]
        steps = ["new" if "is serving" in line else "old" for line in story if "is serving" in line or "drains" in line]
        assert steps == ["old", "new", "old", "new"]
