"""How many descriptors this process may have."""

from __future__ import annotations

ENOUGH = 65536


def raise_limit() -> None:
    """Each worker is a channel in the master, each client connection a descriptor in a worker: take what is allowed."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
