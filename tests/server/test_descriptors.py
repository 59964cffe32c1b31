"""How many connections the descriptors are enough for."""

from __future__ import annotations

import resource

import pytest

from pyserve.system import descriptors, linux


@pytest.mark.parametrize("limit", [256, 1024, 4096, 20_000, 65_536, 1_048_576])
def test_the_default_never_needs_more_than_there_are(limit: int) -> None:
    connections = descriptors.enough_for(limit)
    assert descriptors.needed(connections) <= limit
    assert connections >= limit // 8


def test_few_descriptors_are_enough_for_one() -> None:
    assert descriptors.enough_for(3) == 1


def test_the_limits_are_the_kernels() -> None:
    assert linux.descriptor_limits() == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_a_limit_is_raised_as_far_as_it_may_be_and_never_lowered() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        linux.raise_descriptor_limit(300)
        assert linux.descriptor_limits() == (300, hard)
        linux.raise_descriptor_limit(200)
        assert linux.descriptor_limits() == (300, hard)
        linux.raise_descriptor_limit(hard + 1)
        assert linux.descriptor_limits() == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
