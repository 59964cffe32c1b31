"""What gunicorn's users may type that is not here: each with what to do instead.

Read only when something unknown was given, so that nothing is ignored in silence and nobody is left guessing.
"""

from __future__ import annotations

LATER = "not available in this version"
TLS = f"{LATER}; let a proxy such as nginx or HAProxy speak TLS"
STRICT = "not available: only correct HTTP/1.1 is accepted"
SYSLOG = f'{LATER}; log to standard error ("-") and let systemd or the container runtime forward it'
METRICS = LATER

OPTIONS = {
    "-D": "not available: run pyserve under systemd or a container runtime, which need it in the foreground",
    "--daemon": "not available: run pyserve under systemd or a container runtime, which need it in the foreground",
    "-R": "not available: the application's output always goes where pyserve's does",
    "--enable-stdio-inheritance": "not available: the application's output always goes where pyserve's does",
    "--capture-output": f"{LATER}; the application's output goes where pyserve's standard error goes",
    "--reload": f"{LATER}; send SIGHUP to load changed code",
    "--reload-engine": f"{LATER}; send SIGHUP to load changed code",
    "--reload-extra-file": f"{LATER}; send SIGHUP to load changed code",
    "--spew": "not available: use a debugger",
    "--no-sendfile": LATER,
    "--reuse-port": "not available: closing such a socket loses the connections that wait in it",
    "--initgroups": LATER,
    "--paste": LATER,
    "--paster": LATER,
    "--paste-global": LATER,
    "--logger-class": "not available: the log is written natively; see --access-logformat",
    "--log-config": "not available: the log is written natively; see --access-logformat and --log-level",
    "--log-config-json": "not available: the log is written natively; see --access-logformat and --log-level",
    "--log-syslog": SYSLOG,
    "--log-syslog-to": SYSLOG,
    "--log-syslog-prefix": SYSLOG,
    "--log-syslog-facility": SYSLOG,
    "--disable-redirect-access-to-syslog": SYSLOG,
    "--statsd-host": METRICS,
    "--statsd-prefix": METRICS,
    "--dogstatsd-tags": METRICS,
    "--enable-backlog-metric": METRICS,
    "--proxy-protocol": LATER,
    "--proxy-allow-from": LATER,
    "--protocol": "not available: pyserve speaks HTTP/1.1",
    "--uwsgi-allow-from": "not available: pyserve speaks HTTP/1.1",
    "--certfile": TLS,
    "--keyfile": TLS,
    "--ssl-version": TLS,
    "--cert-reqs": TLS,
    "--ca-certs": TLS,
    "--ciphers": TLS,
    "--suppress-ragged-eofs": TLS,
    "--do-handshake-on-connect": TLS,
    "--http-protocols": "not available: pyserve speaks HTTP/1.1",
    "--http2-cleartext": "not available: pyserve speaks HTTP/1.1",
    "--http2-max-concurrent-streams": "not available: pyserve speaks HTTP/1.1",
    "--http2-initial-window-size": "not available: pyserve speaks HTTP/1.1",
    "--http2-max-frame-size": "not available: pyserve speaks HTTP/1.1",
    "--http2-max-header-list-size": "not available: pyserve speaks HTTP/1.1",
    "--http-parser": "not available: there is one parser, and it is native",
    "--permit-obsolete-folding": STRICT,
    "--strip-header-spaces": STRICT,
    "--permit-unconventional-http-method": STRICT,
    "--permit-unconventional-http-version": STRICT,
    "--casefold-http-method": STRICT,
    "--forwarder-headers": LATER,
    "--header-map": LATER,
    "--root-path": LATER,
    "--asgi-loop": "not available: pyserve serves WSGI applications",
    "--asgi-lifespan": "not available: pyserve serves WSGI applications",
    "--asgi-disconnect-grace-period": "not available: pyserve serves WSGI applications",
    "--websocket-max-message-size": "not available: pyserve serves WSGI applications",
    "--dirty-app": LATER,
    "--dirty-workers": LATER,
    "--dirty-timeout": LATER,
    "--dirty-threads": LATER,
    "--dirty-graceful-timeout": LATER,
    "--control-socket-mode": "not available: the control socket is for root and the user that pyserve runs as",
    "--no-control-socket": "not available: an empty --control-socket turns it off",
}

# Options that have no effect here: each with why.
IGNORED = {
    "--worker-tmp-dir": "workers need no such file; large bodies wait in files in spool_dir (--spool-dir)",
}

# Names of gunicorn's configuration files that are spelled differently here.
KEYS = {
    "wsgi_app": "app",
    "accesslog": "access_logfile",
    "access_log_format": "access_logformat",
    "errorlog": "error_logfile",
    "loglevel": "log_level",
    "keepalive": "keep_alive",
    "preload_app": "preload",
    "raw_env": "env",
}
