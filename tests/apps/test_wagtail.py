"""Wagtail: the site that ``wagtail start`` makes, and an editor who logs in, uploads a document, writes a page and publishes it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import requests

from apps.deploying import Browser, during_reloads, run, serving

ADD_PAGE = "/admin/pages/add/home/homepage/3/"  # below the page that the first migrations make
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wagtail")
    run("wagtail", "start", "blog", str(folder), cwd=folder)
    run(sys.executable, "manage.py", "migrate", cwd=folder)
    superuser = {"DJANGO_SUPERUSER_PASSWORD": "password"}
    run(
        sys.executable,
        "manage.py",
        "createsuperuser",
        "--no-input",
        "--username=ada",
        "--email=a@b.example",
        cwd=folder,
        env=superuser,
    )
    return folder


class Editor(Browser):
    def fill_in(self, path: str, fields: dict[str, str], **options: Any) -> requests.Response:
        """Fill in the form of a page, and send it."""
        hidden = {name: unescape(value) for name, value in HIDDEN.findall(self.get(path).text)}
        return self.post(path, data={**hidden, **fields}, **options)


def test_publish_a_page(project: Path, tmp_path: Path, worker_class: str) -> None:
    site = tmp_path / "site"
    shutil.copytree(project, site)
    with serving("blog.wsgi", cwd=site) as server:

        def flow(number: int) -> None:
            title, slug = f"Page number {number}", f"page-{number}"
            with Editor(server.url) as editor:
                assert "Dashboard" in editor.fill_in("/admin/login/", {"username": "ada", "password": "password"}).text
                content = os.urandom(1 << 20)
                editor.fill_in(
                    "/admin/documents/add/", {"title": title}, files={"file": (f"noise-{number}.zip", content)}
                )
                found = re.search(rf"/documents/\d+/noise-{number}\.zip", editor.get("/admin/documents/").text)
                assert found
                assert editor.get(found[0]).content == content
                editor.fill_in(ADD_PAGE, {"title": title, "slug": slug, "action-publish": "action-publish"})
                assert f"<title>\n            \n            {title}" in editor.get(f"/{slug}/").text

        during_reloads(server, flow)
