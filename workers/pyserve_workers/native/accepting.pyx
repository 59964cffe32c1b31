# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""A listener's next client, as a Connection."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, ECONNABORTED, ENOTSOCK, EPERM, EPROTO, errno
from libc.stdint cimport uint64_t

from pyserve_workers.native.connection cimport Connection
from pyserve_workers.native.context cimport Context


cdef extern from "accept.h" nogil:
    int accept_peer(int listener, char *host, int *port)

cdef extern from "octets.h" nogil:
    size_t octets_decimal(char *out, uint64_t value)

cdef extern from "Python.h":
    str PyUnicode_FromString(const char *text)
    str PyUnicode_FromStringAndSize(const char *text, Py_ssize_t size)


cpdef Connection accept(Context context, int listener, object about):
    """The next connection of a listening descriptor; None if there is none now. OSError if the system refuses (EMFILE,
    ENFILE, ENOBUFS, ENOMEM): to try again at once would spin. ``about``: as Connection() takes it."""
    cdef char host[64]
    cdef char digits[8]
    cdef int port = -1
    cdef int fd = accept_peer(listener, host, &port)
    cdef Connection connection
    if fd < 0:
        # EPROTO, EPERM (a firewall rule) and the like concern one connection that is gone (accept(2)). ENOTSOCK: we have been
        # told to let the listener go, and have not heard of it yet (linux.give_up_listeners).
        if errno == EAGAIN or errno == ECONNABORTED or errno == EPROTO or errno == EPERM or errno == ENOTSOCK:
            return None
        PyErr_SetFromErrno(OSError)
    connection = Connection.__new__(Connection)
    connection.begin(context, fd, about)
    if port < 0:
        connection.names(None, None)
    else:
        connection.names(PyUnicode_FromString(host), PyUnicode_FromStringAndSize(digits, octets_decimal(digits, port)))
    return connection
