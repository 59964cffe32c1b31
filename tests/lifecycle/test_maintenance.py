"""Maintenance, and commands that run alone: what pyservectl does to the gate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.gated import BODIES, Gated, digest, eventually
from support import serve
from support.processes import GENEROUS, title, wait_for

CTL = [sys.executable, "-c", "from pyserve.control.ctl import main; main()"]
REFUSED = 75

every_class = pytest.mark.usefixtures("worker_class")


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    gated = Gated(tmp_path)
    (tmp_path / "pyserve.toml").write_text('app = "app:wsgi"\nworkers = 2\ncontrol_socket = "pyserve.ctl"\n')
    yield gated
    gated.close()


def start(gated: Gated, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CTL, *arguments], cwd=gated.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ctl(gated: Gated, *arguments: str, code: int = 0) -> str:
    """What pyservectl prints, standard error included; its exit code must be ``code``."""
    process = start(gated, *arguments)
    text, _ = process.communicate(timeout=GENEROUS)
    assert process.returncode == code, text
    return text


def received(gated: Gated) -> int:
    """Bytes, by the workers that there are."""
    return int(json.loads(ctl(gated, "--json", "status").splitlines()[0])["totals"]["bytes_in"])


@every_class
def test_maintenance_answers_503_with_the_operators_page_but_for_health_checks(gated: Gated) -> None:
    page = gated.folder / "page.html"
    page.write_text("<h1>Zurück um acht</h1>", encoding="utf-8")
    with serve(cwd=gated.folder) as server:
        on = ctl(gated, "maintenance", "on", "--retry-after", "90", "--page", str(page), "--allow", "/healthz")
        assert on == "maintenance is on; no other request is in the app, but those for /healthz\n"
        assert "maintenance is on; no other request is in the app, but those for /healthz\n" in ctl(gated, "status")
        refused = server.get("/shop")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "90"
        assert refused.headers["Content-Type"] == "text/html; charset=utf-8"
        assert refused.content.decode() == "<h1>Zurück um acht</h1>"
        assert server.get("/healthz?full=1").status_code == 200
        assert server.get("/healthz/more").status_code == 503
        status = json.loads(ctl(gated, "--json", "maintenance", "status").splitlines()[-1])
        assert (status["maintenance"], status["gate"], status["active"]) == (True, "held", 0)
        assert status["notice"]["retry_after"] == 90
        ctl(gated, "maintenance", "on", "--retry-after", "7")  # clients are told something else
        wait_for(lambda: server.get("/shop").headers["Retry-After"] == "7")
        assert "maintenance is off; everything is served" in ctl(gated, "maintenance", "off")
        gated.assert_open(server)
        assert ctl(gated, "maintenance", "off") == "maintenance was not on\n"


@every_class
def test_maintenance_with_hold_lets_clients_wait(gated: Gated) -> None:
    with serve(cwd=gated.folder) as server:
        ctl(gated, "maintenance", "on", "--hold", "60")
        held = [gated.send(server, "GET", f"/held-{n}") for n in range(4)]
        ctl(gated, "maintenance", "off")
        assert [each.result().status_code for each in held] == [200] * 4


@every_class
def test_requests_that_are_held_go_on_with_the_new_code_of_a_reload(gated: Gated) -> None:
    """With their bodies, from workers that leave to those that take their place."""
    with serve(cwd=gated.folder) as server:
        connections = [gated.keep(server) for _ in BODIES]
        ctl(gated, "maintenance", "on", "--hold", "60")
        old = server.workers()
        held = [
            gated.put_on(connection, "/held", body, chunked=number % 2 == 1)
            for number, (connection, body) in enumerate(zip(connections, BODIES, strict=True))
        ]
        server.wait_for(lambda: received(gated) > sum(map(len, BODIES)))
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves")
        server.wait_for(lambda: server.log.count("has left") == len(old))
        assert not any(each.done() for each in held)
        ctl(gated, "maintenance", "off")
        assert [each.result() for each in held] == [(200, digest(body)) for body in BODIES]
        gated.hang_up()
        gated.assert_open(server)


@every_class
@pytest.mark.parametrize("check", ["/check?full=1", "https://shop.example/check"])
def test_maintenance_waits_for_an_exclusive_request_and_survives_a_reload_and_an_upgrade(
    gated: Gated, check: str
) -> None:
    """A reload's check reaches the new code all the same."""
    with serve("--reload-check", check, cwd=gated.folder) as server:
        sync = gated.ask(server, "/sync?alone=1&until=a")
        server.wait_for(lambda: gated.entered("sync"))
        on = start(gated, "maintenance", "on", "--allow", "/healthz")
        server.wait_for_log("maintenance is on")
        gated.let_go("a")
        assert sync.result().status_code == 200
        assert "maintenance is on; no other request is in the app" in on.communicate(timeout=GENEROUS)[0]
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves")
        assert gated.entered("check")
        assert server.get("/check").status_code == 503
        assert server.get("/").status_code == 503
        assert server.get("/healthz").status_code == 200
        server.signal(signal.SIGUSR2)  # and an upgrade
        server.wait_for_log("upgraded: pyserve")
        assert server.get("/").status_code == 503
        assert server.get("/healthz").status_code == 200
        ctl(gated, "maintenance", "off")
        gated.assert_open(server)


