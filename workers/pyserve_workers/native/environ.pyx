# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""A parsed head as the environ of PEP 3333 and RFC 3875.

Decisions: PATH_INFO is percent-decoded, but for a "%" that begins no escape; all text is Latin-1.
Repeated fields are joined with "," (Cookie with "; ").
Left out are names with an underscore (they would pass for the one with a hyphen), Proxy (httpoxy) and
Transfer-Encoding: the body has been decoded, and CONTENT_LENGTH tells its decoded size. An absolute target's authority
is the Host, and "OPTIONS *" has the path "/", for WSGI knows no other that is not empty; RAW_URI tells.
"""

cimport cython
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

from sys import intern

from pyserve_workers.native.body cimport EMPTY, Body
from pyserve_workers.native.context cimport Context
from pyserve_workers.http1.http1 cimport (
    H1_FIELD_CONTENT_LENGTH, H1_FIELD_COOKIE, H1_FIELD_HAS_UNDERSCORE, H1_FIELD_PROXY, H1_FIELD_TRANSFER_ENCODING,
    H1_FIELD_X_FORWARDED_PROTO, H1_KNOWN_FIELDS, H1_MEMORY_PLACES, H1_TARGET_ABSOLUTE, H1_TARGET_ASTERISK, H1_UNKNOWN,
    h1_field, h1_head, h1_known_field,
)
from pyserve_workers.native.inbox cimport known_fields


cdef extern from "Python.h":
    PyObject *PyDict_SetDefault(dict environ, object key, object value) except NULL   # borrowed
    Py_ssize_t PyDict_GET_SIZE(dict environ)

cdef extern from "octets.h" nogil:
    size_t octets_unquote(char *out, const char *data, size_t size)

cdef extern from *:
    """
    /* The values of the last requests, one place for each kind: most requests repeat them, and to compare is cheaper
     * than to decode. Only under the GIL. */
    #ifdef Py_GIL_DISABLED
    #define ENVIRON_REMEMBERS 0
    #else
    #define ENVIRON_REMEMBERS 1
    #endif
    #define environ_same(text, data, size) \\
        (PyUnicode_GET_LENGTH(text) == (Py_ssize_t)(size) && memcmp(PyUnicode_1BYTE_DATA(text), data, size) == 0)
    """
    bint ENVIRON_REMEMBERS
    bint environ_same(PyObject *text, const char *data, size_t size)


cdef enum:
    MOST_FIELDS = 128        # places for known fields
    REMEMBERED_SIZE = 512    # longer values are not worth keeping
    # places for what is no field
    METHOD = 128
    TARGET = 129
    PATH = 130
    QUERY = 131
    HOST = 132
    PLACES = 133

cdef PyObject *remembered[PLACES]
cdef PyObject *keys[MOST_FIELDS]
cdef list all_keys = []


cdef int learn_keys() except -1:
    """Makes the environ keys of the fields that the parser knows."""
    cdef const h1_known_field *fields = known_fields()
    cdef int i
    if H1_KNOWN_FIELDS > <int>MOST_FIELDS:
        raise SystemError(f"BUG: {H1_KNOWN_FIELDS} known fields, places for {<int>MOST_FIELDS}")
    for i in range(H1_KNOWN_FIELDS):
        key = intern(fields[i].environ_key[:fields[i].environ_key_length].decode("ascii"))
        all_keys.append(key)
        keys[i] = <PyObject *>key
    return 0


learn_keys()


cdef inline object text(int place, const char *data, size_t size):
    """The bytes as Latin-1."""
    cdef PyObject *known = remembered[place]
    if ENVIRON_REMEMBERS and known is not NULL and environ_same(known, data, size):
        return <object>known
    value = PyUnicode_DecodeLatin1(data, size, NULL)
    if ENVIRON_REMEMBERS and size <= REMEMBERED_SIZE:
        Py_INCREF(value)
        remembered[place] = <PyObject *>value
        Py_XDECREF(known)
    return value


cdef object unknown_key(const char *name, size_t size):
    """HTTP_ and the name in capitals, with _ for -."""
    cdef char small[128]
    cdef char *out = small
    cdef size_t i
    cdef char c
    if size + 5 > sizeof(small):
        out = <char *>malloc(size + 5)
        if out is NULL:
            raise MemoryError
    memcpy(out, b"HTTP_", 5)
    for i in range(size):
        c = name[i]
        if c"a" <= c <= c"z":
            c -= 32
        elif c == c"-":
            c = c"_"
        out[5 + i] = c
    try:
        return PyUnicode_DecodeLatin1(out, size + 5, NULL)
    finally:
        if out is not small:
            free(out)


cdef object unquoted(const char *data, size_t size):
    """The path, percent-decoded."""
    cdef char small[1024]
    cdef char *out = small
    if memchr(data, c"%", size) is NULL:
        return text(PATH, data, size)
    small[0] = 0   # gcc cannot see that octets_unquote() writes there
    if size > sizeof(small):
        out = <char *>malloc(size)
        if out is NULL:
            raise MemoryError
    try:
        size = octets_unquote(out, data, size)
        return PyUnicode_DecodeLatin1(out, size, NULL)
    finally:
        if out is not small:
            free(out)


cdef bint add_fields(dict environ, const h1_head *head, const char *base) except -1:
    """Returns whether there is an X-Forwarded-Proto among them."""
    cdef uint32_t i
    cdef const h1_field *field
    cdef const char *data
    cdef object key, value
    cdef PyObject *before
    cdef Py_ssize_t size
    cdef bint forwarded = False
    for i in range(head.field_count):
        field = &head.fields[i]
        if field.flags & H1_FIELD_HAS_UNDERSCORE:
            continue
        data = base + field.value.offset
        if field.known == H1_UNKNOWN:
            key = unknown_key(base + field.name.offset, field.name.length)
            value = PyUnicode_DecodeLatin1(data, field.value.length, NULL)
        elif field.known in (H1_FIELD_PROXY, H1_FIELD_TRANSFER_ENCODING, H1_FIELD_CONTENT_LENGTH):
            continue
        else:
            key = <object>keys[field.known]
            value = text(field.known, data, field.value.length)
            if field.known == H1_FIELD_X_FORWARDED_PROTO:
                forwarded = True
        size = PyDict_GET_SIZE(environ)
        before = PyDict_SetDefault(environ, key, value)
        if PyDict_GET_SIZE(environ) == size:   # it was there: a repeated field
            value = f"{<str>before}; {value}" if field.known == H1_FIELD_COOKIE else f"{<str>before},{value}"
            PyDict_SetItem(environ, key, value)
    return forwarded


cdef int add_path(dict environ, Context context, const h1_head *head, const char *base) except -1:
    cdef const char *path = base + head.path.offset
    cdef object value
    if head.path.length == 0 or head.target_form == H1_TARGET_ASTERISK:
        value = "/"
    else:
        value = unquoted(path, head.path.length)
    if context.script_name:
        prefix = context.script_name
        if value.startswith(prefix) and (len(value) == len(prefix) or value[len(prefix)] == "/"):
            environ["SCRIPT_NAME"] = prefix
            value = value[len(prefix):]
        else:
            environ["SCRIPT_NAME"] = ""
    environ["PATH_INFO"] = value
    return 0


cdef object add_target(dict environ, Context context, const h1_head *head, const char *base, object before):
    """Adds what the target says, unless it is the one that was added last, `before`; returns it."""
    cdef object target = text(TARGET, base + head.target.offset, head.target.length)
    if target is before:
        return target
    PyDict_SetItem(environ, "RAW_URI", target)
    PyDict_SetItem(environ, "REQUEST_URI", target)
    add_path(environ, context, head, base)
    PyDict_SetItem(environ, "QUERY_STRING", text(QUERY, base + head.query.offset, head.query.length))
    return target


cdef object add_method(dict environ, const h1_head *head, const char *base, object before):
    cdef object method = text(METHOD, base + head.method.offset, head.method.length)
    if method is not before:
        PyDict_SetItem(environ, "REQUEST_METHOD", method)
    return method


@cython.final
cdef class Familiar:
    """The environ of requests with the same field lines, as far as requests have it in common. Brought up to date and
    copied without a moment in which another thread could come between: no code of Python's runs in there."""
    cdef uint64_t lines    # their number: h1_head.lines
    cdef dict template     # what it was made from
    cdef dict environ
    cdef object method, target
    cdef bint forwarded


