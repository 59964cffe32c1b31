/* A connection on its way between two processes: one datagram, with the descriptor beside it (SCM_RIGHTS). */
#ifndef PYSERVE_PARCEL_H
#define PYSERVE_PARCEL_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define PARCEL_FORMAT 0x50533031u   /* another one for another layout: generations can have different versions of us */
#define PARCEL_BYTES 16384          /* of requests that travel along */

/* In front of those bytes. Both ends are on one machine: its own byte order, and its own CLOCK_MONOTONIC. */
typedef struct {
    uint32_t format;
    uint16_t listener;    /* which of the server's it came in by, in their order */
    uint16_t port;        /* of the client */
    uint64_t since;       /* ns: when it began to idle, or its head to arrive */
    uint8_t idle;
    uint8_t host_length;  /* 0: the client of a unix socket */
    char host[46];
} parcel_label;

typedef struct {
    parcel_label label;
    char bytes[PARCEL_BYTES];
} parcel;

/* 0, or errno: EAGAIN, the queue is full; ETOOMANYREFS, too many descriptors are on their way. */
static inline int parcel_send(int queue, int fd, const parcel_label *label, const void *bytes, size_t size)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec parts[2] = {{(void *)(uintptr_t)label, sizeof *label}, {(void *)(uintptr_t)bytes, size}};
    struct msghdr message;
    ssize_t n;
    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    message.msg_iov = parts;
    message.msg_iovlen = size ? 2 : 1;
    message.msg_control = control.space;
    message.msg_controllen = sizeof control.space;
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    do
        n = sendmsg(queue, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? errno : 0;
}

/* How many bytes came, the label included, or -errno. `fd` is -1 if the kernel could not give us the descriptor. */
static inline ssize_t parcel_receive(int queue, void *data, size_t size, int *fd)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {data, size};
    struct msghdr message;
    struct cmsghdr *beside;
    ssize_t n;
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.space;
    message.msg_controllen = sizeof control.space;
    *fd = -1;
    do
        n = recvmsg(queue, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    beside = CMSG_FIRSTHDR(&message);
    if (beside && beside->cmsg_level == SOL_SOCKET && beside->cmsg_type == SCM_RIGHTS && !(message.msg_flags & MSG_CTRUNC))
        memcpy(fd, CMSG_DATA(beside), sizeof *fd);
    return n;
}

#endif
