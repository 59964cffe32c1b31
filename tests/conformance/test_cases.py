"""Every case of the file passes, or docs/conformance.md says why not; one of level Must always passes."""

from __future__ import annotations

import pytest

from conformance.cases import DOCUMENT, Case, Result, case_file, deviations, load, run

PATH = case_file()
CASES = load(PATH) if PATH.is_file() else []

pytestmark = pytest.mark.skipif(not CASES, reason=f"there is no case file {PATH}; CASES=FILE names one")


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {result.case.id: result for result in run(CASES)}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_case(results: dict[str, Result], case: Case) -> None:
    result = results[case.id]
    passed = result.verdict == "pass"
    listed = case.id in deviations()
    assert passed or listed, f"expected {case.words}, got {result.got}"
    assert not (passed and listed), f"it passes: {DOCUMENT.name} need not explain it any more"
    assert passed or case.level != "Must", "no reason excuses a Must"


def test_only_cases_that_exist_are_explained() -> None:
    assert set(deviations()) <= {case.id for case in CASES}


def test_the_figures_in_the_document_are_those_of_the_run(results: dict[str, Result]) -> None:
    from conformance.__main__ import summary

    for row in summary(list(results.values()))[1:]:
        assert f"| {' | '.join(row)} |" in DOCUMENT.read_text()
