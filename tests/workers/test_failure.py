"""The text of an app's exception: Python's own, without guesses, whatever the exception is."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from pyserve_workers.native.failure import describe
from support import Server, serve


def raised(code: str) -> BaseException:
    try:
        exec(code, {"__name__": "app"})
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it raises nothing")


@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        "def",
        "raise ValueError",
        "raise KeyError('a') from ValueError('b')",
        "try: 1 / 0\nexcept Exception: {}['x']",
        "raise ExceptionGroup('several', [ValueError(1), ExceptionGroup('more', [TypeError(2)])])",
        "e = ValueError('x'); e.add_note('a note'); raise e",
        "raise SystemExit(3)",
        "int('x')",
    ],
)
def test_it_is_what_python_prints(code: str) -> None:
    error = raised(code)
    assert describe(error) == "".join(traceback.format_exception(error)).rstrip("\n")


class Surprise:
    def __dir__(self) -> list[str]:
        raise AssertionError("asked for its names")


GUESSES = [
    (AttributeError("no such", name="colour", obj=Surprise()), "AttributeError: no such"),
    (NameError("no such", name="prin"), "NameError: no such"),
    (ImportError("no such", name="antigravity_of_this_test"), "ImportError: no such"),
    (
        ModuleNotFoundError("No module named 'shop.web'", name="shop.web"),
        "ModuleNotFoundError: No module named 'shop.web'",
    ),
]


@pytest.mark.parametrize("error, text", GUESSES)
def test_it_does_not_guess_and_asks_nobody(error: Exception, text: str) -> None:
    name = error.name  # type: ignore[attr-defined]  # they all have one
    try:
        try:
            raise error
        except Exception as first:
            raise ValueError("second") from first
    except ValueError as second:
        said = describe(second)
    assert text in said.split("\n")
    assert error.name == name  # type: ignore[attr-defined]


class NastyError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # as an app may do
        raise SystemError("no notes")


class WorseError(AttributeError):
    @property
    def name(self) -> str:  # type: ignore[override]  # as an app may do
        raise RuntimeError("no name")


@pytest.mark.parametrize("kind", [NastyError, WorseError])
def test_it_never_fails(kind: type[Exception]) -> None:
    try:
        raise kind("secret")
    except kind as error:
        said = describe(error)
    assert said.startswith("Traceback (most recent call last):\n")
    assert "raise kind" in said
    assert kind.__qualname__ in said.partition("raise kind")[2]


PACKAGE = """
with open("imports", "a") as file:
    file.write("shop\\n")
import shop.web
"""


def test_a_package_whose_import_failed_is_not_imported_again_for_the_report(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text(PACKAGE)
    with pytest.raises(AssertionError, match="exited with code 4"):
        start(tmp_path)
    assert (tmp_path / "imports").read_text() == "shop\n"


def start(folder: Path) -> Server:
    with serve("shop:app", cwd=folder) as server:
        return server


def test_the_import_that_failed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text(PACKAGE)
    with pytest.raises(AssertionError):
        start(tmp_path)
    said = capsys.readouterr().out
    assert "ModuleNotFoundError: No module named 'shop.web'" in said
    assert f'{tmp_path}/shop/__init__.py", line 4' in said
    assert "pyserve_workers" not in said


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the traceback module of Python 3.11 does not guess")
def test_the_interpreter_is_one_that_guesses() -> None:
    """Else the tests above prove nothing."""
    error = raised("import sys; sys.stdou")
    assert "Did you mean" in "".join(traceback.format_exception(error))
    assert "Did you mean" not in describe(error)
