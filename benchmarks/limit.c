/* The least that a server can do: recv, find the end of the head, send a prepared response. One process, epoll.
 *
 *     limit PORT BODY_BYTES          answer every GET with so many bytes (13: "Hello, world!"); echo the body of a POST
 *     limit PORT BODY_BYTES close    and close the connection after each answer
 *
 * It is a measure, not a server: a request must arrive in one piece, and it parses nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, CONNECTIONS = 65536, REQUEST = 16384, HEAD = 256 };

static char *answer;            /* head and body */
static size_t head_size, body_size;
static size_t unsent[CONNECTIONS]; /* bytes of the answer that a full socket buffer has kept back */
static time_t dated;
static bool closing;
static int flags = MSG_NOSIGNAL;

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* The head carries the date, as an origin server's must; it changes once a second. */
static void write_head(size_t length) {
    char date[64];
    struct tm now;
    gmtime_r(&dated, &now);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &now);
    char head[HEAD];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nDate: %s\r\n%s\r\n",
                        length, date, closing ? "Connection: close\r\n" : "");
    head_size = (size_t)size;
    memcpy(answer + HEAD - head_size, head, head_size); /* it ends where the body begins */
}

static void watch(int epoll, int operation, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event) < 0)
        die("epoll_ctl");
}

/* Send what is left of the answer. False: the connection is gone. */
static bool flush(int epoll, int fd) {
    const char *end = answer + HEAD + body_size;
    while (unsent[fd] > 0) {
        ssize_t sent = send(fd, end - unsent[fd], unsent[fd], flags);
        if (sent < 0 && errno == EAGAIN) {
            watch(epoll, EPOLL_CTL_MOD, fd, EPOLLOUT);
            return true;
        }
        if (sent < 0)
            return false;
        unsent[fd] -= (size_t)sent;
    }
    return true;
}

/* Answer one request. False: the connection is to be closed. */
static bool serve(int epoll, int fd) {
    static char request[REQUEST];
    ssize_t got = recv(fd, request, sizeof request, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    const char *head_end = memmem(request, (size_t)got, "\r\n\r\n", 4);
    if (head_end == NULL)
        return false;
    if (request[0] == 'P') {
        body_size = (size_t)(request + got - head_end - 4);
        memcpy(answer + HEAD, head_end + 4, body_size);
        write_head(body_size);
    }
    unsent[fd] = head_size + body_size;
    return flush(epoll, fd) && !closing;
}

/* Where the connection is closed after its answer, what it has sent already is served without a word to epoll. */
static void accept_all(int epoll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd < CONNECTIONS) {
            unsent[fd] = 0;
            if (!closing || serve(epoll, fd)) {
                watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
                continue;
            }
        }
        close(fd);
    }
}

static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* its connections inherit it */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 2048) < 0)
        die("listen");
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: limit PORT BODY_BYTES [close]\n");
        return 2;
    }
    closing = argc == 4;
    if (closing)
        flags |= MSG_MORE; /* the answer and the FIN in one packet */
    body_size = strtoul(argv[2], NULL, 10);
    answer = malloc(HEAD + body_size + REQUEST);
    if (answer == NULL)
        die("malloc");
    memset(answer, 'x', HEAD + body_size + REQUEST);
    if (body_size == 13)
        memcpy(answer + HEAD, "Hello, world!", 13);
    int listener = listen_on(atoi(argv[1])), epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        if (time(NULL) != dated) {
            dated = time(NULL);
            write_head(body_size);
        }
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(epoll, listener);
            } else if (events[i].events & EPOLLOUT) {
                if (!flush(epoll, fd))
                    close(fd);
                else if (unsent[fd] == 0)
                    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
            } else if (!serve(epoll, fd)) {
                close(fd);
            }
        }
    }
}
