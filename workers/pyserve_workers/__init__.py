"""The request side of pyserve: what runs in zygotes and workers."""

from __future__ import annotations
