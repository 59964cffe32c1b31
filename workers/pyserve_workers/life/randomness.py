"""Random numbers in workers that are forks of one process: each must have its own.

The module random seeds itself anew in a fork, and OpenSSL, uuid and secrets ask the kernel. NumPy's global generator
does not; a generator that the app made itself, seeded or not, is the app's own affair.
"""

from __future__ import annotations

import sys


def reseed() -> None:
    """In a worker, right after the fork: let NumPy's global generator, if there is one, start from the kernel's."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
