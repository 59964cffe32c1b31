"""Dash: callbacks at once, and in the background, each in a process (multiprocess) that leaves its result in a diskcache.

A page asks as here: it starts the callback, then asks for its result again and again, whichever worker answers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from apps.deploying import Browser, during_reloads, serving
from support.processes import wait_for

APP = """
import contextlib
import time

import diskcache
import psutil
from dash import Dash, DiskcacheManager, Input, Output, State, dcc, html

class Manager(DiskcacheManager):
    def terminate_job(self, job):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself meanwhile: Dash does not expect that
            super().terminate_job(job)

app = Dash(__name__, background_callback_manager=Manager(diskcache.Cache("cache")))
app.layout = html.Div([dcc.Input(id="number"), html.Button(id="run"), html.Div(id="square"), html.Div(id="cube"), html.Div(id="step")])

@app.callback(Output("square", "children"), Input("number", "value"))
def square(number):
    return number ** 2

@app.callback(
    Output("cube", "children"), Input("run", "n_clicks"), State("number", "value"),
    background=True, progress=Output("step", "children"), prevent_initial_call=True,
)
def cube(set_progress, clicks, number):
    for step in range(30):
        set_progress(f"step {step}")
        time.sleep(0.1)
    return number ** 3

application = app.server
"""


class Page(Browser):
    """What runs in a browser."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        found = re.search(r'<script id="_dash-config"[^>]*>(.*?)</script>', self.get("/").text)
        assert found
        self.query = {"endId": json.loads(found[1])["end_id"]}
        self.callbacks = {each["output"]: each for each in self.get("/_dash-dependencies").json()}

    def update(self, output: str, values: dict[str, Any], **handles: str) -> Any:
        """Ask for ``output``, such as "cube.children", with these values of inputs and state."""
        name, _, prop = output.partition(".")
        inputs, state = (
            [{**each, "value": values[each["id"]]} for each in self.callbacks[output][kind]]
            for kind in ("inputs", "state")
        )
        changed = [f"{each['id']}.{each['property']}" for each in inputs]
        body = {
            "output": output,
            "outputs": {"id": name, "property": prop},
            "inputs": inputs,
            "state": state,
            "changedPropIds": changed,
        }
        return self.post("/_dash-update-component", params={**self.query, **handles}, json=body).json()


def test_callbacks(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("app", cwd=tmp_path) as server:

        def flow(number: int) -> None:
            page = Page(server.url)
            started = page.update("cube.children", {"run": number, "number": number})
            handles = {"cacheKey": started["cacheKey"], "job": started["job"]}
            steps, answers = set(), []

            def ready() -> bool:
                answer = page.update("cube.children", {"run": None, "number": None}, **handles)
                steps.update(answer.get("progress", {}).values())
                answers.append(answer)
                at_once = page.update("square.children", {"number": len(answers)})
                assert at_once["response"]["square"]["children"] == len(answers) ** 2
                return "response" in answer

            wait_for(ready)
            assert answers[-1]["response"]["cube"]["children"] == number**3
            assert len(steps) > 1

        during_reloads(server, flow)
