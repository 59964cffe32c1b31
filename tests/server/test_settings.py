"""The table itself: every row can be given from everywhere, and what is printed from it is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyserve.config import settings_page
from pyserve.config.config import Config
from pyserve.config.settings import BY_NAME, SECTIONS, SETTINGS, Setting

ROOT = Path(__file__).parents[2]


def test_config_has_an_attribute_for_every_setting_and_no_other() -> None:
    assert set(Config.__annotations__) == {*BY_NAME, "file", "origin", "sources", "warnings"}


def test_names_and_flags_are_given_once() -> None:
    flags = [flag for setting in SETTINGS for flag in setting.flags]
    assert len(flags) == len(set(flags))
    assert len(SETTINGS) == len(BY_NAME)
    assert all(len(flag) == 2 or flag.startswith("--") for flag in flags)


def test_sections_stand_together() -> None:
    assert list(dict.fromkeys(setting.section for setting in SETTINGS)) == list(SECTIONS)
    order = [SECTIONS.index(setting.section) for setting in SETTINGS]
    assert order == sorted(order)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_help_is_sentences(setting: Setting) -> None:
    assert setting.help.endswith(".")
    assert setting.help[0].isupper()
    assert "  " not in setting.help


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_is_found_or_is_a_value_that_can_be_given(setting: Setting) -> None:
    if setting.default is None or setting.default == []:
        assert setting.default_shown
        return
    assert setting.kind.from_text(setting.kind.show(setting.default)) == setting.default


def test_the_page_of_settings_is_up_to_date() -> None:
    """Write it with: python -m pyserve.config.settings_page > docs/settings.md."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page.page()


def test_the_page_has_every_setting() -> None:
    page = settings_page.page()
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == [setting.name for setting in SETTINGS]
