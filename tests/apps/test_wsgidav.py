"""WsgiDAV, and litmus, which asks a WebDAV server everything: files, collections, copies, properties, locks."""

from __future__ import annotations

import re
from pathlib import Path

from apps.deploying import during_reloads, needs, run, serving

# Locks and properties are those of all workers. WsgiDAV's own ways to keep them are for one process, or need a Redis.
APP = """
from diskcache import Index
from wsgidav.lock_man.lock_storage import LockStorageDict
from wsgidav.prop_man.property_manager import PropertyManager
from wsgidav.wsgidav_app import WsgiDAVApp

class Locks(LockStorageDict):
    def open(self):
        self._dict = Index("locks")

class Properties(PropertyManager):
    def _lazy_open(self):
        self._dict = Index("properties")
        self._loaded = True

application = WsgiDAVApp({
    "provider_mapping": {"/": "files"},
    "simple_dc": {"user_mapping": {"*": True}},
    "lock_storage": Locks(),
    "property_manager": Properties(),
    "logging": {"enable": False},
})
"""


@needs("litmus")
def test_litmus(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "app.py").write_text(APP)
    with serving("app", cwd=tmp_path) as server:

        def flow(number: int) -> None:
            folder = (
                f"run-{number}"  # the last request of one run is not waited for, and may still be under way in the next
            )
            (tmp_path / "files" / folder).mkdir()
            said = run("litmus", f"{server.url}/{folder}/", cwd=tmp_path)
            results = re.findall(r"of (\d+) tests run: (\d+) passed, (\d+) failed", said)
            assert len(results) == 5, said
            assert all((count, "0") == (passed, failed) for count, passed, failed in results), said

        during_reloads(server, flow)
