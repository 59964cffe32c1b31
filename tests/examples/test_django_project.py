"""examples/django_project: the guestbook, the login, the admin site and the CSV; all of it during reloads."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from examples.running import Client, Example, during_releases, serve_example

ROWS = 3000
MANAGE = [sys.executable, "manage.py"]
FILL = f"""
from django.contrib.auth.models import User
from guestbook.models import Entry

User.objects.create_superuser("admin", "admin@example.com", "open sesame")
Entry.objects.bulk_create(Entry(name=f"Visitor {{n}}", message="One, two\\nthree") for n in range({ROWS}))
"""


def set_up(directory: Path) -> None:
    """What the README says, and some entries."""
    for arguments in (["migrate", "--verbosity=0"], ["shell", "--no-imports", "-c", FILL]):
        subprocess.run([*MANAGE, *arguments], cwd=directory, check=True)


@pytest.fixture(scope="module")
def django_project(tmp_path_factory: pytest.TempPathFactory, worker_class: str) -> Iterator[Example]:
    with serve_example("django_project", tmp_path_factory.mktemp("django"), set_up) as example:
        yield example


@pytest.fixture
def client(django_project: Example) -> Iterator[Client]:
    with django_project.client() as client:
        yield client


def submit(client: Client, path: str, form_at: str = "", **fields: str) -> requests.Response:
    """Fill in the form of the page ``path``, or ``form_at``, as a browser does: with its token and its origin."""
    page = client.get(form_at or path)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token, page.text
    headers = {"Referer": page.url, "Origin": client.url}
    return client.post(path, data={"csrfmiddlewaretoken": token[1], **fields}, headers=headers)


def log_in(client: Client, path: str = "/admin/login/?next=/admin/") -> requests.Response:
    answer = submit(client, path, username="admin", password="open sesame")
    assert "sessionid" in client.cookies
    return answer


def test_the_project_is_sound(django_project: Example) -> None:
    """No model has changed without its migration, and Django's own checks find nothing."""
    for arguments in (["makemigrations", "--check", "--dry-run"], ["check", "--fail-level", "WARNING"]):
        subprocess.run([*MANAGE, *arguments], cwd=django_project.directory, check=True)


def test_index(client: Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert f"Visitor {ROWS - 1}, " in answer.text
    assert f"Visitor {ROWS - 51}, " not in answer.text


def test_the_guestbook_takes_an_entry(client: Client) -> None:
    answer = submit(client, "/", name="Ada", message="<b>Hello</b>")
    assert answer.history[0].status_code == 302
    assert "Thank you for the entry." in answer.text
    assert "&lt;b&gt;Hello&lt;/b&gt;" in answer.text


def test_an_entry_without_a_message_is_not_taken(client: Client) -> None:
    answer = submit(client, "/", name="Nobody", message="")
    assert answer.status_code == 400
    assert "This field is required." in answer.text
    assert "Nobody, " not in client.get("/").text


def test_a_form_without_its_token_is_refused(client: Client) -> None:
    answer = client.post("/", data={"name": "Mallory", "message": "forged"})
    assert answer.status_code == 403


def test_a_foreign_host_is_refused(client: Client) -> None:
    assert client.get("/", headers={"Host": "example.com"}).status_code == 400


def test_login_and_logout(client: Client) -> None:
    assert client.get("/entries.csv").url == client.url + "/login/?next=/entries.csv"
    wrong = submit(client, "/login/", username="admin", password="wrong")
    assert "Please enter a correct username and password." in wrong.text
    assert "Log out admin" in log_in(client, "/login/").text
    assert "Log in" in submit(client, "/logout/", form_at="/").text
    assert "sessionid" not in client.cookies


def test_the_csv_is_streamed(client: Client) -> None:
    log_in(client)
    answer = client.get("/entries.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    rows = list(csv.reader(answer.text.splitlines(keepends=True)))
    assert rows[0] == ["id", "written", "name", "message"]
    assert [row[2:] for row in rows[1 : ROWS + 1]] == [[f"Visitor {n}", "One, two\nthree"] for n in range(ROWS)]


def test_the_admin_adds_an_entry(client: Client) -> None:
    assert "Site administration" in log_in(client).text
    answer = submit(client, "/admin/guestbook/entry/add/", name="Grace", message="From the admin")
    assert "was added successfully" in answer.text
    assert "From the admin" in client.get("/admin/guestbook/entry/?q=Grace").text
    assert "From the admin" in client.get("/").text


def test_the_admin_has_its_style_sheets(client: Client) -> None:
    page = client.get("/admin/login/").text
    sheets = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page)
    assert "/static/admin/css/base.css" in sheets
    for sheet in sheets:
        answer = client.get(sheet)
        assert answer.headers["Content-Type"] == 'text/css; charset="utf-8"'
        assert len(answer.content) == int(answer.headers["Content-Length"]) > 0


def test_a_static_file_is_not_sent_twice(client: Client) -> None:
    sheet = "/static/guestbook/style.css"
    modified = client.get(sheet).headers["Last-Modified"]
    answer = client.get(sheet, headers={"If-Modified-Since": modified})
    assert (answer.status_code, answer.content) == (304, b"")


def test_all_of_it_while_the_app_is_reloaded(tmp_path: Path) -> None:
    """Visitors write, administrators add entries and export them, from new connections; no reload disturbs one."""

    def visitor() -> None:
        with example.client(reuse=False) as client:
            assert "Thank you for the entry." in submit(client, "/", name="Ada", message="Hello").text
            assert client.get("/static/guestbook/style.css").status_code == 200

    def administrator() -> None:
        with example.client(reuse=False) as client:
            assert "Site administration" in log_in(client).text
            for sheet in ("base.css", "forms.css"):
                assert client.get(f"/static/admin/css/{sheet}").status_code == 200
            answer = submit(client, "/admin/guestbook/entry/add/", name="Grace", message="Added")
            assert "was added successfully" in answer.text
            assert client.get("/entries.csv").text.count("Visitor ") == ROWS

    def release(number: int) -> None:
        template = example.directory / "guestbook" / "templates" / "guestbook" / "base.html"
        template.write_text(re.sub("<main>.*", f"<main> <!-- release {number} -->", template.read_text()))
        example.reload()
        with example.client(reuse=False) as client:
            assert all(f"<!-- release {number} -->" in client.get("/").text for _ in range(20))

    with serve_example("django_project", tmp_path, set_up) as example:
        during_releases(release, [visitor, visitor, administrator])
