"""Django's database connections, of which each thread or greenlet has its own: kept, and closed in the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lifecycle.load import Load
from support import Server, serve

APP = """
import os, time
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="shop",
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db", "CONN_MAX_AGE": int(os.environ["MAX_AGE"]),
    }},
)
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.urls import path

connection_created.connect(lambda **_: print("opened", flush=True), weak=False)
close = BaseDatabaseWrapper._close

def noting_close(self):
    if self.connection is not None:
        print("closed", flush=True)
    return close(self)

BaseDatabaseWrapper._close = noting_close

def view(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        answer = cursor.fetchone()
    time.sleep(float(request.GET.get("seconds", 0)))
    return HttpResponse(str(answer))

urlpatterns = [path("", view)]
app = get_wsgi_application()
"""


def open_files(server: Server) -> int:
    """How many descriptors of the database the only worker has."""
    folder = Path(f"/proc/{server.workers()[0]}/fd")
    return sum(os.readlink(entry).endswith("/shop.db") for entry in folder.iterdir())


@pytest.mark.parametrize("max_age", [0, 600])
def test_connections_are_kept_as_django_says_and_closed_in_the_end(
    tmp_path: Path, concurrent: str, max_age: int
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    env = {"MAX_AGE": str(max_age)}
    with serve("shop:app", "-k", concurrent, "--workers", "1", cwd=tmp_path, env=env) as server:
        for _ in range(5):
            assert server.get("/").text == "(1,)"
        assert server.log.count("opened") == (5 if max_age == 0 else 1)
        with Load(server.url, "/?seconds=0.5", threads=6) as load:
            server.wait_for(lambda: len(load.answers) >= 12)
        assert load.failures == []
        assert {body for _, body in load.answers} == {b"(1,)"}
        if max_age == 0:
            server.wait_for(lambda: open_files(server) == 0)
        else:
            assert 1 <= open_files(server) <= server.log.count("opened") <= 16  # threads, for 17 requests
        server.stop()
        assert server.log.count("closed") == server.log.count("opened")
