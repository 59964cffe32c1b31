"""Real applications with their own clients, each in a virtual environment of its own: run by ``make apps`` only."""

from __future__ import annotations

import sys
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build" / "apps"

if Path(sys.prefix).parent != BUILD:
    collect_ignore_glob = ["test_*.py"]
