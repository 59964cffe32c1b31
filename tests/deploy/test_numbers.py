"""The samples' numbers keep their order with pyserve's defaults: each waits longer than the one it waits for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyserve.config.settings import BY_NAME

DEPLOY = Path(__file__).parents[2] / "deploy"
STOP = float(BY_NAME["graceful_timeout"].default + BY_NAME["hook_timeout"].default)


def number(file: str, pattern: str) -> float:
    """The number after a pattern in a sample."""
    found = re.search(pattern + r"(\d+)", (DEPLOY / file).read_text())
    assert found, f"{file} has no {pattern}"
    return float(found[1])


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        (number("systemd/pyserve.service", "TimeoutStopSec="), STOP),
        (
            number("systemd/pyserve.service", "TimeoutStartSec="),
            3 * BY_NAME["boot_timeout"].default + BY_NAME["graceful_timeout"].default,
        ),
        (
            number("kubernetes.yaml", "terminationGracePeriodSeconds: "),
            STOP + number("kubernetes.yaml", r"sleep: \{seconds: "),
        ),
        (number("kubernetes.yaml", "failureThreshold: "), BY_NAME["boot_timeout"].default),
        (BY_NAME["keep_alive"].default, number("nginx.conf", "keepalive_timeout ")),
        (number("nginx.conf", "proxy_read_timeout "), BY_NAME["timeout"].default),
        (BY_NAME["keep_alive"].default, number("haproxy.cfg", "pool-purge-delay ")),
        (number("haproxy.cfg", "timeout server "), BY_NAME["timeout"].default),
    ],
)
def test_longer_than(longer: float, shorter: float) -> None:
    assert longer > shorter


def test_nginx_lets_through_what_pyserve_takes() -> None:
    assert number("nginx.conf", "client_max_body_size ") * 2**30 == BY_NAME["limit_request_body"].default
