# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""A request body, complete before the app sees it as ``wsgi.input``: in memory, or in an unlinked file if it is large.

The connection feeds it, finishes it, and hands it to the app. It knows nothing of sockets and framing.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EBUSY, errno
from libc.string cimport memchr, memcpy
from posix.unistd cimport close as close_fd

from os import fsencode, strerror


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **data, Py_ssize_t size) except -1
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL

cdef extern from "<sys/mman.h>" nogil:
    int MFD_CLOEXEC
    int memfd_create(const char *name, unsigned int flags)

cdef extern from "spool.h" nogil:
    int spool_open(const char *directory)
    int spool_write(int fd, const char *data, size_t size, uint64_t offset)
    int spool_read(int fd, char *data, size_t size, uint64_t offset)


cdef Py_ssize_t FIRST = 16384     # first allocation of a body that arrives in pieces; doubled by need
cdef Py_ssize_t PART = 65536      # how much of a spool file is read at once for lines


@cython.final
@cython.freelist(8)
cdef class Body:
    """``wsgi.input`` of PEP 3333. All bytes are there, so no read waits; after the end every read gives b"".

    One thread reads at a time, and another's attempt meanwhile is a RuntimeError: who reads from the spool file gives up
    the GIL, and stays the owner of ``data``, ``fd`` and the positions until it leaves.
    """

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        Py_XDECREF(self.data)
        if self.fd >= 0:
            close_fd(self.fd)

    # The connection's side

    cdef int feed(self, const char *data, size_t size, uint64_t limit, bytes spool_dir) except -1:
        """Adds bytes. A body larger than `limit` is in a file in `spool_dir`; OSError if that cannot be had or written."""
        if self.fd < 0 and self.length + size > limit:
            self.fd = spool_open(<const char *>spool_dir)
            if self.fd < 0:
                PyErr_SetFromErrno(OSError)
            if self.length:
                self.spool(PyBytes_AS_STRING(<object>self.data), self.length)
            Py_XDECREF(self.data)
            self.data = NULL
            self.length = 0
        if self.fd >= 0:
            return self.spool(data, size)
        if self.data is NULL:
            self.data = new_bytes(NULL, max(FIRST, <Py_ssize_t>size))
        elif self.length + <Py_ssize_t>size > PyBytes_GET_SIZE(<object>self.data):
            _PyBytes_Resize(&self.data, max(2 * PyBytes_GET_SIZE(<object>self.data), self.length + <Py_ssize_t>size))
        memcpy(PyBytes_AS_STRING(<object>self.data) + self.length, data, size)
        self.length += size
        return 0

    cdef int spool(self, const char *data, size_t size) except -1:
        cdef int failure
        with nogil:
            failure = spool_write(self.fd, data, size, self.spooled)
        if failure:
            raise OSError(failure, strerror(failure))
        self.spooled += size
        return 0

    cdef int finish(self) except -1:
        """The body is complete."""
        if self.data is not NULL and PyBytes_GET_SIZE(<object>self.data) != self.length:
            _PyBytes_Resize(&self.data, self.length)
        return 0

    cdef int move_to_file(self) noexcept:
        """Has all its bytes in a file, as another process can have it, of memory if it is none yet: 0, or an errno."""
        cdef int fd, failure = 0
        if self.busy:
            return EBUSY
        if self.fd >= 0:
            return 0
        fd = memfd_create("pyserve-body", MFD_CLOEXEC)
        if fd < 0:   # denied, as by a seccomp profile
            fd = spool_open("/dev/shm")
        if fd < 0:
            return errno
        if self.length:
            failure = spool_write(fd, PyBytes_AS_STRING(<object>self.data), self.length, 0)
        if failure:
            close_fd(fd)
            return failure
        self.fd = fd
        self.spooled = self.length
        self.length = 0
        Py_XDECREF(self.data)
        self.data = NULL
        return 0

    cdef void release(self) noexcept:
        """The request is over: gives a spool file back even if the app has kept this object. A thread of the app's that
        is reading closes it as it leaves: the loop does not wait for that thread's disk."""
        with cython.critical_section(self):
            if self.fd >= 0:
                self.over = True
                if not self.busy:
                    close_fd(self.fd)
                    self.fd = -1

    cdef uint64_t size(self) noexcept:
        return self.spooled if self.fd >= 0 else self.length

    cdef uint64_t held(self) noexcept:
        """The memory it takes."""
        return 0 if self.data is NULL else PyBytes_GET_SIZE(<object>self.data)

    # The app's side

    def read(self, size=None):
        """Up to ``size`` bytes, all that is left without one."""
        return self.next_bytes(-1 if size is None else size)

    def readline(self, size=None):
        """The next line with its end, or its first ``size`` bytes."""
        return self.next_line(-1 if size is None else size)

    def readlines(self, hint=None):
        """The lines that are left; stops after the one that brings their size to ``hint``."""
        cdef Py_ssize_t total = 0, bound = -1 if hint is None else hint
        lines = []
        if self.is_at_end():
            return lines
        self.occupy()
        try:
            while True:
                line = self.line(-1)
                if not line:
                    return lines
                lines.append(line)
                total += len(line)
                if 0 < bound <= total:
                    return lines
        finally:
            self.leave()

    def readinto(self, buffer):
        """Fills a writable buffer from the body; returns how many bytes it took."""
        view = memoryview(buffer).cast("B")
        data = self.next_bytes(len(view))
        view[: len(data)] = data
        return len(data)

    def __iter__(self):
        return self

    def __next__(self):
        line = self.next_line(-1)
        if not line:
            raise StopIteration
        return line

    def readable(self):
        return True

    def close(self):
        """Does nothing: the server owns the input (PEP 3333)."""

    cdef bint is_at_end(self) noexcept:
        """Of a body in memory. EMPTY is never occupied, since all threads have it."""
        return self.fd < 0 and not self.over and self.position == self.length

    cdef int occupy(self) except -1:
        """Only this thread may read, until it leaves."""
        with cython.critical_section(self):
            if self.over:
                raise ValueError("wsgi.input was read after its request had ended")
            if self.busy:
                raise RuntimeError("wsgi.input is being read by another thread: read it in one, or take turns")
            self.busy = True
        return 0

    cdef void leave(self) noexcept:
        with cython.critical_section(self):
            self.busy = False
            if self.over:   # meanwhile
                close_fd(self.fd)
                self.fd = -1

    cdef object next_bytes(self, Py_ssize_t size):
        if self.is_at_end():
            return b""
        self.occupy()
        try:
            return self.take(size)
        finally:
            self.leave()

    cdef object next_line(self, Py_ssize_t size):
        if self.is_at_end():
            return b""
        self.occupy()
        try:
            return self.line(size)
        finally:
            self.leave()

    cdef object take(self, Py_ssize_t size):
        cdef Py_ssize_t left = self.length - self.position
        if self.fd >= 0:
            left += self.spooled - self.offset
            return self.take_spooled(left if size < 0 or size > left else size)
        if size < 0 or size > left:
            size = left
        if size == 0:
            return b""
        if size == PyBytes_GET_SIZE(<object>self.data):
            self.position = size
            return <object>self.data
        self.position += size
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(<object>self.data) + self.position - size, size)

    cdef object take_spooled(self, uint64_t size):
        cdef Py_ssize_t ready = self.length - self.position
        cdef bytes result
        cdef char *out
        cdef int failure
        if ready > <Py_ssize_t>size:
            ready = size
        result = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(result)
        if ready > 0:
            memcpy(out, PyBytes_AS_STRING(<object>self.data) + self.position, ready)
            self.position += ready
        if size > <uint64_t>ready:
            with nogil:
                failure = spool_read(self.fd, out + ready, size - ready, self.offset)
            if failure:
                raise OSError(failure, strerror(failure))
            self.offset += size - ready
        return result

    cdef object line(self, Py_ssize_t size):
        """The next line, cut at `size` bytes if that is not negative."""
        cdef Py_ssize_t left
        cdef const char *start
        cdef const char *end
        pieces = None
        while True:
            left = self.length - self.position
            if left == 0 and self.fd >= 0 and size != 0 and self.refill():
                continue
            if size >= 0 and left > size:
                left = size
            if left == 0:
                break
            start = PyBytes_AS_STRING(<object>self.data) + self.position
            end = <const char *>memchr(start, c"\n", left)
            if end is not NULL:
                left = end - start + 1
            piece = PyBytes_FromStringAndSize(start, left)
            self.position += left
            if end is not NULL or self.fd < 0:
                return piece if pieces is None else b"".join(pieces) + piece
            if pieces is None:
                pieces = []
            pieces.append(piece)
            if size >= 0:
                size -= left
        return b"" if pieces is None else b"".join(pieces)

    cdef int refill(self) except -1:
        """Reads the spool file's next part; 0 at its end."""
        cdef uint64_t left = self.spooled - self.offset
        cdef Py_ssize_t size = PART if left > <uint64_t>PART else left
        cdef int failure
        cdef char *out
        Py_XDECREF(self.data)
        self.data = NULL
        self.length = self.position = 0
        if size == 0:
            return 0
        self.data = new_bytes(NULL, size)
        out = PyBytes_AS_STRING(<object>self.data)
        with nogil:
            failure = spool_read(self.fd, out, size, self.offset)
        if failure:
            raise OSError(failure, strerror(failure))
        self.offset += size
        self.length = size
        return 1


cdef Body whole_body(const char *data, size_t size):
    """A body whose bytes are all at hand."""
    cdef Body body = Body.__new__(Body)
    body.data = new_bytes(data, size)
    body.length = size
    return body


cdef Body filed_body(int fd, uint64_t size):
    """A body whose bytes are in a file, which it owns."""
    cdef Body body = Body.__new__(Body)
    body.fd = fd
    body.spooled = size
    return body


def try_spool(directory):
    """Raises OSError if a body cannot be stored in that directory."""
    Body().feed(bytes(PART), PART, 0, fsencode(directory))


# Requests without a body share one: it has nothing to keep.
EMPTY = Body.__new__(Body)
EMPTY.data = new_bytes(b"", 0)
