"""hgweb, and hg: clone, push, pull, and the pages that a browser sees."""

from __future__ import annotations

from pathlib import Path

from apps.deploying import during_reloads, run, serving

APP = """
from mercurial.hgweb import hgweb

application = hgweb(b"hgweb.conf", name=b"shelf")
"""
CONFIG = """
[paths]
/ = repositories/*
[web]
allow-push = *
push_ssl = false
"""
PLAIN = {"HGPLAIN": "1", "HGRCPATH": "", "HGUSER": "somebody"}


def hg(*words: str, cwd: Path) -> str:
    return run("hg", *words, cwd=cwd, env=PLAIN)


def test_clone_and_push(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "hgweb.conf").write_text(CONFIG)
    hg("init", "repositories/book", cwd=tmp_path / ".")
    with serving("app", cwd=tmp_path) as server:
        url = f"{server.url}/book"

        def flow(number: int) -> None:
            mine, theirs = tmp_path / f"mine-{number}", tmp_path / f"theirs-{number}"
            hg("clone", url, mine.name, cwd=tmp_path)
            hg("clone", url, theirs.name, cwd=tmp_path)
            page = mine / f"page-{number}"
            page.write_bytes(bytes(range(256)) * 2_000)
            hg("commit", "-A", "-m", f"page {number}", cwd=mine)
            hg("push", cwd=mine)
            hg("pull", "-u", cwd=theirs)
            assert (theirs / page.name).read_bytes() == page.read_bytes()
            hg("verify", cwd=theirs)
            assert f"page {number}" in server.get("/book/shortlog").text

        during_reloads(server, flow)
        assert hg("verify", cwd=tmp_path / "repositories/book")
