/* A connection on its way between two processes: one datagram, with the descriptors beside it (SCM_RIGHTS). */
#ifndef PYSERVE_PARCEL_H
#define PYSERVE_PARCEL_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PARCEL_FORMAT 0x50533032u   /* another one for another layout: generations can have different versions of us */
#define PARCEL_BYTES 16384          /* of requests that travel along */
#define PARCEL_FDS 2                /* the connection, and the file that a complete request's body is in */

/* In front of those bytes. Both ends are on one machine: its own byte order, and its own CLOCK_MONOTONIC. */
typedef struct {
    uint32_t format;
    uint16_t listener;    /* which of the server's it came in by, in their order */
    uint16_t port;        /* of the client */
    uint64_t since;       /* ns: when it began to idle, or its head to arrive */
    uint64_t held_since;  /* ns: when its request first found the gate closed; 0: it has not */
    uint64_t body;        /* bytes in the file */
    uint8_t idle;
    uint8_t has_body;
    uint8_t host_length;  /* 0: the client of a unix socket */
    char host[45];
} parcel_label;

typedef struct {
    parcel_label label;
    char bytes[PARCEL_BYTES];
} parcel;

#define PARCEL_MOST_FDS 253         /* that anybody can send (SCM_MAX_FD) */
#define PARCEL_PIDFD 4              /* SCM_PIDFD, which headers of older systems do not have */

/* Room for the descriptors beside a datagram. */
typedef union {
    struct cmsghdr head;
    char space[CMSG_SPACE(PARCEL_FDS * sizeof(int))];
} parcel_fds;

/* And for all that a worker that is not to be trusted can have there, by what it sends and by the socket's options. */
typedef union {
    struct cmsghdr head;
    char space[CMSG_SPACE(PARCEL_MOST_FDS * sizeof(int)) + 1024];
} parcel_beside;

/* `parts` are the bytes, behind a place for the label; `body` is a descriptor, or -1. 0, or errno: EAGAIN, the queue is full; ETOOMANYREFS, too
 * many descriptors are on their way. */
static inline int parcel_send(int queue, int fd, int body, const parcel_label *label, struct iovec *parts, int count)
{
    int fds[PARCEL_FDS] = {fd, body};
    size_t size = (body < 0 ? 1 : 2) * sizeof(int);
    parcel_fds beside;
    struct msghdr message;
    ssize_t n;
    memset(&message, 0, sizeof message);
    memset(&beside, 0, sizeof beside);
    parts[0].iov_base = (void *)(uintptr_t)label;
    parts[0].iov_len = sizeof *label;
    message.msg_iov = parts;
    message.msg_iovlen = (size_t)count;
    message.msg_control = beside.space;
    message.msg_controllen = CMSG_SPACE(size);
    beside.head.cmsg_level = SOL_SOCKET;
    beside.head.cmsg_type = SCM_RIGHTS;
    beside.head.cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(&beside.head), fds, size);
    do
        n = sendmsg(queue, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? errno : 0;
}

/* Takes the first descriptors of a control message, as far as there are places for them, and closes the others. */
static inline void parcel_take(struct cmsghdr *beside, int fds[PARCEL_FDS], int places)
{
    size_t count = (beside->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t index = 0; index < count; index++) {
        int fd;
        memcpy(&fd, CMSG_DATA(beside) + index * sizeof fd, sizeof fd);
        if (index < (size_t)places)
            fds[index] = fd;
        else
            close(fd);
    }
}

/* How many bytes came, the label included, also of those for which there is no room; or -errno; EPIPE: the queue was shut
 * down. What did not come of `fds`, or the kernel could not give us, is -1. */
static inline ssize_t parcel_receive(int queue, void *data, size_t size, int fds[PARCEL_FDS])
{
    parcel_beside room;
    struct iovec part = {data, size};
    struct msghdr message;
    struct cmsghdr *beside;
    ssize_t n;
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room.space;
    message.msg_controllen = sizeof room.space;
    fds[0] = fds[1] = -1;
    do
        n = recvmsg(queue, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    for (beside = CMSG_FIRSTHDR(&message); beside; beside = CMSG_NXTHDR(&message, beside))
        if (beside->cmsg_level == SOL_SOCKET && (beside->cmsg_type == SCM_RIGHTS || beside->cmsg_type == PARCEL_PIDFD))
            parcel_take(beside, fds, beside->cmsg_type == SCM_RIGHTS ? PARCEL_FDS : 0);
    if (n == 0 && message.msg_controllen == 0) {   /* an empty message, or the end */
        struct pollfd end = {queue, POLLRDHUP, 0};
        if (poll(&end, 1, 0) > 0)
            return -EPIPE;
    }
    return n;
}

/* Makes what came a connection that cannot keep us waiting: whoever sent it may have left it in any state. 0: it is not
 * one. */
static inline int parcel_is_connection(int fd)
{
    struct linger none = {0, 0};
    socklen_t size = sizeof(int);
    int type, listens, flags;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM)
        return 0;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) || listens)   /* a shutdown would end it for all */
        return 0;
    flags = fcntl(fd, F_GETFL);
    return flags >= 0 && !fcntl(fd, F_SETFL, flags | O_NONBLOCK) &&
           !setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

/* Is that file there as far as that? */
static inline int parcel_is_body(int fd, uint64_t size)
{
    struct stat about;
    return !fstat(fd, &about) && S_ISREG(about.st_mode) && (uint64_t)about.st_size >= size;
}

#endif
