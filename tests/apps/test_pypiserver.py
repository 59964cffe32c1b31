"""pypiserver: twine uploads, pip downloads and installs."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

from apps.deploying import during_reloads, run, serving

APP = """
import pypiserver

application = pypiserver.app(roots=["packages"], authenticate=[], password_file=".")
"""
NEUTRAL = {"PIP_CONFIG_FILE": os.devnull}


def wheel(folder: Path, version: str, content: bytes) -> Path:
    """A wheel of the project ``parcel``, of one module and one file of data."""
    path = folder / f"parcel-{version}-py3-none-any.whl"
    info = f"parcel-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("parcel/__init__.py", f"version = {version!r}\n")
        archive.writestr("parcel/content", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: parcel\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_upload_and_download(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "packages").mkdir()
    with serving("app", cwd=tmp_path) as server:

        def flow(number: int) -> None:
            version = f"1.{number}"
            made = wheel(tmp_path, version, os.urandom(2 << 20))
            run(
                "twine",
                "upload",
                "--non-interactive",
                "--repository-url",
                server.url,
                "-u",
                "ada",
                "-p",
                "x",
                str(made),
                cwd=tmp_path,
            )
            index = [
                "--isolated",
                "--no-cache-dir",
                "--no-deps",
                "--index-url",
                f"{server.url}/simple/",
                f"parcel=={version}",
            ]
            run(sys.executable, "-m", "pip", "download", "-d", f"got-{number}", *index, cwd=tmp_path, env=NEUTRAL)
            assert (tmp_path / f"got-{number}" / made.name).read_bytes() == made.read_bytes()
            run(sys.executable, "-m", "pip", "install", "--target", f"site-{number}", *index, cwd=tmp_path, env=NEUTRAL)
            assert (tmp_path / f"site-{number}/parcel/content").stat().st_size == 2 << 20

        during_reloads(server, flow)
