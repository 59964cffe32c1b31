# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""The bytes that a connection still has to send.

Sends at once what the kernel takes. The rest is kept: up to response_buffer in memory, then up to response_spool in an
unlinked file, and only then does a writer wait for its client. It knows nothing of HTTP. Nothing raises because a
client went away: that is OUT_GONE, and `failure` says why.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENODATA, ENOMEM, ETIMEDOUT, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove
from posix.unistd cimport close as close_fd

from os import strerror

from pyserve_workers.native.context cimport BLOCK_SIZE, Context, clock_now


cdef extern from *:
    """
    #include <string.h>
    #include <sys/sendfile.h>
    #include <sys/socket.h>

    static ssize_t outbox_sendmsg(int fd, struct iovec *parts, int count, int flags)
    {
        struct msghdr message;
        if (count == 1)
            return send(fd, parts[0].iov_base, parts[0].iov_len, flags | MSG_DONTWAIT);
        memset(&message, 0, sizeof message);
        message.msg_iov = parts;
        message.msg_iovlen = (size_t)count;
        return sendmsg(fd, &message, flags | MSG_DONTWAIT);
    }
    """
    ssize_t outbox_sendmsg(int fd, iovec *parts, int count, int flags) nogil
    ssize_t sendfile(int out, int source, ssize_t *offset, size_t size) nogil
    int MSG_MORE
    int MSG_NOSIGNAL
    int SHUT_RDWR
    int shutdown(int fd, int how)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>":
    unsigned long SIOCOUTQ

cdef extern from "rate.h" nogil:
    uint64_t rate_earned(uint64_t earned, uint64_t now, uint64_t bytes, uint64_t rate, uint64_t timeout)
    uint64_t rate_due(uint64_t earned, uint64_t last, uint64_t timeout)

cdef extern from "Python.h":
    Py_ssize_t refcount "Py_REFCNT"(PyObject *value)

cdef extern from "spool.h" nogil:
    int spool_open(const char *directory)
    int spool_write(int fd, const char *data, size_t size, uint64_t offset)
    int spool_read(int fd, char *data, size_t size, uint64_t offset)


cdef enum:
    TRY_AGAIN = 65536   # after EAGAIN, a stream's writer tries the kernel again when so much more has come together
    A_TURN = 1 << 20    # bytes of a file that one connection gets sent before the loop looks at the others