def test_maintenance_also_holds_while_no_worker_can_start(gated: Gated) -> None:
    """The responder then shows the operator's page."""
    app = gated.folder / "app.py"
    boot = "\n@pyserve.on_init\ndef boot():\n    if os.path.exists('broken'):\n        raise RuntimeError\n"
    app.write_text(app.read_text() + boot)
    page = gated.folder / "page.html"
    page.write_text("<h1>Migrating</h1>")
    with serve(cwd=gated.folder) as server:
        ctl(gated, "maintenance", "on", "--retry-after", "90", "--page", str(page))
        gated.let_go("broken")
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        server.wait_for_log("no worker can answer: the responder answers with 503")
        refused = server.get("/")
        assert (refused.status_code, refused.text) == (503, "<h1>Migrating</h1>")
        assert int(refused.headers["Retry-After"]) >= 90
        (gated.folder / "broken").unlink()
        ctl(gated, "maintenance", "off")
        gated.assert_open(server)


@every_class
def test_a_command_runs_alone_and_its_exit_code_is_pyservectls(gated: Gated) -> None:
    command = "import os, pathlib, sys, time\npathlib.Path('ran').touch()\n"
    command += "while not os.path.exists('b'): time.sleep(0.01)\nsys.exit(3)\n"
    with serve(cwd=gated.folder) as server:
        before = gated.send(server, "GET", "/before?until=a")
        server.wait_for(lambda: gated.entered("before"))
        run = start(gated, "exclusive", "--retry-after", "9", "--", sys.executable, "-c", command)
        refused = eventually(server, lambda: server.get("/"), 503)
        assert refused.headers["Retry-After"] == "9"
        assert not (gated.folder / "ran").exists()
        gated.let_go("a")
        assert before.result().status_code == 200
        server.wait_for((gated.folder / "ran").exists)
        assert server.get("/").status_code == 503
        other = ctl(gated, "exclusive", "--", "true", code=REFUSED)
        assert "not run: another exclusive request has the gate" in other
        gated.let_go("b")
        run.communicate(timeout=GENEROUS)
        assert run.returncode == 3
        assert server.get("/").status_code == 200  # it is open when pyservectl ends
        assert "no-such-command" in ctl(gated, "exclusive", "--", "no-such-command", code=127)
        ctl(gated, "exclusive", "--", "test", "-n", "not UTF-8: \udcff", "-a", "-n", "long " * 20_000)
        ctl(gated, "maintenance", "on")
        assert "maintenance is on" in ctl(gated, "exclusive", "--", "true", code=REFUSED)
        ctl(gated, "maintenance", "off")


def test_a_killed_pyservectl_opens_the_gate_and_ends_its_command(gated: Gated) -> None:
    command = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    with serve(cwd=gated.folder) as server:
        run = start(gated, "exclusive", "--", sys.executable, "-c", command)
        pid = gated.folder / "pid"
        server.wait_for(lambda: pid.exists() and pid.read_text())
        assert server.get("/").status_code == 503
        run.kill()
        run.communicate()
        gated.assert_open(server)
        wait_for(lambda: not title(int(pid.read_text())), "the end of the command")


def test_a_command_that_outlives_the_server_keeps_its_exit_code(gated: Gated) -> None:
    with serve(cwd=gated.folder) as server:
        run = start(gated, "exclusive", "--", "sh", "-c", "until test -e a; do sleep 0.05; done; exit 5")
        server.wait_for_log("runs alone")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        gated.let_go("a")
        text, _ = run.communicate(timeout=GENEROUS)
        assert (run.returncode, text) == (5, "pyservectl: the server has gone before the command had ended\n")


@pytest.mark.parametrize(
    "words", [("reload", "--wait"), ("rollback", "--wait"), ("maintenance", "on"), ("exclusive", "true")]
)
def test_a_command_does_not_wait_for_its_own_end(gated: Gated, words: tuple[str, ...]) -> None:
    with serve(cwd=gated.folder) as server:
        text = ctl(gated, "exclusive", "--", *CTL, *words, code=2)
        assert "would wait for the command that runs alone" in text
        gated.assert_open(server)


def test_under_maintenance_exclusive_says_what_is_still_in_the_app(gated: Gated) -> None:
    with serve("-k", "threads", cwd=gated.folder) as server:
        slow = gated.send(server, "GET", "/slow?until=a")
        server.wait_for(lambda: gated.entered("slow"))
        on = start(gated, "maintenance", "on")
        server.wait_for_log("maintenance is on")
        assert "1 request is in the app still" in ctl(gated, "exclusive", "--", "true", code=REFUSED)
        gated.let_go("a")
        assert slow.result().status_code == 200
        assert on.communicate(timeout=GENEROUS)[0] == "maintenance is on; no other request is in the app\n"
        assert "can simply be started" in ctl(gated, "exclusive", "--", "true", code=REFUSED)


def test_what_cannot_be_is_said_in_one_line(gated: Gated) -> None:
    with serve(cwd=gated.folder) as server:
        assert "begins with /" in ctl(gated, "maintenance", "on", "--allow", "healthz", code=2)
        big = gated.folder / "big.html"
        big.write_text("x" * 49_200)
        assert "48 KiB as JSON" in ctl(gated, "maintenance", "on", "--page", str(big), code=2)
        gated.assert_open(server)
