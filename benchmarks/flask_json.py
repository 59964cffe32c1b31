"""A Flask route that answers JSON."""

from __future__ import annotations

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/json")
def message() -> Response:
    return jsonify(message="Hello, world!")
