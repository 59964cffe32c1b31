# What a connection is doing, and what it wants next: the numbers of connection.pyx's names, for C.

cdef enum:
    S_IDLE = 0
    S_HEAD = 1
    S_BODY = 2
    S_READY = 3
    S_HELD = 4
    S_RUNNING = 5
    S_FLUSH = 6
    S_LINGER = 7
    S_CLOSED = 8

cdef enum:
    N_CLOSED = 0
    N_READ = 1
    N_WRITE = 4
    N_REQUEST = 256
    N_BUSY = 512
    N_HELD = 0x40002000   # EPOLLONESHOT and EPOLLRDHUP: nothing that the client sends, and once that it is gone
