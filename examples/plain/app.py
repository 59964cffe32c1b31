"""A WSGI app with no framework: the whole of PEP 3333 that an app needs, in one page."""

import html
import time
from urllib.parse import parse_qs

BLOCK = 64 * 1024

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>plain WSGI</title>
<style>
  body {{ max-width: 50rem; margin: 3rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif; color: #223; }}
  h1 {{ font-weight: 600; }}
  td {{ padding: .15rem 1.5rem .15rem 0; vertical-align: top; border-bottom: 1px solid #e4e6ee; }}
  td, code {{ font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere; }}
  a {{ color: #2456c9; }}
</style>
<h1>{title}</h1>
{content}
"""

INDEX = """<p>One callable, no framework.</p>
<ul>
  <li><a href="/environ">/environ</a>: what the server tells the app about this request</li>
  <li><a href="/stream?lines=10">/stream</a>: a generator, a line at a time</li>
  <li><code>curl --data-binary @file http://127.0.0.1:8000/echo</code>: the body comes back</li>
</ul>"""


def wsgi(environ, start_response):
    """The app: called once a request, it gives status and headers to ``start_response`` and returns the body."""
    view = ROUTES.get(environ["PATH_INFO"], not_found)
    status, headers, body = view(environ)
    start_response(status, headers)
    return body


def index(_environ):
    return page("200 OK", "A plain WSGI app", INDEX)


def echo(environ):
    """The body as it came. It is read in blocks, so that a large one is never in memory as a whole."""
    body = environ["wsgi.input"]
    headers = [("Content-Type", environ.get("CONTENT_TYPE") or "application/octet-stream")]
    if environ.get("CONTENT_LENGTH"):
        headers.append(("Content-Length", environ["CONTENT_LENGTH"]))
    return "200 OK", headers, iter(lambda: body.read(BLOCK), b"")


def stream(environ):
    """No Content-Length: HTTP/1.1 clients get the lines in chunks, as they come."""
    wanted = parse_qs(environ["QUERY_STRING"]).get("lines", ["10"])[0]
    if not (wanted.isdecimal() and int(wanted) <= 1000):
        return page("400 Bad Request", "lines must be a number, at most 1000", "")
    return "200 OK", [("Content-Type", "text/plain; charset=utf-8")], lines(int(wanted))


def lines(count):
    for number in range(1, count + 1):
        yield b"line %d of %d\n" % (number, count)
        time.sleep(0.02)


def describe(environ):
    rows = "\n".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(repr(value))}</td></tr>"
        for name, value in sorted(environ.items())
    )
    return page("200 OK", "environ", f"<table>{rows}</table>")


def not_found(_environ):
    return page("404 Not Found", "Nothing here", '<p><a href="/">To the start</a></p>')


def page(status, title, content):
    body = PAGE.format(title=title, content=content).encode()
    return status, [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))], [body]


ROUTES = {"/": index, "/echo": echo, "/stream": stream, "/environ": describe}
