from libc.stdint cimport uint64_t

from pyserve_workers.http1.http1 cimport h1_head


ctypedef struct log_text:
    const char *data
    size_t size


ctypedef struct log_entry:
    log_text peer
    log_text line            # the request line as received
    log_text method
    log_text target
    log_text path            # still percent-encoded
    log_text query
    int minor_version        # -1: not known
    int status
    uint64_t sent            # bytes of the body
    uint64_t duration        # ns
    bint cut                 # the response did not come to its end
    bint kept                # the connection goes on
    const h1_head *head      # NULL: the head was not understood
    const char *base         # where its spans count from


cdef struct log_step:
    int atom
    const char *text         # a literal, or the atom's argument
    size_t size


cdef void log_request(log_entry *entry, const h1_head *head, bint understood, const char *data, size_t size) noexcept


cdef class AccessLog:
    cdef readonly int fd
    cdef readonly str format
    cdef readonly bint wants_response_fields
    cdef readonly uint64_t dropped   # lines that could not be written
    cdef readonly int error          # errno of the last write; 0: it went well
    cdef int way                     # see writing.h

    cdef log_step *steps
    cdef int step_count
    cdef list kept                   # what the steps' texts belong to
    cdef bint json
    cdef char *data
    cdef size_t length, capacity
    cdef bint torn                   # the file's last line is not whole
    cdef bint busy                   # a line is being composed, or the buffer written
    cdef AccessLog twin              # for lines that come meanwhile, from other threads or greenlets
    cdef uint64_t dated              # the second of the dates
    cdef char log_date[26]
    cdef char iso_date[19]

    cdef int add(self, log_entry *entry, bytes response_fields, dict environ) except -1
    cdef bint occupy(self) noexcept
    cdef int compose(self, log_entry *entry, bytes response_fields, dict environ) except -1
    cdef void write_out(self) noexcept
    cdef size_t piece(self, size_t start) noexcept
    cdef uint64_t lines_from(self, size_t start) noexcept
    cdef int add_step(self, const log_step *step, log_entry *entry, bytes response_fields, dict environ) except -1
    cdef int add_json(self, log_entry *entry, uint64_t wall) except -1
    cdef int room(self, size_t size) except -1
    cdef int put(self, const char *data, size_t size) except -1
    cdef int put_escaped(self, const char *data, size_t size) except -1
    cdef int put_json(self, const char *key, const char *data, size_t size) except -1
    cdef int put_number(self, uint64_t value, int width) except -1
    cdef int put_request_field(self, log_entry *entry, const char *name, size_t size) except -1
    cdef int put_response_field(self, bytes fields, const char *name, size_t size) except -1
    cdef int put_variable(self, dict environ, bytes name) except -1
    cdef int put_json_field(self, const char *key, log_entry *entry, const char *name, size_t size) except -1
    cdef int put_user(self, log_entry *entry) except -1
    cdef void set_dates(self, uint64_t second) noexcept
    cpdef flush(self)
