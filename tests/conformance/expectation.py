"""What a case's words for its expected outcome mean: a grammar of statuses, alternatives and preferences.

    expectation = clause *( ";" clause )            the first alternative that holds decides
    clause      = group *( "," group ) [ "preferred" / "acceptable" / "warns" / "= warn" ]
    group       = term *( ( "/" / "or" / ", or" ) term ) [ "(pass)" / "(warn)" / "(fail)" ]
    term        = a row of TERMS, after a status also a row of CONDITIONS, then a row of NOTES in parentheses

Words that are in none of the tables are a ValueError: a case is never passed because nobody understood it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.utils import format_datetime, parsedate_to_datetime
from typing import Literal

import h11

from conformance.exchange import Outcome
from wire.loop import Response

Verdict = Literal["pass", "warn", "fail"]
Holds = Callable[[Outcome], bool]
VERDICTS: dict[str, Verdict] = {"pass": "pass", "warn": "warn", "fail": "fail"}
PREFERENCES: dict[str, Verdict] = {"preferred": "pass", "acceptable": "warn", "warns": "warn", "= warn": "warn"}


# ---- what was sent, what came back ----


def sent_fields(outcome: Outcome) -> list[tuple[bytes, bytes]]:
    """The field lines of the first request, split at the first colon."""
    lines = outcome.steps[0].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


def sent_values(outcome: Outcome, name: bytes) -> list[bytes]:
    return [value for each, value in sent_fields(outcome) if each.lower() == name]


def sent_body(outcome: Outcome) -> bytes:
    """The body of the first request as h11 reads it."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(outcome.steps[0])
    body = b""
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Request | h11.Data), event
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
    return body


def first(outcome: Outcome) -> Response | None:
    return outcome.answers[0]


def body(outcome: Outcome) -> bytes:
    return answer.body if (answer := first(outcome)) else b""


def has_header(outcome: Outcome, name: str) -> bool:
    return (answer := first(outcome)) is not None and name.lower() in answer.headers


def is_status(answer: Response | None, status: str) -> bool:
    """Does an answer have the status "400", or one like "2xx"?"""
    return answer is not None and re.fullmatch(status.replace("x", r"\d"), str(answer.status)) is not None


def refused(outcome: Outcome) -> bool:
    return first(outcome) is None or is_status(first(outcome), "4xx") or is_status(first(outcome), "5xx")


def echoed(outcome: Outcome, part: int) -> bool:
    """Is the name (0) or the value (1) of the last field that was sent in what the application has seen?"""
    return is_status(first(outcome), "2xx") and sent_fields(outcome)[-1][part] in body(outcome)


def dated_as_imf(outcome: Outcome) -> bool:
    date = answer.headers.get("date", "") if (answer := first(outcome)) else ""
    return bool(date) and format_datetime(parsedate_to_datetime(date), usegmt=True) == date


def follow_up_served(outcome: Outcome) -> bool:
    return all(is_status(answer, "2xx") for answer in outcome.answers)


# ---- the tables ----

# Whole terms. The groups of the pattern are handed to the predicate.
TERMS: list[tuple[str, Callable[..., bool]]] = [
    (r"close", lambda outcome: first(outcome) is None and not outcome.open),
    (r"timeout", lambda outcome: is_status(first(outcome), "408") and not outcome.open),
    (r"(?:!|not |non-)(\dxx|\d{3})(?: response)?", lambda outcome, status: never(outcome, status)),
    (r"IMF-fixdate format", dated_as_imf),
    (r"Reject", refused),
    (r"drop", lambda outcome: is_status(first(outcome), "2xx") and not echoed(outcome, 1)),
    (r"preserve", lambda outcome: echoed(outcome, 0)),
    (r"normalize(?: casing)?", lambda outcome: echoed(outcome, 1) and not echoed(outcome, 0)),
    (r"pass-through", follow_up_served),
    (r"poisoned follow-up", lambda outcome: not follow_up_served(outcome)),
    (r"extra response on step \d", lambda outcome: outcome.extra > 0),
]

