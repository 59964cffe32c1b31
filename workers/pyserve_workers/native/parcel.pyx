# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""A connection that goes to another worker: what of it travels, and what the other makes of it.

Between two requests a connection is its descriptor, the bytes that were read and not yet understood as a request, and
how long it has idled, or its head has taken. That fits a datagram. So does a complete request that has not entered the
app: its body goes along as a file. What is in the middle of a body or of a response stays where it is until that has
ended.
"""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, ENOBUFS
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd

from pyserve_workers.native.body cimport EMPTY, filed_body
from pyserve_workers.native.connection cimport Connection
from pyserve_workers.native.context cimport Context, clock_now
from pyserve_workers.native.inbox cimport Inbox
from pyserve_workers.native.states cimport N_READ, S_HEAD, S_HELD, S_IDLE, S_READY

from os import strerror


cdef extern from "parcel.h" nogil:
    ctypedef struct parcel_label:
        uint32_t format
        uint16_t listener
        uint16_t port
        uint64_t since
        uint64_t held_since
        uint64_t body
        uint8_t idle
        uint8_t has_body
        uint8_t host_length
        char host[45]
    ctypedef struct parcel:
        parcel_label label
        char bytes[1]   # PARCEL_BYTES
    int PARCEL_FORMAT, PARCEL_BYTES, PARCEL_FDS
    int parcel_send(int queue, int fd, int body, const parcel_label *label, iovec *parts, int count)
    ssize_t parcel_receive(int queue, void *data, size_t size, int *fds)
    bint parcel_is_connection(int fd)
    bint parcel_is_body(int fd, uint64_t size)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "Python.h":
    const char *utf8 "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t *size) except NULL


FDS = PARCEL_FDS   # descriptors that can come with one


class LostError(Exception):
    """A connection came, but not in a state in which it can be served: it is closed."""


cdef bint is_complete(Connection connection) noexcept:
    """Is there a whole request that has not entered the app?"""
    return connection.state == S_READY or connection.state == S_HELD


cdef bint may_travel(Connection connection) noexcept:
    """Is it between two requests, or is what there is of the next one complete, or nothing but bytes of its head?"""
    cdef Inbox inbox = connection.inbox
    if connection.closing or connection.taken or not connection.outbox.is_empty():
        return False
    if is_complete(connection):
        return inbox.end - inbox.place + inbox.body_start - inbox.start <= <size_t>PARCEL_BYTES
    if connection.state != S_IDLE and (connection.state != S_HEAD or inbox.in_body):
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


cdef int put(iovec *parts, int count, Inbox inbox, size_t start, size_t end) noexcept:
    """Adds bytes of an inbox, if there are any; how many parts there are then."""
    if start == end:
        return count
    parts[count].iov_base = inbox.data + start
    parts[count].iov_len = end - start
    return count + 1


cpdef int send(int queue, Connection connection, list listeners) except -1:
    """Gives a connection that can travel away: 0, and it is closed here; or an errno, and nothing has happened.

    It must not be in an epoll any more: its file lives on, and would go on reporting there.
    """
    cdef Inbox inbox = connection.inbox
    cdef parcel_label label
    cdef iovec parts[3]
    cdef const char *host
    cdef Py_ssize_t size
    cdef int failure, count = 1, body = -1
    cdef uint64_t timeout
    connection.context.bunch.release()   # nobody here could push it any more
    memset(&label, 0, sizeof(label))
    if is_complete(connection):
        if inbox.body is not EMPTY:
            if inbox.body.move_to_file():
                return ENOBUFS   # it stays, and is tried again
            body = inbox.body.fd
            label.has_body = True
            label.body = inbox.body.spooled
        count = put(parts, count, inbox, inbox.start, inbox.body_start)
        count = put(parts, count, inbox, inbox.place, inbox.end)
    else:
        count = put(parts, count, inbox, inbox.start, inbox.end)
    label.format = PARCEL_FORMAT
    label.listener = number_of(connection, listeners)
    label.idle = connection.state == S_IDLE
    timeout = timeout_of(connection, label.idle)
    label.since = connection.due - timeout if connection.due and timeout and connection.state < S_READY else clock_now()
    label.held_since = connection.held_since
    if connection.remote_addr is not None:
        host = utf8(connection.remote_addr, &size)
        label.host_length = min(size, <Py_ssize_t>sizeof(label.host))
        memcpy(label.host, host, label.host_length)
        label.port = int(connection.remote_port)
    failure = parcel_send(queue, connection.fd, body, &label, parts, count)
    if failure == 0:
        connection.given = True
        connection.shut()
    return failure


def receive(int queue, Context context, list listeners):
    """The next connection of the queue and the epoll events it wants (0: it had to be closed); None if none is there.

    Its bytes are understood already: a complete request makes it ``pending``. LostError says that one came and could not be
    had; OSError that the queue cannot be read, EPIPE for good. Any worker can put anything there: nothing of it is believed.
    """
    cdef parcel packet
    cdef Connection connection
    cdef int fds[2]   # PARCEL_FDS
    cdef ssize_t n = parcel_receive(queue, &packet, sizeof(packet), fds)
    if n == -EAGAIN:
        return None
    if n < 0:
        raise OSError(-n, strerror(-n))
    fault = fault_of(&packet, n, fds, len(listeners))
    if fault is not None:
        close_both(fds)
        raise LostError(fault)
    connection = made(
        context, fds[0], listeners[packet.label.listener], &packet.label, packet.bytes, n - sizeof(parcel_label)
    )
    if packet.label.has_body:
        connection.inbox.body = filed_body(fds[1], packet.label.body)
    elif fds[1] >= 0:
        close_fd(fds[1])
    return connection, resume(connection)


cdef str fault_of(parcel *packet, ssize_t n, int *fds, size_t listeners):
    """What is wrong with a message of so many bytes, and with what came beside it; None: nothing."""
    cdef parcel_label *label = &packet.label
    if fds[0] < 0:
        return "there was no descriptor for it"
    if n < <ssize_t>sizeof(parcel_label) or n > <ssize_t>sizeof(parcel) or label.format != <uint32_t>PARCEL_FORMAT:
        return "another version of pyserve sent it"
    if label.listener >= listeners or label.host_length > sizeof(label.host):
        return "it says what cannot be"
    if not parcel_is_connection(fds[0]):
        return "it is none"
    if label.has_body and fds[1] < 0:
        return "there was no descriptor for its request's body"
    if label.has_body and not parcel_is_body(fds[1], label.body):
        return "its request's body is not all there"
    return None


cdef void close_both(int *fds) noexcept:
    cdef int index
    for index in range(2):
        if fds[index] >= 0:
            close_fd(fds[index])


cdef Connection made(Context context, int fd, object about, parcel_label *label, const char *data, size_t size):
    cdef Connection connection = Connection.__new__(Connection)
    cdef Inbox inbox
    cdef uint64_t timeout, now = clock_now()   # what began after that ends no later for it
    connection.begin(context, fd, about)
    connection.received = True
    if label.host_length:
        connection.names(label.host[:label.host_length].decode(errors="replace"), str(label.port))
    else:
        connection.names(None, None)
    connection.state = S_IDLE if label.idle else S_HEAD
    timeout = timeout_of(connection, label.idle)
    connection.due = min(label.since, now) + timeout if timeout else 0
    connection.held_since = min(label.held_since, now)
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
