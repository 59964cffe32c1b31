"""README.md names the tests that keep the promises: each of them exists, and no promise is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "kept by" not in line
]


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("promise, tests", ROWS, ids=[row[0] for row in ROWS])
def test_the_tests_that_keep_a_promise_exist(promise: str, tests: str) -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", tests)
    assert len(named) == tests.count("`") / 2 > 0
    for file, name in named:
        assert (HERE / file).exists(), file
        assert not name or name in functions_of(HERE / file), f"{file}::{name}"
