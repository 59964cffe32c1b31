"""dulwich's Git server, and git: clone, push (also large: in chunks, and packed with gzip), fetch."""

from __future__ import annotations

import os
from pathlib import Path

from apps.deploying import during_reloads, needs, run, serving

APP = """
from dulwich.server import FileSystemBackend
from dulwich.web import make_wsgi_chain

application = make_wsgi_chain(FileSystemBackend())
"""
PLAIN = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    **{f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(*words: str, cwd: Path) -> str:
    return run("git", *words, cwd=cwd, env=PLAIN)


@needs("git")
def test_clone_and_push(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    git("init", "--bare", "-b", "main", "repositories/book", cwd=tmp_path)
    with serving("app", cwd=tmp_path) as server:
        url = f"{server.url}{tmp_path}/repositories/book"

        def flow(number: int) -> None:
            mine, theirs = tmp_path / f"mine-{number}", tmp_path / f"theirs-{number}"
            git("clone", url, mine.name, cwd=tmp_path)
            git("clone", url, theirs.name, cwd=tmp_path)
            git("checkout", "-B", "main", cwd=mine)
            small, large = mine / f"small-{number}", mine / f"large-{number}"
            small.write_text("one line\n")
            large.write_bytes(os.urandom(3 << 20))  # above http.postBuffer: chunked
            git("add", ".", cwd=mine)
            git("commit", "-m", f"page {number}", cwd=mine)
            git("push", "origin", "main", cwd=mine)
            git("pull", "origin", "main", cwd=theirs)
            assert (theirs / large.name).read_bytes() == large.read_bytes()
            git("fsck", "--strict", cwd=theirs)

        during_reloads(server, flow)
        git("fsck", "--strict", cwd=tmp_path / "repositories/book")
