from libc.stdint cimport uint64_t


cdef enum:
    MOST_HELD = 256
    WORTH_BUNCHING = 15000   # ns: for a faster app than this the system call would cost more than it saves
    SLOW = 1000000           # ns: what a response must not wait for
    HELD_BACK = 500000       # ns


cdef class Bunch:
    cdef public bint is_open        # push() will come before anybody waits
    cdef uint64_t latest, slowest   # ns in the app: of the latest request, and of the slow ones, which fade
    cdef uint64_t since             # when the first response was held back, monotonic ns
    cdef int fds[MOST_HELD]
    cdef int count

    cdef bint hold(self, int fd, uint64_t now) noexcept
    cdef void release(self) noexcept

    cdef inline void learn(self, uint64_t took, uint64_t now) noexcept:
        """A request has left the app, where it was for so many nanoseconds."""
        if self.count and now - self.since > HELD_BACK:
            self.release()
        self.latest = took
        self.slowest = max(took, self.slowest - (self.slowest >> 6))

    cdef inline bint is_worth(self) noexcept:
        """May a whole response be held back until the others of this turn are made, too?"""
        return self.is_open and self.latest > WORTH_BUNCHING and self.slowest < SLOW
