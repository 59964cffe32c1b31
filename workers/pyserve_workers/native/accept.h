/* Accepting, with the peer's address as text. */
#ifndef PYSERVE_ACCEPT_H
#define PYSERVE_ACCEPT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "accepting.h"

/* A new connection's descriptor, non-blocking and close-on-exec, or -1 with errno. `host` has room for INET6_ADDRSTRLEN
 * bytes; `port` is -1 for a unix socket, whose peer has no address. */
static inline int accept_peer(int listener, char *host, int *port)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int fd = accept_flagged(listener, (struct sockaddr *)&address, &size);
    if (fd < 0)
        return -1;
    *port = -1;
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &in->sin_addr, host, INET6_ADDRSTRLEN);
        *port = ntohs(in->sin_port);
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))   /* a listener on [::] that takes IPv4 too */
            inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, INET6_ADDRSTRLEN);
        else
            inet_ntop(AF_INET6, &in6->sin6_addr, host, INET6_ADDRSTRLEN);
        *port = ntohs(in6->sin6_port);
    }
    return fd;
}

#endif