cdef Familiar familiar(Context context, dict template, const h1_head *head, const char *base):
    """That of these field lines."""
    cdef Py_ssize_t place = head.lines % H1_MEMORY_PLACES
    cdef object kept = context.environs[place]
    cdef Familiar found
    if kept is not None:
        found = <Familiar>kept
        if found.lines == head.lines and found.template is template:
            return found
    found = Familiar.__new__(Familiar)
    found.lines = head.lines
    found.template = template
    found.environ = PyDict_Copy(template)
    if head.minor_version == 0:
        PyDict_SetItem(found.environ, "SERVER_PROTOCOL", "HTTP/1.0")
    found.forwarded = add_fields(found.environ, head, base)
    context.environs[place] = found
    return found


cdef dict make_environ(
    Context context, dict template, const h1_head *head, const char *base, Body body, str remote_addr, str remote_port
):
    """`base` is where the head's spans count from; `body` is complete. A unix peer has no address and no port: None."""
    cdef dict environ
    cdef Familiar known
    cdef bint forwarded
    if head.lines and context.environs is not None:
        known = familiar(context, template, head, base)
        known.method = add_method(known.environ, head, base, known.method)
        known.target = add_target(known.environ, context, head, base, known.target)
        environ = PyDict_Copy(known.environ)
        forwarded = known.forwarded
    else:
        environ = PyDict_Copy(template)
        add_method(environ, head, base, None)
        add_target(environ, context, head, base, None)
        if head.minor_version == 0:
            PyDict_SetItem(environ, "SERVER_PROTOCOL", "HTTP/1.0")
        forwarded = add_fields(environ, head, base)
    if head.target_form == H1_TARGET_ABSOLUTE:
        PyDict_SetItem(environ, "HTTP_HOST", text(HOST, base + head.host.offset, head.host.length))
    if remote_port is not None:
        PyDict_SetItem(environ, "REMOTE_ADDR", remote_addr)
        PyDict_SetItem(environ, "REMOTE_PORT", remote_port)
    if body is not EMPTY:
        PyDict_SetItem(environ, "wsgi.input", body)
        PyDict_SetItem(environ, "CONTENT_LENGTH", str(body.size()))
    elif head.has_content_length:
        PyDict_SetItem(environ, "CONTENT_LENGTH", "0")
    if forwarded and context.trusts(remote_addr):
        set_scheme(environ)
    return environ


cdef int set_scheme(dict environ) except -1:
    """A trusted proxy says how its client came."""
    scheme = environ["HTTP_X_FORWARDED_PROTO"].lower()
    if scheme == "https" or scheme == "http":
        PyDict_SetItem(environ, "wsgi.url_scheme", scheme)
    return 0
