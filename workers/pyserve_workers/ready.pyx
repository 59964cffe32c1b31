# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""One look at epoll, and all that the connections it names can do without the loop's help.

For the worker whose one thread also runs the app. What is left to its loop, in Python, is what is rare: the listeners,
the master's channel, and connections that want something else from epoll than they did before.
"""

from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.object cimport PyObject
from libc.errno cimport EINTR, errno
from libc.math cimport ceil
from libc.stdint cimport uint32_t

from pyserve_workers.connection cimport Connection


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout_ms)

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    ctypedef struct PyInterpreterState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter)
    PyThreadState *PyThreadState_Next(PyThreadState *thread)


cdef enum:
    MOST = 256        # events of one look
    NEED_NOTHING = 1  # EPOLLIN, which they are registered with


cdef bint has_threads() noexcept:
    """Are there others that may want the GIL?"""
    return PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) is not NULL


cdef int wait(int epoll, epoll_event *events, double patience) except -1:
    """How many events there are, after `patience` seconds at the most. A busy thread of the app that gets the GIL keeps
    it for milliseconds: so with threads the first look does not give it away."""
    cdef int ready = 0, timeout = <int>ceil(patience * 1e3)
    if timeout == 0 or has_threads():
        ready = epoll_wait(epoll, events, MOST, 0)
    if ready == 0 and timeout:
        with nogil:
            ready = epoll_wait(epoll, events, MOST, timeout)
    if ready < 0:
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()
        return 0
    return ready


def serve_ready(int epoll, dict connections, double patience):
    """Waits up to ``patience`` seconds; serves the ready ones of {fd: Connection}.

    Returns (others, changed, served): [(fd, events)] of descriptors that are not connections, [(connection, wanted)] of
    those for which ``LoopWorker.after()`` has to be called, and how many connections there were.
    """
    cdef epoll_event events[MOST]
    cdef int index, wanted, ready = wait(epoll, events, patience)
    cdef PyObject *found
    cdef Connection connection
    cdef bint flushing
    cdef list others = [], changed = []
    for index in range(ready):
        found = PyDict_GetItem(connections, events[index].data.fd)
        if found is NULL:
            others.append((events[index].data.fd, events[index].events))
            continue
        connection = <Connection>found
        flushing = connection.is_flushing()
        wanted = connection.step_serve()
        if wanted != NEED_NOTHING or flushing or connection.is_pending():
            changed.append((connection, wanted))
    return others, changed, ready - len(others)
