from cpython.object cimport PyObject
from libc.stdint cimport uint64_t


cdef extern from "Python.h":
    Py_ssize_t list_size "PyList_GET_SIZE"(list items)
    PyObject *list_item "PyList_GET_ITEM"(list items, Py_ssize_t index)   # borrowed


cdef class SeenHead:
    """The head of a response that was found sound: what the app gave, and what became of it."""
    cdef object status
    cdef list headers
    cdef bytes text               # the status line and the app's own fields, as they are sent
    cdef bytes fields             # the latter for the access log, if it wants them
    cdef int code
    cdef bint has_date, has_server, declared
    cdef uint64_t length


cdef inline bint is_same(SeenHead seen, object status, list headers) noexcept:
    """Does the app give the very same objects again? They cannot have changed: tuples of str."""
    cdef Py_ssize_t i, count = list_size(headers)
    if status is not seen.status or seen.headers is None or count != list_size(seen.headers):
        return False
    for i in range(count):
        if list_item(headers, i) != list_item(seen.headers, i):
            return False
    return True


cdef bint is_kept(list headers) noexcept
