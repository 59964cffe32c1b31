# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""The responses of one turn of the loop, pushed to their clients together.

Each response that is sent wakes its receiver. Where that is a proxy on the same machine, which sleeps while the app
works, this costs more than the response (on virtual machines: an interrupt of another processor, 17 µs measured). So
when several connections are ready and the app has lately been fast, whole responses are given to the kernel but
held back there, and pushed together: after HELD_BACK at the most. Should the next request prove slow against
expectation, whoever notices pushes them, or else the kernel by itself after 200 ms.
"""

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int fd, int level, int name, const void *value, unsigned size)



cdef class Bunch:
    """The loop opens it when several connections are ready, and calls push() when they are served, or when it finds
    that one is not served soon."""

    cdef bint hold(self, int fd, uint64_t now) noexcept:
        """Shall the kernel hold back (MSG_MORE) the end of a response on this descriptor?"""
        if not self.is_open or self.count == MOST_HELD:
            return False
        if self.count == 0:
            self.since = now
        self.fds[self.count] = fd
        self.count += 1
        return True

    cdef void release(self) noexcept:
        """Has the kernel send what it holds back. A descriptor may meanwhile be closed, which sends it as well, and be
        another connection's: that is not harmed."""
        cdef int i, one = 1
        for i in range(self.count):
            # TCP_NODELAY is set already: to set it again only pushes (tcp(7))
            setsockopt(self.fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        self.count = 0

    def push(self):
        self.is_open = False
        self.release()
