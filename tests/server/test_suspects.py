"""Which request is said to end workers."""

from __future__ import annotations

from pyserve.rules.suspects import REMEMBERED, Suspects


def test_a_line_is_named_at_its_second_crash_and_once_a_minute() -> None:
    suspects = Suspects()
    assert suspects.note(["GET /crash?id=1"], 100.0) == ""
    said = suspects.note(["GET /crash?id=2"], 101.0)
    assert said == "GET /crash was in the app when 2 workers ended in the last 60 s: it is the likely cause"
    assert suspects.note(["GET /crash"], 102.0) == ""
    assert "when 2 workers" in suspects.note(["GET /crash"], 161.5)


def test_different_lines_and_crashes_long_ago_are_no_suspects() -> None:
    suspects = Suspects()
    assert suspects.note(["GET /a"], 100.0) == ""
    assert suspects.note(["GET /b"], 101.0) == ""
    assert suspects.note(["POST /a"], 102.0) == ""
    assert suspects.note(["GET /a"], 160.0) == ""


def test_a_client_that_makes_up_lines_costs_no_memory() -> None:
    suspects = Suspects()
    for number in range(2 * REMEMBERED):
        suspects.note([f"GET /{number}"], 100.0)
        suspects.note([f"GET /{number}"], 100.0)
    assert len(suspects.crashes) <= REMEMBERED + 1
    assert len(suspects.named) <= 2 * REMEMBERED


def test_lines_that_were_there_together_are_named_together() -> None:
    """A request that waits long is in every worker that ends."""
    suspects = Suspects()
    assert suspects.note(["GET /wait", "GET /wait?again", "GET /crash"], 100.0) == ""
    both = "in the app when workers ended in the last 60 s: GET /wait (2 times), GET /crash (2 times)"
    assert suspects.note(["GET /wait", "GET /crash"], 101.0) == f"{both}; one of them is the likely cause"
    assert suspects.note(["GET /wait", "GET /other"], 102.0) == ""
    said = suspects.note(["GET /other", "GET /wait"], 103.0)
    assert "GET /wait (4 times), GET /other (2 times); one of them is" in said


def test_a_worker_that_crashes_with_nothing_inside_says_nothing() -> None:
    suspects = Suspects()
    assert [suspects.note([], 100.0 + second) for second in range(5)] == [""] * 5
