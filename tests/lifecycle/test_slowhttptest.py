"""slowhttptest, a tool that people attack servers with to see whether they stand it: in its three ways, one worker does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lifecycle.crowd import Costs, need_descriptors
from lifecycle.load import Load
from support import serve

pytestmark = pytest.mark.usefixtures("worker_class")
TOOL = shutil.which("slowhttptest")
CONNECTIONS = 300
APP = """
PAGE = bytes(range(250)) * 4000

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [PAGE if environ["PATH_INFO"] == "/large" else b"ok"]
"""
WAYS = {
    "slow head": ("-H", "/"),
    "slow body": ("-B", "/"),
    "slow read": ("-X", "/large", "-k", "10", "-n", "1", "-z", "32", "-w", "512", "-y", "1024"),
}


@pytest.mark.skipif(TOOL is None, reason="needs slowhttptest")
@pytest.mark.parametrize("way", WAYS)
def test_one_worker_serves_others_meanwhile(way: str, tmp_path: Path) -> None:
    """The tool reports after its connections have ended, or after 5 s."""
    (tmp_path / "app.py").write_text(APP)
    need_descriptors(2 * CONNECTIONS)
    mode, path, *options = WAYS[way]
    timeouts = ("--header-timeout", "3", "--write-timeout", "3", "--body-timeout", "3")
    with serve("app:wsgi", "--workers", "1", *timeouts, cwd=tmp_path) as server:
        costs = Costs(server)
        command = [str(TOOL), mode, "-u", server.url + path, *options, "-c", str(CONNECTIONS), "-r", "1000"]
        with (
            Load(server.url, threads=1, pause=0.005) as fresh,
            Load(server.url, threads=1, reuse=True, pause=0.005) as kept,
        ):
            attack = subprocess.run(
                [*command, "-i", "1", "-l", "5", "-p", "30"], capture_output=True, text=True, timeout=100, check=True
            )
        for load in (fresh, kept):
            assert load.failures == []
            assert len(load.answers) > 10
            assert set(load.answers) == {(200, b"ok")}
        report = re.sub(r"\x1b\[[0-9;]*m", "", attack.stdout)
        assert re.findall(r"service available:\s+(\w+)", report)[-1] == "YES", report
        assert "NO" not in re.findall(r"service available:\s+(\w+)", report)
        costs.check_nothing_is_left()
        if mode == "-H":
            assert "refused with 408: the request head did not arrive in time" in server.log
