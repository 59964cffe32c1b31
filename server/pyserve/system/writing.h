/* Writing to a log without waiting for its reader.

   A write(2) to a pipe or a terminal that nobody reads waits for ever. O_NONBLOCK would end that, but it belongs to the
   open file, which standard streams share with the shell and with other programs; so it is never set on them. log.py
   opens them anew where it can, and the copy is ours to set. But the master shares that with its workers, of which each
   can take it away. So there are calls here that do not wait once. */

#ifndef PYSERVE_WRITING_H
#define PYSERVE_WRITING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define WRITING_ATOMIC 4096   /* PIPE_BUF: up to here a pipe takes all or nothing, and never mixes two writers' bytes */

enum {
    WRITING_FILE,     /* a file: it does not wait for anybody */
    WRITING_SHARED,   /* a pipe or terminal, which others have open, too */
    WRITING_SOCKET    /* the journal's */
};

static inline int writing_way(int fd)
{
    struct stat about;
    if (fstat(fd, &about) || S_ISREG(about.st_mode))
        return WRITING_FILE;
    return S_ISSOCK(about.st_mode) ? WRITING_SOCKET : WRITING_SHARED;
}

static inline ssize_t writing_shared(int fd, const void *data, size_t size)
{
    struct pollfd room = { fd, POLLOUT, 0 };
#ifdef RWF_NOWAIT
    struct iovec piece = { (void *)data, size };
    ssize_t done = pwritev2(fd, &piece, 1, -1, RWF_NOWAIT);
    if (done >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != ESPIPE))
        return done;
#endif
    /* A terminal, or an older kernel: there is some room now. This is the one way that may still wait, when a terminal
       has less room than that, or another writer takes it in this moment. */
    if (poll(&room, 1, 0) <= 0) {
        errno = EAGAIN;
        return -1;
    }
    return write(fd, data, size < WRITING_ATOMIC ? size : WRITING_ATOMIC);
}

/* As write(2), but EAGAIN instead of waiting. */
static inline ssize_t writing_now(int fd, int way, const void *data, size_t size)
{
    if (way == WRITING_SOCKET)
        return send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (way == WRITING_SHARED)
        return writing_shared(fd, data, size);
    return write(fd, data, size);
}

#endif
