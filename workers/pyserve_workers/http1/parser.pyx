# cython: language_level=3, freethreading_compatible=True
"""The parser as Python functions, for the tests, which feed it bytes in every way; the server calls the C functions."""

from collections import namedtuple

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from pyserve_workers.http1.http1 cimport *

MAX_FIELDS = H1_MAX_FIELDS
MAX_METHOD = H1_MAX_METHOD
MAX_CHUNK_EXTENSIONS = H1_MAX_CHUNK_EXTENSIONS
MAX_TRAILER_BYTES = H1_MAX_TRAILER_BYTES
MAX_TRAILERS = H1_MAX_TRAILERS
TARGET_FORMS = ("origin", "absolute", "asterisk")

Field = namedtuple("Field", "name value known underscore")
Head = namedtuple(
    "Head",
    "length method target path query host form https minor_version keep_alive chunked content_length expect_continue"
    " upgrade fields",
)
Body = namedtuple("Body", "data consumed done")


class ParseError(Exception):
    """The bytes were refused: ``name`` and ``code`` of the h1_error, ``status`` and ``reason`` to answer and to log."""

    def __init__(self, int code):
        self.code = code
        self.name = h1_error_name(code).decode()
        self.status = h1_status(code)
        self.reason = h1_reason(code).decode()
        super().__init__(f"{self.name}: {self.reason}")


def errors():
    """Every error that the C code knows, by name: (code, status, reason)."""
    found = {}
    cdef int code
    for code in range(0, -1000, -1):
        if h1_error_name(code) != NULL:
            found[h1_error_name(code).decode()] = (code, h1_status(code), h1_reason(code).decode())
    return found


def status(int code):
    """h1_status() for any number."""
    return h1_status(code)


def reason(int code):
    """h1_reason() for any number."""
    return h1_reason(code).decode()


def known_fields():
    """The known field names in the order of their indexes: (name, environ key, forbidden in trailers)."""
    cdef int i
    return [
        (
            h1_known_fields[i].name[:h1_known_fields[i].name_length].decode(),
            h1_known_fields[i].environ_key[:h1_known_fields[i].environ_key_length].decode(),
            bool(h1_known_fields[i].forbidden_in_trailers),
        )
        for i in range(H1_KNOWN_FIELDS)
    ]


def known_index(bytes name):
    """The index of a field name in known_fields(), or None."""
    cdef uint32_t index = h1_known_index(name, len(name))
    return None if index == H1_UNKNOWN else index


cdef bytes cut(bytes data, h1_span span):
    return data[span.offset : span.offset + span.length]


cdef object field_of(bytes data, const h1_field *field):
    known = None if field.known == H1_UNKNOWN else h1_known_fields[field.known].name.decode()
    underscore = bool(field.flags & H1_FIELD_HAS_UNDERSCORE)
    return Field(cut(data, field.name), cut(data, field.value), known, underscore)


cdef object head_of(bytes data, const h1_head *head, int32_t length):
    cdef uint32_t i
    return Head(
        length,
        cut(data, head.method),
        cut(data, head.target),
        cut(data, head.path),
        cut(data, head.query) if head.has_query else None,
        cut(data, head.host),
        TARGET_FORMS[head.target_form],
        bool(head.target_https),
        head.minor_version,
        bool(head.keep_alive),
        bool(head.chunked),
        head.content_length if head.has_content_length else None,
        bool(head.expect_continue),
        bool(head.upgrade),
        [field_of(data, &head.fields[i]) for i in range(head.field_count)],
    )


def parse_head(bytes data, splits=(), *, line=8190, fields=100, field_size=8190, head=65536, raw_target=0):
    """The head at the start of ``data``; None if it is incomplete; ParseError if it is refused.

    ``splits`` are rising lengths: the parser sees each of these beginnings of the data first, each at another address.
    """
    cdef h1_limits limits = h1_limits(line, fields, field_size, head, raw_target)
    cdef h1_head parsed
    cdef int32_t answer = H1_MORE
    cdef bytes seen
    h1_head_init(&parsed)
    for length in (*splits, len(data)):
        seen = data[:length]
        answer = h1_parse_head(&parsed, seen, len(seen), &limits)
        if answer < 0:
            raise ParseError(answer)
        if answer > 0:
            return head_of(data, &parsed, answer)
    return None


cdef class Memory:
    """h1_parse_familiar() with a memory of its own."""
    cdef h1_memory memory
    cdef h1_limits limits

    def __init__(self, *, line=8190, fields=100, field_size=8190, head=65536, raw_target=0):
        self.limits = h1_limits(line, fields, field_size, head, raw_target)

    def parse(self, bytes data, splits=()):
        """As parse_head() does: (head or None, the number of its field lines)."""
        cdef h1_head parsed
        cdef int32_t answer = H1_MORE
        cdef bytes seen
        h1_head_init(&parsed)
        for length in (*splits, len(data)):
            seen = data[:length]
            answer = h1_parse_familiar(&parsed, seen, len(seen), &self.limits, &self.memory)
            if answer < 0:
                raise ParseError(answer)
            if answer > 0:
                return head_of(data, &parsed, answer), parsed.lines
        return None, 0


def decode_chunked(bytes data, splits=()):
    """The body at the start of ``data``, as far as it goes; ParseError if it is refused.

    ``splits`` are rising offsets: the decoder gets the data in the pieces between them.
    """
    cdef h1_chunked state
    cdef size_t consumed = 0
    cdef size_t produced = 0
    cdef int32_t answer = H1_MORE
    cdef uint8_t[::1] view
    body = bytearray()
    total = 0
    h1_chunked_init(&state)
    start = 0
    for end in (*splits, len(data)):
        if end == start:
            continue
        piece = bytearray(data[start:end])
        view = piece
        answer = h1_decode_chunked(&state, &view[0], len(piece), &consumed, &produced)
        if answer < 0:
            raise ParseError(answer)
        if produced > consumed or answer == H1_MORE and consumed < <size_t>len(piece):
            raise AssertionError(f"produced {produced}, consumed {consumed} of {len(piece)}")
        body += piece[:produced]
        total += consumed
        if answer == H1_CHUNKED_DONE:
            return Body(bytes(body), total, True)
        start = end
    return Body(bytes(body), total, False)
