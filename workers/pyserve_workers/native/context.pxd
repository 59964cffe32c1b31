from libc.stdint cimport uint64_t

from pyserve_workers.native.accesslog cimport AccessLog
from pyserve_workers.native.bunch cimport Bunch
from pyserve_workers.http1.http1 cimport h1_head, h1_limits, h1_memory
from pyserve_workers.native.seenhead cimport SeenHead


cdef extern from "scoreboard.h" nogil:
    ctypedef struct pyserve_slot:
        uint64_t request_start
        uint64_t active
        uint64_t connections
        uint64_t requests
        uint64_t siblings
        uint64_t takers
        uint64_t gate
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t status[5]
        uint64_t cut
        uint64_t latency_sum
        uint64_t latency[24]
        uint64_t spooled
        uint64_t request_since[8]
        uint64_t request_line_length[8]
        char request_line[8][384]
    size_t PYSERVE_REQUEST_LINE
    int PYSERVE_REQUEST_LINES
    int PYSERVE_SLOT_SIZE
    int PYSERVE_LATENCY_BUCKETS


cdef extern from "clock.h" nogil:
    uint64_t clock_now()
    uint64_t clock_wall()


cdef enum:
    BLOCK_SIZE = 24576   # one buffer of the pool: a receive buffer with its parsed head, or an output buffer


cdef class Context:
    cdef readonly object app
    cdef readonly object settings
    cdef readonly object errors
    cdef readonly object log
    cdef readonly object complaints
    cdef readonly AccessLog access_log
    cdef public object wait_writable
    cdef public bint draining
    cdef public object draining_event
    cdef public bint running
    cdef public int epoll           # the loop's, where connections are; -1: none
    cdef public bint forked         # this process is none of ours: the app has forked it from the worker
    cdef public object gatekeeper
    cdef readonly int client        # the descriptor of the request in the app, unless there may be several
    cdef readonly bint multithread
    cdef readonly bint concurrent

    cdef readonly Bunch bunch
    cdef uint64_t left              # when the latest request left the app, monotonic ns

    cdef pyserve_slot *slot
    cdef object slot_memory

    # settings that the hot paths read, as C values; times are nanoseconds, 0 is "no limit"
    cdef uint64_t header_timeout, body_timeout, write_timeout, keep_alive
    cdef uint64_t limit_body, body_buffer, response_buffer, response_spool
    cdef uint64_t body_min_rate, response_min_rate   # bytes per second; 0: none is asked for
    cdef h1_limits head_limits
    cdef bytes spool_dir
    cdef str script_name
    cdef bint wants_response_fields

    cdef readonly uint64_t held     # bytes that wait in memory for clients, of all connections
    cdef uint64_t buffer_memory     # above this they go to files
    cdef bint spools                # is there a place for files?
    cdef readonly uint64_t spooled  # bytes in files, of all connections
    cdef uint64_t spool_limit       # of them

    cdef char *blocks[64]
    cdef int block_count

    cdef uint64_t date_until        # monotonic ns until which the block below holds
    cdef char server_date[128]      # "Server: ...\r\nDate: ...\r\n"
    cdef size_t server_length
    cdef size_t server_date_length

    # What the requests before have left, for the next ones to use again. Only under the GIL: else NULL and None.
    cdef h1_memory *memory          # of field lines
    cdef list environs              # made for such lines: environ.pyx
    cdef SeenHead seen_head         # of a response

    cdef dict templates             # id(listener) -> (listener, environ template)
    cdef object trusted

    cdef read_settings(self, settings)
    cdef int remember(self) except -1
    cdef dict make_template(self, listener)
    cdef bint poll_writable(self, int fd, uint64_t began, uint64_t patience) except -1
    cdef char *take_block(self) except NULL
    cdef void give_block(self, char *block) noexcept
    cdef void hold(self, uint64_t *mine, uint64_t size) noexcept
    cdef bint is_full(self) noexcept
    cdef void spool(self, uint64_t *mine, uint64_t size) noexcept
    cdef uint64_t spool_room(self) noexcept
    cdef void tick(self, uint64_t now) noexcept
    cdef dict template(self, object listener)
    cdef bint trusts(self, str host)
    cdef bint wait_for_client(self, int fd, uint64_t patience) except -1
    cdef uint64_t enter(self, const h1_head *head, const char *base) noexcept
    cdef void retreat(self, uint64_t started) noexcept
    cdef int claim(self, uint64_t started) noexcept
    cdef void release(self, uint64_t started) noexcept
    cdef void leave(self, uint64_t started, uint64_t now) noexcept
    cdef void count(self, int status) noexcept
