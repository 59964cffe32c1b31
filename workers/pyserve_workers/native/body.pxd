from libc.stdint cimport uint64_t

cdef extern from "Python.h":
    ctypedef struct PyObject


cdef class Body:
    cdef PyObject *data          # bytes: the whole body, or the part of the spool file that is being read; may be NULL
    cdef Py_ssize_t length       # how much of data is filled
    cdef Py_ssize_t position     # how much of data has been read
    cdef int fd                  # the spool file, or -1
    cdef uint64_t spooled        # bytes in the spool file
    cdef uint64_t offset         # of the spool file: where the next part begins
    cdef bint over               # the server has taken the spool file back
    cdef bint busy               # somebody reads

    cdef int feed(self, const char *data, size_t size, uint64_t limit, bytes spool_dir) except -1
    cdef int spool(self, const char *data, size_t size) except -1
    cdef int finish(self) except -1
    cdef int move_to_file(self) noexcept
    cdef void release(self) noexcept
    cdef uint64_t size(self) noexcept
    cdef uint64_t held(self) noexcept
    cdef bint is_at_end(self) noexcept
    cdef int occupy(self) except -1
    cdef void leave(self) noexcept
    cdef object next_bytes(self, Py_ssize_t size)
    cdef object next_line(self, Py_ssize_t size)
    cdef int refill(self) except -1
    cdef object line(self, Py_ssize_t size)
    cdef object take(self, Py_ssize_t size)
    cdef object take_spooled(self, uint64_t size)


cdef Body whole_body(const char *data, size_t size)
cdef Body filed_body(int fd, uint64_t size)

cdef Body EMPTY
