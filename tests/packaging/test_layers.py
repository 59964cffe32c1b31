"""The packages stand on each other: imports run down only, and nowhere in a circle.

Every import counts: those inside functions, those for types alone, and ``cimport``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = {"pyserve": ROOT / "server" / "pyserve", "pyserve_workers": ROOT / "workers" / "pyserve_workers"}
GROUND = {
    "pyserve",
    "pyserve_workers",
    "pyserve.errors",
    "pyserve.failpoint",
    "pyserve.records",
    "pyserve.states",
    "pyserve.words",
}

# What a package may import, besides itself and the ground.
MAY_IMPORT = {
    "pyserve.rules": set(),
    "pyserve.system": set(),
    "pyserve.app": {"pyserve.system"},
    "pyserve.config": {"pyserve.system"},
    "pyserve.ipc": {"pyserve.system", "pyserve.config"},
    "pyserve.master": {"pyserve.rules", "pyserve.system", "pyserve.app", "pyserve.config", "pyserve.ipc"},
    "pyserve.control": {
        "pyserve.rules", "pyserve.system", "pyserve.app", "pyserve.config", "pyserve.ipc", "pyserve.master",
    },
}  # fmt: skip
BELOW_WORKERS = {"pyserve.system", "pyserve.app", "pyserve.config", "pyserve.ipc"}
WORKERS = ["http1", "native", "life", "classes", "programs"]
for floor, part in enumerate(WORKERS):
    MAY_IMPORT[f"pyserve_workers.{part}"] = BELOW_WORKERS | {f"pyserve_workers.{below}" for below in WORKERS[:floor]}
MAY_IMPORT["pyserve_workers.http1"] = set()

IMPORT = re.compile(r"^\s*from (pyserve[\w.]*) c?import (\([^)]*\)|[^\n#]*)|^\s*c?import (pyserve[\w.]*)", re.MULTILINE)


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file; a .pxd beside its .pyx is the same module."""
    found: dict[str, Path] = {}
    for top, root in ROOTS.items():
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".pyx", ".pxd"):
                name = ".".join([top, *file.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
                found.setdefault(name, file)
    return found


def imported(text: str, python: bool) -> Iterator[tuple[str, str]]:
    """(module, name) of each import; no name: the module itself."""
    if not python:
        for module, names, alone in IMPORT.findall(text):
            for name in re.sub(r"#.*", "", names).strip("()").split(",") if module else [""]:
                yield module or alone, name.strip().split(" ")[0]
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@cache
def arrows() -> dict[str, set[str]]:
    """Who imports whom."""
    found: dict[str, set[str]] = {}
    for name, file in modules().items():
        texts = [(file.read_text(encoding="utf-8"), file.suffix == ".py")]
        if file.suffix == ".pxd" and file.with_suffix(".pyx").exists():
            texts.append((file.with_suffix(".pyx").read_text(encoding="utf-8"), False))
        targets = set()
        for text, python in texts:
            for module, part in imported(text, python):
                if module.partition(".")[0] in ROOTS:
                    targets.add(f"{module}.{part}" if f"{module}.{part}" in modules() else module)
        found[name] = targets - {name}
    return found


def package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_table_knows_every_package() -> None:
    packages = {package(name) for name, file in modules().items() if file.parent not in ROOTS.values()}
    assert packages == set(MAY_IMPORT)


def test_the_reader_sees_every_kind_of_import() -> None:
    seen = arrows()
    assert "pyserve.master.master" in seen["pyserve.launch"]
    assert "pyserve_workers.native.client" in seen["pyserve_workers.native.connection"], "cimport"
    assert "pyserve.config.tomlfile" in seen["pyserve.config.config"], "in a function"
    assert all(target in modules() for targets in seen.values() for target in targets)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_run_down(name: str) -> None:
    allowed = {name, *MAY_IMPORT[name]}
    up = [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        if package(module) == name
        for target in sorted(targets)
        if package(target) not in allowed and target not in GROUND
    ]
    assert not up


def test_the_ground_stands_on_nothing() -> None:
    assert {name: arrows()[name] - GROUND for name in GROUND - set(ROOTS)} == {
        name: set() for name in GROUND - set(ROOTS)
    }


def test_there_are_no_circles() -> None:
    """Between modules; the face of the package, and its __init__ files, may name what is below them."""
    left = {
        name: {target for target in targets if target not in ROOTS}
        for name, targets in arrows().items()
        if name not in ROOTS
    }
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    reached = set().union(*left.values()) if left else set()
    circles = {name: sorted(targets & left.keys()) for name, targets in left.items() if name in reached}
    assert not circles


REPLACED = {"epoll", "poll", "select"}  # by gevent
THEIRS = {"pyserve_workers.classes.gatekeeper"}  # whose greenlets wait


def test_the_systems_own_poll_is_taken_from_one_place() -> None:
    """The server's own code would else wait in the hub, or set it to work in the zygote."""
    found = []
    for name, file in modules().items():
        if file.suffix != ".py" or not name.startswith("pyserve_workers") or name in THEIRS:
            continue
        if name == "pyserve_workers.native.system":
            continue
        for node in typed_apart(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "select":
                found += [f"{name}: {alias.name}" for alias in node.names if alias.name in REPLACED]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "select":
                found += [f"{name}: select.{node.attr}"] if node.attr in REPLACED else []
    assert not found


def typed_apart(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from typed_apart(node)
