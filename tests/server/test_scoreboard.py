"""The scoreboard: the two spellings of its table, and the sharing of its memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import pyserve.ipc.scoreboard
from pyserve.ipc.scoreboard import (
    FIELDS,
    LATENCY_BUCKETS,
    OFFSETS,
    REQUEST_LINE,
    REQUEST_LINES,
    SLOT_SIZE,
    SLOTS,
    WORD,
    Scoreboard,
    Slot,
    free_slot,
)

HEADER = Path(pyserve.ipc.scoreboard.__file__).with_name("scoreboard.h")
LARGEST = 2**64 - 1


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard.create()


def test_c_and_python_have_the_same_table(tmp_path: Path) -> None:
    """The compiler says where each member is, and how large."""
    members = [*OFFSETS]
    lines = "\n".join(
        f'    printf("{name} %zu %zu\\n", offsetof(pyserve_slot, {name}), sizeof ((pyserve_slot *)0)->{name});'
        for name in members
    )
    (tmp_path / "table.c").write_text(
        f"""
        #include <stddef.h>
        #include <stdio.h>
        #include "{HEADER}"
        int main(void)
        {{
        {lines}
            printf("constants %d %d %d %d\\n", PYSERVE_SLOT_SIZE, PYSERVE_LATENCY_BUCKETS, PYSERVE_REQUEST_LINE,
                PYSERVE_REQUEST_LINES);
            printf("all %zu 0\\n", sizeof(pyserve_slot));
        }}
        """
    )
    program = tmp_path / "table"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-std=c17", "-Wall", "-Werror", "-o", program, tmp_path / "table.c"], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    table = {name: tuple(map(int, numbers)) for name, *numbers in map(str.split, said)}

    assert table.pop("constants") == (SLOT_SIZE, LATENCY_BUCKETS, REQUEST_LINE, REQUEST_LINES)
    sizes = {name: count * WORD for name, count in FIELDS}
    assert table.pop("all")[0] == sum(sizes.values()), "C has no member that Python does not know"
    assert table == {name: (OFFSETS[name], sizes[name]) for name in members}


def test_new_slots_are_empty(scoreboard: Scoreboard) -> None:
    for index in (0, 1, SLOTS - 1):
        slot = scoreboard.slot(index)
        assert {slot.get(name) for name, _ in FIELDS} == {0}
        assert slot.request_line == ""


def test_every_word_is_its_own(scoreboard: Scoreboard) -> None:
    slot = scoreboard.slot(0)
    words = [(name, index) for name, count in FIELDS for index in range(count)]
    for value, (name, index) in enumerate(words, 1):
        slot.set(name, LARGEST - value, index)
    for value, (name, index) in enumerate(words, 1):
        assert slot.get(name, index) == LARGEST - value


def test_slots_do_not_touch_each_other(scoreboard: Scoreboard) -> None:
    before, slot, after = map(scoreboard.slot, (6, 7, 8))
    before.memory[:] = b"\xaa" * SLOT_SIZE
    after.memory[:] = b"\xbb" * SLOT_SIZE
    slot.memory[:] = b"\xff" * SLOT_SIZE
    slot.clear()
    assert bytes(slot.memory) == bytes(SLOT_SIZE)
    assert bytes(before.memory) == b"\xaa" * SLOT_SIZE
    assert bytes(after.memory) == b"\xbb" * SLOT_SIZE
    with pytest.raises(ValueError):
        slot.memory[:] = bytes(SLOT_SIZE + 1)


@pytest.mark.parametrize("index", [-1, SLOTS])
def test_there_are_no_more_slots(scoreboard: Scoreboard, index: int) -> None:
    with pytest.raises(IndexError, match=f"slot {index} of {SLOTS}"):
        scoreboard.slot(index)


def write_line(slot: Slot, line: bytes, length: int, place: int = 0) -> None:
    start = OFFSETS["request_line"] + place * REQUEST_LINE
    slot.memory[start : start + len(line)] = line
    slot.set("request_line_length", length, place)


def test_request_line_is_shown_as_latin_1(scoreboard: Scoreboard) -> None:
    slot = scoreboard.slot(0)
    write_line(slot, b"GET /caf\xe9 and the end of an older one", 9)
    assert slot.request_line == "GET /café"


def test_length_that_lies_does_not_reach_beyond_the_slot(scoreboard: Scoreboard) -> None:
    slot = scoreboard.slot(0)
    write_line(slot, b"x" * REQUEST_LINE, LARGEST)
    assert slot.request_line == "x" * REQUEST_LINE


def test_lines_inside_are_told_in_the_order_in_which_they_entered(scoreboard: Scoreboard) -> None:
    slot = scoreboard.slot(0)
    for place, since in ((0, 300), (2, 100), (7, 200)):
        write_line(slot, b"GET /%d" % since, 8, place)
        slot.set("request_since", since, place)
    assert slot.inside == [], "nobody is in the app"
    slot.set("active", 1)
    assert slot.inside == ["GET /100", "GET /200", "GET /300"]


def test_every_number_in_the_table_of_lines_can_lie(scoreboard: Scoreboard) -> None:
    slot = scoreboard.slot(0)
    slot.memory[:] = b"\xff" * SLOT_SIZE
    assert slot.inside == ["\xff" * REQUEST_LINE] * REQUEST_LINES


def test_descriptor_ends_at_an_exec(scoreboard: Scoreboard) -> None:
    assert not os.get_inheritable(scoreboard.fd)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the timer of pytest-timeout is a thread
def test_what_a_child_writes_is_seen_here(scoreboard: Scoreboard) -> None:
    """By a fork, and by a second map of the same descriptor, as an exec'd zygote makes it."""
    child = os.fork()
    if child == 0:
        try:
            scoreboard.slot(3).set("requests", 12345)
            Scoreboard(os.dup(scoreboard.fd)).slot(4).set("latency", 678, 23)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert scoreboard.slot(3).get("requests") == 12345
    assert scoreboard.slot(4).get("latency", 23) == 678


def test_memory_is_taken_only_for_slots_that_were_touched(scoreboard: Scoreboard) -> None:
    scoreboard.slot(0).set("pid", 1)
    assert os.fstat(scoreboard.fd).st_blocks * 512 < SLOT_SIZE * SLOTS / 8


def test_a_free_slot_is_found_until_there_is_none_and_the_last_is_not_a_workers() -> None:
    assert free_slot({0, 1, 3}) == 2
    assert free_slot(range(SLOTS - 2)) == SLOTS - 2
    with pytest.raises(OSError, match="1023 others are there or still leaving"):
        free_slot(range(SLOTS - 1))