# What may stand behind a status.
CONDITIONS: list[tuple[str, Callable[..., bool]]] = [
    (r"", lambda outcome: True),
    (r"\+ ?close", lambda outcome: not outcome.open and not any(outcome.answers[1:])),
    (r"\+ ?(\dxx)", lambda outcome, status: len(outcome.answers) > 1 and is_status(outcome.answers[1], status)),
    (r"\+ ?echo", lambda outcome: body(outcome) == sent_body(outcome)),
    (r"with no body", lambda outcome: body(outcome) == b"" and outcome.extra == 0),
    (r"with Cookie in body", lambda outcome: all(each in body(outcome) for each in sent_values(outcome, b"cookie"))),
    (r"with both cookies", lambda outcome: all(each in body(outcome) for each in sent_values(outcome, b"cookie"))),
    (r"with (\S+=.*) in body", lambda outcome, all_of: all(e.encode() in body(outcome) for e in all_of.split(", "))),
    (r"(?:\+|with) ([A-Z][A-Za-z-]+)(?: header)?", has_header),
    (r"without CL", lambda outcome: not has_header(outcome, "Content-Length")),
    (r"without NUL", lambda outcome: b"\0" not in body(outcome)),
    (r"without control chars", lambda outcome: not re.search(rb"[\0-\x08\x0b-\x1f\x7f]", body(outcome))),
    (r"without Auth", lambda outcome: not any(e in body(outcome) for e in sent_values(outcome, b"authorization"))),
]

# What may stand in parentheses: remarks, and one that is a condition. That there is no extra response goes for all.
NOTES: list[tuple[str, Callable[..., bool]]] = [
    (r"rejected|survived|no crash|no extra response|\d{3} preferred", lambda outcome: True),
    (r"Range ignored", lambda outcome: not is_status(first(outcome), "206")),
]


def never(outcome: Outcome, status: str) -> bool:
    """There is an answer, and nothing of that status, not even before it."""
    seen = [str(each) for each in outcome.interim] + [str(answer.status) for answer in outcome.answers if answer]
    return first(outcome) is not None and not any(re.fullmatch(status.replace("x", r"\d"), each) for each in seen)


# ---- the grammar ----


def look_up(table: list[tuple[str, Callable[..., bool]]], words: str) -> Holds:
    for pattern, predicate in table:
        if match := re.fullmatch(pattern, words):
            groups = match.groups()
            return lambda outcome: predicate(outcome, *groups)
    raise ValueError(f"no meaning is known for {words!r}")


def read_term(words: str) -> Holds:
    match = re.fullmatch(r"(.*?)(?: \(([^()]*)\))?", words)
    assert match
    note = look_up(NOTES, match[2]) if match[2] else None
    if status := re.fullmatch(r"(\dxx|\d{3})(?: ?(.*))?", match[1]):
        condition = look_up(CONDITIONS, status[2])
        return lambda outcome: (
            is_status(first(outcome), status[1]) and condition(outcome) and (note is None or note(outcome))
        )
    term = look_up(TERMS, match[1])
    return lambda outcome: term(outcome) and (note is None or note(outcome))


def read_clause(words: str) -> Iterator[tuple[Holds, Verdict]]:
    """Every alternative of a clause, and the verdict if it holds."""
    preference: Verdict = "pass"
    for word, meaning in PREFERENCES.items():
        if words.endswith(f" {word}"):
            words, preference = words.removesuffix(f" {word}"), meaning
    for group in re.split(r"(?<=\)), ", words):
        marked = re.fullmatch(rf"(.*) \(({'|'.join(VERDICTS)})\)", group)
        terms, verdict = (marked[1], VERDICTS[marked[2]]) if marked else (group, preference)
        for term in re.split(r",? or |/", terms):
            yield read_term(term), verdict


def read(words: str) -> Callable[[Outcome], Verdict]:
    """The judge that these words describe. ValueError if they are not understood."""
    alternatives = [alternative for clause in words.split("; ") for alternative in read_clause(clause)]
    # A clause "X = warn" warns of a follow-up that goes wrong: one that is served as it should be is no fault.
    if words.endswith("= warn"):
        alternatives.append((follow_up_served, "pass"))

    def judge(outcome: Outcome) -> Verdict:
        if outcome.extra:
            return "fail"
        return next((verdict for holds, verdict in alternatives if holds(outcome)), "fail")

    return judge


def words_of(status: str | None, close_ok: bool, expect: str | None) -> str:
    """The words for a case: its declared status, in the same grammar, where it has one. ValueError as for read()."""
    if expect:
        read(expect)
    if status is None:
        if not expect:
            raise ValueError("the case expects nothing")
        return expect
    match = re.fullmatch(r"Exact\((\d{3})\)|Range(\dxx)", status)
    if not match:
        raise ValueError(f"no meaning is known for {status!r}")
    return (match[1] or match[2]) + (" or close" if close_ok else "")
