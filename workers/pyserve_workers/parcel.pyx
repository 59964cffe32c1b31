# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""A connection that goes to another worker: what of it travels, and what the other makes of it.

Between two requests a connection is its descriptor, the bytes that were read and not yet understood as a request, and
how long it has idled, or its head has taken. That fits a datagram. What is in a request's body or in a response stays
where it is until that has ended.
"""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd

from pyserve_workers.body cimport EMPTY
from pyserve_workers.connection cimport Connection
from pyserve_workers.context cimport Context, clock_now
from pyserve_workers.inbox cimport Inbox
from pyserve_workers.states cimport N_READ, S_HEAD, S_IDLE, S_READY

from os import strerror


cdef extern from "parcel.h" nogil:
    ctypedef struct parcel_label:
        uint32_t format
        uint16_t listener
        uint16_t port
        uint64_t since
        uint8_t idle
        uint8_t host_length
        char host[46]
    ctypedef struct parcel:
        parcel_label label
        char bytes[1]   # PARCEL_BYTES
    int PARCEL_FORMAT, PARCEL_BYTES
    int parcel_send(int queue, int fd, const parcel_label *label, const void *data, size_t size)
    ssize_t parcel_receive(int queue, void *data, size_t size, int *fd)

cdef extern from "Python.h":
    const char *utf8 "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t *size) except NULL


class LostError(Exception):
    """A connection came, but not in a state in which it can be served: it is closed."""


cdef bint may_travel(Connection connection) noexcept:
    """Is it between two requests, or is what there is of the next one nothing but bytes of its head?"""
    cdef Inbox inbox = connection.inbox
    if connection.closing or connection.taken or not connection.outbox.is_empty():
        return False
    if connection.state == S_READY:   # complete, but not begun
        if inbox.body is not EMPTY:
            return False
    elif connection.state != S_IDLE and (connection.state != S_HEAD or inbox.in_body):
        return False
    return inbox.end - inbox.start <= <size_t>PARCEL_BYTES


def travellers(dict connections):
    """The connections, out of {fd: connection}, that can go to another worker now."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t position = 0
    found = []
    while PyDict_Next(connections, &position, &key, &value):
        if may_travel(<Connection>value):
            found.append(<object>value)
    return found


cpdef bint can_travel(Connection connection):
    return may_travel(connection)


cdef int number_of(Connection connection, list listeners) except -1:
    """Which of the listeners (see Connection) it came in by."""
    cdef int index
    for index in range(len(listeners)):
        if connection.context.template(listeners[index]) is connection.template:
            return index
    raise AssertionError("BUG: a connection that came in by no listener")


cdef uint64_t timeout_of(Connection connection, bint idle) noexcept:
    return connection.context.keep_alive if idle else connection.context.header_timeout


cpdef int send(int queue, Connection connection, list listeners) except -1:
    """Gives a connection that can travel away: 0, and it is closed here; or an errno, and nothing has happened.

    It must not be in an epoll any more: its file lives on, and would go on reporting there.
    """
    cdef Inbox inbox = connection.inbox
    cdef parcel_label label
    cdef const char *host
    cdef Py_ssize_t size
    cdef int failure
    cdef uint64_t timeout
    connection.context.bunch.release()   # nobody here could push it any more
    memset(&label, 0, sizeof(label))
    label.format = PARCEL_FORMAT
    label.listener = number_of(connection, listeners)
    label.idle = connection.state == S_IDLE
    timeout = timeout_of(connection, label.idle)
    label.since = connection.due - timeout if connection.due and timeout else clock_now()
    if connection.remote_addr is not None:
        host = utf8(connection.remote_addr, &size)
        label.host_length = min(size, <Py_ssize_t>sizeof(label.host))
        memcpy(label.host, host, label.host_length)
        label.port = int(connection.remote_port)
    failure = parcel_send(queue, connection.fd, &label, inbox.data + inbox.start, inbox.end - inbox.start)
    if failure == 0:
        connection.shut()
    return failure


def receive(int queue, Context context, list listeners):
    """The next connection of the queue and the epoll events it wants (0: it had to be closed); None if none is there.

    Its bytes are understood already: a complete request makes it ``pending``. LostError says that one came and could not be
    had; OSError that the queue cannot be read.
    """
    cdef parcel packet
    cdef int fd
    cdef ssize_t n = parcel_receive(queue, &packet, sizeof(packet), &fd)
    if n == -EAGAIN:
        return None
    if n < 0:
        raise OSError(-n, strerror(-n))
    if fd < 0:
        raise LostError("there was no descriptor for it")
    n -= sizeof(parcel_label)
    if n < 0 or packet.label.format != <uint32_t>PARCEL_FORMAT or packet.label.listener >= len(listeners):
        close_fd(fd)
        raise LostError("another version of pyserve sent it")
    connection = made(context, fd, listeners[packet.label.listener], &packet.label, packet.bytes, n)
    return connection, resume(connection)


cdef Connection made(Context context, int fd, object about, parcel_label *label, const char *data, size_t size):
    cdef Connection connection = Connection.__new__(Connection)
    cdef Inbox inbox
    cdef uint64_t timeout
    connection.begin(context, fd, about)
    if label.host_length:
        connection.names(label.host[:label.host_length].decode(), str(label.port))
    else:
        connection.names(None, None)
    connection.state = S_IDLE if label.idle else S_HEAD
    timeout = timeout_of(connection, label.idle)
    connection.due = label.since + timeout if timeout else 0
    inbox = connection.inbox
    if size:
        inbox.make_room()
        if size > inbox.capacity:
            raise AssertionError("BUG: a block has less room than a parcel")
        memcpy(inbox.data, data, size)
        inbox.end = size
    return connection


cdef int resume(Connection connection) except -1:
    """What the connection wants from epoll next."""
    cdef int wanted
    if connection.inbox.is_empty():
        return N_READ
    try:
        wanted = connection.advance()
    except BaseException as error:
        return connection.broken(error)
    return N_READ if connection.is_pending() else wanted