@cython.final
cdef class Outbox:
    """Made by a connection for its descriptor, which stays the connection's own unless ``owns_fd`` says otherwise."""

    def __cinit__(self):
        self.fd = self.spool_fd = self.file_fd = -1

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        """Drops everything that is unsent; of one that is busy, when it is left."""
        self.doomed = self.busy
        if self.busy:
            return
        if self.data is not NULL:
            if self.capacity == BLOCK_SIZE:
                self.context.give_block(self.data)
            else:
                free(self.data)
            self.data = NULL
        self.start = self.end = self.capacity = 0
        if self.held:
            self.context.hold(&self.held, 0)
        self.pinned = None
        self.pinned_left = 0
        if self.spool_fd >= 0:
            close_fd(self.spool_fd)
            self.spool_fd = -1
            self.context.spool(&self.spooled, 0)
        self.spool_start = self.spool_end = 0
        if self.file_fd >= 0:
            close_fd(self.file_fd)
            self.file_fd = -1
        self.file_left = 0

    cdef void leave(self) noexcept:
        """Whoever was adding to it has done so, or failed."""
        self.busy = False
        if self.doomed:
            self.close()
        if self.owns_fd:
            self.owns_fd = False
            close_fd(self.fd)

    cdef void strand(self) noexcept:
        """The response is over, and a thread of the app's is still adding to it. Nobody waits for that thread: it finds
        the connection lost, and closes the descriptor that it may be waiting for."""
        self.failure = ECONNABORTED
        shutdown(self.fd, SHUT_RDWR)

    cdef void rest(self) noexcept:
        """The connection is idle: its buffer goes back to the pool."""
        if self.is_empty():
            self.close()

    cdef bint is_empty(self) noexcept:
        return self.start == self.end and self.holds_only_memory()

    cdef bint holds_only_memory(self) noexcept:
        return self.pinned_left == 0 and self.spool_start == self.spool_end and self.file_left == 0

    cdef uint64_t pending(self) noexcept:
        return (self.end - self.start) + self.pinned_left + (self.spool_end - self.spool_start) + self.file_left

    cdef int must_hold_only_memory(self) except -1:
        """Memory is sent first: what is added to it now would overtake the rest of what is kept."""
        if not self.holds_only_memory():
            raise AssertionError("BUG: bytes would be sent before others that came earlier")
        return 0

    # Filling

    cdef char *reserve(self, size_t size) except NULL:
        """Room for so many bytes after the memory part's end. The caller writes there and moves `end`."""
        cdef size_t capacity, slack
        cdef char *grown
        self.must_hold_only_memory()
        if self.data is NULL:
            if size <= BLOCK_SIZE:
                self.data = self.context.take_block()
                self.capacity = BLOCK_SIZE
                return self.data
        elif self.start == self.end and self.start:
            self.start = self.end = 0
        slack = self.capacity // 2 if self.capacity < self.context.response_buffer else 0   # full-grown: never larger
        if self.end + size > self.capacity and self.start > slack:
            # to its very end: what was reserved before, and is not added yet, stays behind the rest
            memmove(self.data, self.data + self.start, self.capacity - self.start)
            self.end -= self.start
            self.start = 0
        if self.end + size > self.capacity:
            # In few steps, for each leaves a hole in the heap; what is not used of the last one takes no memory.
            capacity = max(self.end + size, min(8 * self.capacity, self.context.response_buffer))
            if self.capacity == BLOCK_SIZE:   # never realloc a block of the pool: it keeps its size
                grown = <char *>malloc(capacity)
                if grown is not NULL:
                    memcpy(grown, self.data, self.capacity)
                    self.context.give_block(self.data)
            else:
                grown = <char *>realloc(self.data, capacity)
            if grown is NULL:
                raise MemoryError
            self.data = grown
            self.capacity = capacity
            self.context.hold(&self.held, capacity)
        return self.data + self.end

    cdef int add(self, const char *data, size_t size) except -1:
        """Adds to the memory part without sending; for heads and small bodies."""
        memcpy(self.reserve(size), data, size)
        self.end += size
        return 0

    cdef int pin(self, bytes data) except -1:
        """Adds a bytes object without copying it. Must be the response's last part."""
        self.must_hold_only_memory()
        self.pinned = data
        self.pinned_data = PyBytes_AS_STRING(data)
        self.pinned_left = PyBytes_GET_SIZE(data)
        return 0

    cdef int attach(self, int fd, uint64_t offset, uint64_t size) except -1:
        """Adds a part of a file; the descriptor becomes the outbox's own. Must be the response's last part."""
        self.must_hold_only_memory()
        self.file_fd = fd
        self.file_offset = offset
        self.file_left = size
        return 0

    # Streams: send what can be sent, keep the rest

    cdef int write(self, text prefix, text data, text suffix) except -2:
        """Sends three pieces of a stream, or keeps what the kernel does not take. May wait for the client, see above.
        OUT_EMPTY, OUT_BLOCKED (something is kept) or OUT_GONE."""
        cdef size_t taken = 0
        cdef int state
        if self.failure:
            return OUT_GONE
        self.untried += prefix.size + data.size + suffix.size
        if not self.blocked or self.untried > TRY_AGAIN:
            if not self.holds_only_memory() and self.flush() == OUT_GONE:
                return OUT_GONE
            if self.holds_only_memory():
                state = self.send(prefix, data, suffix, &taken)
                if state != OUT_BLOCKED:
                    return state
        state = self.keep_rest(prefix, &taken)
        if state != OUT_GONE:
            state = self.keep_rest(data, &taken)
        if state != OUT_GONE:
            state = self.keep_rest(suffix, &taken)
        return state

    cdef int keep_rest(self, text piece, size_t *taken) except -2:
        """Keeps what the kernel has not taken of a piece; `taken` counts from the piece's start."""
        if taken[0] >= piece.size:
            taken[0] -= piece.size
            return OUT_BLOCKED
        piece.data += taken[0]
        piece.size -= taken[0]
        taken[0] = 0
        return self.keep(piece.data, piece.size)

    cdef int send(self, text prefix, text data, text suffix, size_t *taken) noexcept:
        """One system call for what memory holds and three more pieces; `taken` is how much of these the kernel took."""
        cdef iovec parts[4]
        cdef size_t held = self.end - self.start, total = held + prefix.size + data.size + suffix.size
        cdef ssize_t n
        cdef int first = 0
        parts[0].iov_base, parts[0].iov_len = self.data + self.start, held
        parts[1].iov_base, parts[1].iov_len = <char *>prefix.data, prefix.size
        parts[2].iov_base, parts[2].iov_len = <char *>data.data, data.size
        parts[3].iov_base, parts[3].iov_len = <char *>suffix.data, suffix.size
        while parts[first].iov_len == 0 and first < 3:
            first += 1
        n = self.push(&parts[first], 4 - first, MSG_NOSIGNAL | self.more())
        if n < 0:
            return OUT_BLOCKED if n == -EAGAIN else self.lost(<int>-n)
        if <size_t>n == total:
            self.start = self.end = 0
            return OUT_EMPTY
        self.blocked = True   # a short write: the next one would only bring EAGAIN
        if <size_t>n < held:
            self.start += n
        else:
            taken[0] = n - held
            self.start = self.end = 0
        return OUT_BLOCKED

    cdef ssize_t push(self, iovec *parts, int count, int flags) noexcept:
        """sendmsg(), or -errno."""
        cdef ssize_t n
        self.untried = 0
        while True:
            n = outbox_sendmsg(self.fd, parts, count, flags)
            if n >= 0:
                self.sent += n
                self.context.slot.bytes_out += n
                self.blocked = False
                return n
            if errno == EINTR:
                continue
            self.blocked = errno == EAGAIN
            return -errno

    cdef int keep(self, const char *data, size_t size) except -2:
        """Keeps bytes: in memory, then in the spool file, then waits for the client until there is room."""
        cdef size_t room
        cdef uint64_t most = self.context.response_buffer
        if self.context.is_full():
            most = BLOCK_SIZE   # the buffer that it has, or one of the pool
        while size:
            room = 0
            if self.holds_only_memory() and self.end - self.start < most:
                room = min(<uint64_t>size, most - (self.end - self.start))
                self.add(data, room)
            if room == 0:
                room = self.spool(data, size)
            data += room
            size -= room
            if room == 0:
                if not self.failure and not self.wait():
                    return self.lost(ETIMEDOUT)
                if self.flush() == OUT_GONE:
                    return OUT_GONE
        return OUT_BLOCKED

    cdef bint wait(self) except -1:
        """Waits until the client has read; False if it took no byte for write_timeout, or reads with less than
        response_min_rate. Only the time counts in which a writer waits."""
        cdef Context context = self.context
        cdef uint64_t began = clock_now(), now = began, last = began, due, size = self.progress()
        cdef uint64_t earned = began + self.credit if self.waited else 0
        cdef bint ready = False
        self.waiting = True
        try:
            earned = rate_earned(earned, now, size, context.response_min_rate, context.write_timeout)
            while not ready:
                due = rate_due(earned, last, context.write_timeout)
                if due and due <= now:
                    break
                ready = context.wait_for_client(self.fd, due - now if due else 0)
                now = clock_now()
                size = self.progress()
                if size:
                    last = now
                    earned = rate_earned(earned, now, size, context.response_min_rate, context.write_timeout)
            return ready
        finally:
            self.waiting = False
            self.waited += clock_now() - began
            self.credit = earned - now if earned > now else 0

    cdef uint64_t progress(self) noexcept:
        """How many bytes the client has taken since this was last asked. What the kernel has taken for it is no
        progress: that may be megabytes, and it asks for more only when a third of its buffer is free."""
        cdef int queued = 0
        cdef uint64_t taken, before = self.taken
        if ioctl(self.fd, SIOCOUTQ, &queued) < 0:
            queued = 0
        taken = self.sent - min(<uint64_t>queued, self.sent)   # in a unix socket the kernel's overhead is queued, too
        if taken <= before:
            return 0
        self.taken = taken
        return taken - before

    cdef size_t spool(self, const char *data, size_t size) except? 0:
        """Writes to the ring in the spool file; returns how many bytes it took, 0 when it is full, may not grow, or cannot
        be had."""
        cdef Context context = self.context
        cdef uint64_t most = context.response_spool, place
        cdef size_t room
        cdef int failure = 0
        if self.file_left:
            raise AssertionError("BUG: bytes would be sent before a file that came earlier")
        if most == 0 or self.spool_failed or not context.spools:
            return 0
        if self.spool_start == self.spool_end:
            self.spool_start = self.spool_end = 0
        place = self.spool_end % most
        room = min(<uint64_t>size, min(most - place, most - (self.spool_end - self.spool_start)))
        if room and place == self.spooled and not context.spool_room():
            self.complain("spool_limit is reached")
            return 0
        room = min(<uint64_t>room, self.spooled - place + context.spool_room())
        if self.spool_fd < 0:
            self.spool_fd = spool_open(<const char *>context.spool_dir)
            if self.spool_fd < 0:
                failure = errno
        if not failure:
            with nogil:
                failure = spool_write(self.spool_fd, data, room, place)
        if not failure:
            self.spool_end += room
            context.spool(&self.spooled, max(self.spooled, place + room))
            return room
        # No disk for it: the response goes on at the client's speed.
        self.spool_failed = True
        self.complain(f"{context.spool_dir.decode(errors='replace')}: {strerror(failure)}")
        return 0

    cdef int complain(self, str why) except -1:
        self.context.complaints.note("warning", f"its response cannot be spooled: {why}", "slow clients", "a slow client")
        return 0

    # Sending what is kept

    cdef int flush(self) noexcept:
        """Sends as much as the kernel takes: OUT_EMPTY, OUT_BLOCKED or OUT_GONE."""
        cdef int state = OUT_EMPTY
        cdef uint64_t most
        if self.failure:
            return OUT_GONE
        if self.start != self.end or self.pinned_left:
            state = self.flush_memory()
        most = self.sent + A_TURN   # then others have their turn
        while state == OUT_EMPTY and self.spool_start != self.spool_end:
            state = self.flush_spool() if self.sent < most else OUT_BLOCKED
        if state == OUT_EMPTY and self.file_left:
            most = self.file_left
            state = self.send_file(self.file_fd, self.file_offset, &most)
            self.file_offset += most
            self.file_left -= most
            if self.file_left == 0:
                close_fd(self.file_fd)
                self.file_fd = -1
            elif state == OUT_EMPTY:
                state = OUT_BLOCKED
        return state

    cdef int flush_memory(self) noexcept:
        cdef iovec parts[2]
        cdef size_t held, total
        cdef ssize_t n
        cdef int flags
        held = self.end - self.start
        total = held + self.pinned_left
        flags = MSG_NOSIGNAL
        if self.spool_start != self.spool_end or self.file_left:
            flags |= MSG_MORE
        elif self.pinned_left == 0:
            flags |= self.more()
        parts[0].iov_base, parts[0].iov_len = self.data + self.start, held
        parts[1].iov_base, parts[1].iov_len = <char *>self.pinned_data, self.pinned_left
        if held == 0:
            n = self.push(&parts[1], 1, flags)
        else:
            n = self.push(parts, 2 if self.pinned_left else 1, flags)
        if n < 0:
            return OUT_BLOCKED if n == -EAGAIN else self.lost(<int>-n)
        self.blocked = <size_t>n < total
        if <size_t>n < held:
            self.start += n
            return OUT_BLOCKED
        self.start = self.end = 0
        self.pinned_data += n - held
        self.pinned_left -= n - held
        if self.pinned_left:
            return OUT_BLOCKED
        self.pinned = None
        return OUT_EMPTY

    cdef int more(self) noexcept:
        """MSG_MORE for the last of all, whose FIN comes at once, so that one packet has both; and for a response that
        is sent together with others."""
        if self.last:
            return MSG_MORE
        if self.bunch and self.whole and self.context.bunch.hold(self.fd, self.context.left):
            return MSG_MORE
        return 0

    cdef int flush_spool(self) noexcept:
        """Sends one part of the ring. Through a buffer: what sendfile() queues are the file's own pages, and the ring
        would write over them while the client has not yet read them."""
        cdef iovec part
        cdef uint64_t most = self.context.response_spool, place = self.spool_start % most
        cdef size_t size = min(self.spool_end - self.spool_start, min(most - place, <uint64_t>BLOCK_SIZE))
        cdef ssize_t n
        cdef int failure
        try:
            part.iov_base = self.context.take_block()
        except MemoryError:
            return self.lost(ENOMEM)
        part.iov_len = size
        with nogil:
            failure = spool_read(self.spool_fd, <char *>part.iov_base, size, place)
        n = -failure if failure else self.push(&part, 1, MSG_NOSIGNAL)
        self.context.give_block(<char *>part.iov_base)
        if n < 0:
            return OUT_BLOCKED if n == -EAGAIN else self.lost(<int>-n)
        self.spool_start += n
        self.blocked = <size_t>n < size
        return OUT_BLOCKED if self.blocked else OUT_EMPTY

    cdef int send_file(self, int source, uint64_t offset, uint64_t *size) noexcept:
        """sendfile() of up to `size` bytes; leaves there how many were sent."""
        cdef ssize_t place = <ssize_t>offset, n
        cdef size_t asked = min(size[0], <uint64_t>A_TURN)
        size[0] = 0
        with nogil:
            n = sendfile(self.fd, source, &place, asked)
        if n > 0:
            self.sent += n
            self.context.slot.bytes_out += n
            size[0] = n
            self.blocked = <size_t>n < asked
            return OUT_BLOCKED if self.blocked else OUT_EMPTY
        if n == 0:
            return self.lost(ENODATA)   # the file has become shorter than was promised
        self.blocked = errno == EAGAIN
        return OUT_BLOCKED if errno == EAGAIN or errno == EINTR else self.lost(errno)

    # What a client leaves in memory

    cdef void count_held(self) noexcept:
        """Beyond its block. An object that the app keeps too costs nothing."""
        cdef uint64_t size = 0 if self.capacity == BLOCK_SIZE else self.end
        if self.pinned_left and refcount(<PyObject *>self.pinned) == 1:
            size += PyBytes_GET_SIZE(self.pinned)
        if size != self.held:
            self.context.hold(&self.held, size)

    cdef int relieve(self) except -1:
        """The client reads slowly: a large item of a list stays in memory for it, or goes to the spool file if others
        have taken the memory and the file has room for all of it."""
        cdef size_t done = 0, room
        self.count_held()
        if not self.pinned_left or not self.context.is_full() or self.pinned_left > self.context.response_spool:
            return 0
        if self.spool_start != self.spool_end or refcount(<PyObject *>self.pinned) > 1:
            return 0
        while done < self.pinned_left:
            room = self.spool(self.pinned_data + done, self.pinned_left - done)
            if room == 0:   # then all of it stays where it is
                self.spool_end = self.spool_start
                return 0
            done += room
        self.pinned = None
        self.pinned_left = 0
        self.count_held()
        return 0

    cdef int lost(self, int failure) noexcept:
        self.close()
        self.failure = failure
        return OUT_GONE
