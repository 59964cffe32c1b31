"""The Django project in threads: what becomes of its database connections."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from examples.running import Example, serve_example
from examples.test_django_project import set_up, submit

THREADS = 4
VISITORS = 12


def open_databases(example: Example) -> int:
    """How many connections to the database the workers have open."""
    count = 0
    for pid in example.server.workers():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has just been closed
                count += os.readlink(link).endswith("/db.sqlite3")
    return count


def visit(example: Example) -> None:
    """Some pages and an entry, all over one connection."""
    with example.client() as client:
        for _ in range(5):
            assert client.get("/").status_code == 200
        assert "Thank you for the entry." in submit(client, "/", name="Ada", message="Hello").text


@pytest.mark.parametrize("max_age", [0, 600])
def test_database_connections(max_age: int, tmp_path: Path) -> None:
    """Django closes them at the end of each request, or keeps one for each thread, as it is told to."""

    def prepare(directory: Path) -> None:
        set_up(directory)
        settings = directory / "mysite" / "settings.py"
        text = settings.read_text()
        assert '"ENGINE"' in text
        settings.write_text(text.replace('"ENGINE"', f'"CONN_MAX_AGE": {max_age},\n        "ENGINE"'))
        with (directory / "pyserve.toml").open("a") as file:
            file.write(f"\nthreads = {THREADS}\n")

    with serve_example("django_project", tmp_path, prepare) as example, ThreadPoolExecutor(VISITORS) as pool:
        for _ in range(3):
            for done in [pool.submit(visit, example) for _ in range(VISITORS)]:
                done.result()
        if max_age:
            assert 1 <= open_databases(example) <= THREADS * len(example.server.workers())
        else:
            example.server.wait_for(lambda: open_databases(example) == 0)
        assert "error" not in example.server.log
