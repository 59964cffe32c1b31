# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""Looks at all connections of a worker: which are late, and which would be missed least.

They are asked once in a while, with up to tens of thousands of connections, most of which have nothing to say.
"""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from pyserve_workers.native.connection cimport Connection
from pyserve_workers.native.states cimport S_HELD, S_IDLE, S_RUNNING


def expired(dict connections, double now):
    """The connections, out of {fd: connection}, whose deadline is not after `now` (seconds of CLOCK_MONOTONIC)."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t position = 0
    cdef uint64_t limit = <uint64_t>(now * 1e9)
    cdef Connection connection
    late = []
    while PyDict_Next(connections, &position, &key, &value):
        connection = <Connection>value
        if connection.due and connection.due <= limit:
            late.append(connection)
    return late


def put_off(dict connections, double seconds):
    """All clients of {fd: connection} that are waited for have so much more time: nobody could hear them meanwhile."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t position = 0
    cdef uint64_t missed = <uint64_t>(seconds * 1e9)
    cdef Connection connection
    while PyDict_Next(connections, &position, &key, &value):
        connection = <Connection>value
        if connection.due and connection.state != S_HELD:   # which waits for the gate
            connection.due += missed
            connection.earned += missed


def overdue(dict connections, double now, double timeout, double deadline):
    """[(connection, why), ...]: those, out of {fd: connection}, whose request has given nothing for `timeout` seconds, or is
    in the app for `deadline`; 0: no limit. `now` is CLOCK_MONOTONIC. Waiting for the client does not count, and those that
    the app has taken over have no limit. What was given is seen here: ask again and again."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t position = 0
    cdef uint64_t entered, silent
    cdef Connection connection
    late = []
    while PyDict_Next(connections, &position, &key, &value):
        connection = <Connection>value
        if connection.state != S_RUNNING or connection.response.taken:
            continue
        if connection.outbox.waiting or connection.noted != connection.response.sent:
            connection.noted = connection.response.sent
            connection.progress = <uint64_t>(now * 1e9)
        if not connection.is_running():
            continue
        entered = connection.entered + connection.outbox.waited
        silent = max(entered, connection.progress)
        if timeout and silent / 1e9 + timeout < now:
            what = "has given nothing" if silent > entered else "has run"
            late.append((connection, f"{what} for {now - silent / 1e9:.1f} s (timeout is {timeout:g} s)"))
        elif deadline and entered / 1e9 + deadline < now:
            late.append((connection, f"has run for {now - entered / 1e9:.1f} s (request_deadline is {deadline:g} s)"))
    return late


def idle_longest(dict connections, double now, double least, int most):
    """Up to `most` of the connections, out of {fd: connection}, that have been idle for `least` seconds: those that
    have been it the longest, longest first."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t position = 0
    cdef uint64_t until = <uint64_t>((now - least) * 1e9), timeout
    cdef Connection connection
    found = []
    while PyDict_Next(connections, &position, &key, &value):
        connection = <Connection>value
        if connection.due and connection.idle:
            timeout = connection.context.keep_alive if connection.state == S_IDLE else connection.context.header_timeout
            if connection.due - timeout <= until:
                found.append((connection.due - timeout, connection.fd))
    found.sort()
    return [connections[fd] for _, fd in found[:most]]
