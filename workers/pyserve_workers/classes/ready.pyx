# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""One look at epoll, and all that the connections it names can do without the loop's help.

For the worker whose one thread also runs the app. What is left to its loop, in Python, is what is rare: the listeners,
the master's channel, and connections that want something else from epoll than they did before.
"""

from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.object cimport PyObject
from libc.errno cimport EINTR, ENOENT, errno
from libc.math cimport ceil
from libc.stdint cimport uint32_t

from pyserve_workers.native.accepting cimport accept
from pyserve_workers.native.connection cimport Connection
from pyserve_workers.native.context cimport Context


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, EPOLLEXCLUSIVE
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
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


cdef int rotate(int epoll, int listener) except -1:
    """Puts a listener to the end of the kernel's list of those that wait for it, so that workers take turns."""
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLEXCLUSIVE
    event.data.fd = listener
    if epoll_ctl(epoll, EPOLL_CTL_DEL, listener, NULL) < 0:
        if errno == ENOENT:   # it was let go this moment
            return 0
        PyErr_SetFromErrno(OSError)
    if epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0:
        PyErr_SetFromErrno(OSError)
    return 0


cdef int take(int epoll, Context context, int listener, object about, list changed) except -1:
    """Accepts a connection and serves what it has sent; into `changed` if it stays."""
    cdef Connection connection = accept(context, listener, about)
    cdef int wanted
    if connection is None:
        return 0
    if context.slot.siblings:
        rotate(epoll, listener)
    wanted = connection.step_serve()
    if wanted:
        changed.append((connection, wanted))
    return 0


def serve_ready(int epoll, Context context, dict connections, dict listeners, Py_ssize_t limit, double patience):
    """Waits up to ``patience`` seconds; serves the ready ones of {fd: Connection}.

    If all that happened is a client at one of the listeners {fd: about}, and there are less than ``limit``
    connections, it is served, too: nobody else has waited meanwhile. Returns (others, changed, served): [(fd, events)]
    of descriptors that are left to the loop, [(connection, wanted)] of connections that want something new from epoll
    or are not known to it, and how many connections there were.
    """
    cdef epoll_event events[MOST]
    cdef int index, wanted, ready = wait(epoll, events, patience)
    cdef PyObject *found
    cdef Connection connection
    cdef bint flushing
    cdef list others = [], changed = []
    if ready == 1 and len(connections) < limit:
        found = PyDict_GetItem(listeners, events[0].data.fd)
        if found is not NULL:
            try:
                take(epoll, context, events[0].data.fd, <object>found, changed)
            except OSError:   # the loop will meet it, too, and knows what to do
                others.append((events[0].data.fd, events[0].events))
            return others, changed, 0
    for index in range(ready):
        found = PyDict_GetItem(connections, events[index].data.fd)
        if found is NULL:
            others.append((events[index].data.fd, events[index].events))
            continue
        connection = <Connection>found
        flushing = connection.is_flushing()
        context.bunch.is_open = index + 1 < ready   # the last one takes the others with it
        wanted = connection.step_serve()
        if wanted != NEED_NOTHING or flushing or connection.is_pending():
            changed.append((connection, wanted))
    context.bunch.is_open = False
    context.bunch.release()
    return others, changed, ready - len(others)
