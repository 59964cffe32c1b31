"""The C sources by themselves: no warnings, no read beyond the bytes given, the fuzz corpus under sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pyserve_workers.http1 import parser
from wire.parser_ways import chunked_in_every_way, head_in_every_way

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "workers" / "pyserve_workers" / "http1"
SOURCES = [NATIVE / name for name in ("http1.c", "h1_values.c", "h1_memory.c", "h1_chunked.c")]
FUZZ = ROOT / "tests" / "fuzz"
COMPILER = os.environ.get("CC", "cc")

TARGETS = ("head", "chunked")


def corpus(target: str) -> list[Path]:
    files = sorted((FUZZ / "corpus" / target).iterdir())
    assert len(files) > 20
    return files


def build(program: Path, *sources: Path, flags: tuple[str, ...] = ()) -> Path:
    options = [
        "-std=c17",
        "-D_DEFAULT_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{NATIVE}",
        f"-I{NATIVE.parent / 'native'}",
        *flags,
    ]
    subprocess.run([COMPILER, *options, *sources, *SOURCES, "-o", program], check=True)
    return program


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_warnings(source: Path, tmp_path: Path) -> None:
    strict = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wpedantic", "-Werror"]
    subprocess.run([COMPILER, "-std=c17", "-O2", *strict, "-c", source, "-o", tmp_path / "object"], check=True)


def test_nothing_varies_but_what_the_caller_owns(tmp_path: Path) -> None:
    """No source has writable data."""
    for source in SOURCES:
        subprocess.run([COMPILER, "-std=c17", "-O2", "-c", source, "-o", tmp_path / "object"], check=True)
        sections = subprocess.run(
            ["size", "-A", tmp_path / "object"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        sizes = {line.split()[0]: int(line.split()[1]) for line in sections if line.startswith(".")}
        assert (sizes[".data"], sizes[".bss"]) == (0, 0), source.name


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_read_beyond_the_end(target: str, tmp_path: Path) -> None:
    program = build(tmp_path / "guard_page", ROOT / "tests" / "wire" / "guard_page.c", flags=("-O2",))
    files = corpus(target)
    answers = subprocess.run([program, target, *files], check=True, capture_output=True, text=True).stdout.split()
    assert dict(zip(files, map(int, answers), strict=True)) == {file: answer(target, file) for file in files}


def answer(target: str, file: Path) -> int:
    """What the C function answers for the file, according to the binding."""
    try:
        if target == "chunked":
            return 1 if parser.decode_chunked(file.read_bytes()).done else 0
        head = parser.parse_head(file.read_bytes())
        return head.length if head else 0
    except parser.ParseError as error:
        return error.code


@pytest.mark.parametrize("target", TARGETS)
def test_corpus_under_sanitizers(target: str, tmp_path: Path) -> None:
    """The fuzz target checks itself: independence of splits, spans within bounds, a plain second reading of bodies."""
    sanitizers = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = build(tmp_path / "replay", FUZZ / f"fuzz_{target}.c", FUZZ / "replay.c", flags=sanitizers)
    files = corpus(target)
    done = subprocess.run([program, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(files)} files\n"


@pytest.mark.parametrize("file", corpus("head"), ids=lambda file: file.name)
def test_head_corpus_in_every_way(file: Path) -> None:
    head_in_every_way(file.read_bytes())


@pytest.mark.parametrize("file", corpus("chunked"), ids=lambda file: file.name)
def test_chunked_corpus_in_every_way(file: Path) -> None:
    chunked_in_every_way(file.read_bytes())
