"""nginx and HAProxy before a server, with connections to it that are kept; they try nothing again, so that what the
server loses is seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from servers import HOST, AbsentError, nginx_path

NGINX = """
daemon off;
worker_processes 1;
pid {scratch}/nginx.pid;
error_log {scratch}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {scratch}/client;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    upstream server {{
        server {host}:{upstream} max_fails=0;
        keepalive 64;
        keepalive_timeout 60s;
    }}
    server {{
        listen {host}:{port} backlog=2048;
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 0
frontend www
    bind {host}:{port}
    default_backend server
backend server
    http-reuse always
    default-server pool-purge-delay 60s
    server one {host}:{upstream}
"""


def nginx(port: int, upstream: int, scratch: Path) -> list[str]:
    settings = scratch / "nginx.conf"
    settings.write_text(NGINX.format(scratch=scratch, host=HOST, port=port, upstream=upstream))
    return [nginx_path(), "-c", str(settings)]


def haproxy(port: int, upstream: int, scratch: Path) -> list[str]:
    path = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if path is None:
        raise AbsentError("Debian package haproxy is not installed")
    settings = scratch / "haproxy.cfg"
    settings.write_text(HAPROXY.format(host=HOST, port=port, upstream=upstream))
    return [path, "-db", "-f", str(settings)]


PROXIES: dict[str, Callable[[int, int, Path], list[str]]] = {"nginx": nginx, "haproxy": haproxy}
