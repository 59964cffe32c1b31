# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""The head of a response that an app is likely to give again, so that it need not be checked and written out again.

Most apps have heads that are constants of their code: a status, and a list whose tuples are the same objects each time.
"""

cdef extern from "Python.h":
    Py_ssize_t refcount "Py_REFCNT"(PyObject *value)


cdef bint is_kept(list headers) noexcept:
    """Do all the tuples belong to somebody else, too? Then they may well come again, unlike those made for one response."""
    cdef Py_ssize_t i
    for i in range(list_size(headers)):
        if refcount(list_item(headers, i)) == 1:
            return False
    return True
