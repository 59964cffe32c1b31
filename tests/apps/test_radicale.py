"""Radicale, and a client of CalDAV: make a calendar, put events, report and search them, change and delete them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import caldav

from apps.deploying import during_reloads, serving

CONFIG = """
[auth]
type = none
[storage]
filesystem_folder = collections
"""
DAY = datetime(2030, 5, 17, 12)


def test_a_calendar(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "radicale.ini").write_text(CONFIG)
    with serving("radicale", cwd=tmp_path, env={"RADICALE_CONFIG": "radicale.ini"}) as server:

        def flow(number: int) -> None:
            with caldav.DAVClient(url=server.url, username="ada", password="x") as client:
                calendar = client.principal().make_calendar(name=f"Calendar {number}")
                events = [
                    calendar.save_event(
                        dtstart=DAY + timedelta(days=day),
                        dtend=DAY + timedelta(days=day, hours=1),
                        summary=f"day {day}",
                    )
                    for day in range(10)
                ]
                found = calendar.search(start=DAY, end=DAY + timedelta(days=4, hours=2), event=True, expand=False)
                assert sorted(event.icalendar_component["summary"] for event in found) == [
                    f"day {day}" for day in range(5)
                ]
                events[3].icalendar_component["summary"] = "changed"
                events[3].save()
                assert "changed" in calendar.event_by_url(events[3].url).data
                events[4].delete()
                assert len(calendar.events()) == 9
                assert f"Calendar {number}" in [each.get_display_name() for each in client.principal().calendars()]
                calendar.delete()

        during_reloads(server, flow)
