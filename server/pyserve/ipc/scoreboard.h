/* The scoreboard's slot: one per worker process, in memory shared by master and workers.
 *
 * The worker that owns a slot is its only writer and uses plain stores; the master and the admin process read.
 * Every counter is a 64-bit word, so that a reader never sees half of one. scoreboard.py has the same table,
 * and a test compares the two. Times are CLOCK_MONOTONIC nanoseconds.
 */
#ifndef PYSERVE_SCOREBOARD_H
#define PYSERVE_SCOREBOARD_H

#include <stdint.h>

#define PYSERVE_SLOT_SIZE 4096
#define PYSERVE_LATENCY_BUCKETS 24
#define PYSERVE_REQUEST_LINE 384
#define PYSERVE_REQUEST_LINES 8

typedef struct {
    uint64_t pid;            /* 0: the slot is free */
    uint64_t generation;
    uint64_t number;         /* the worker's number, as in its title */
    uint64_t state;          /* worker states of scoreboard.py */
    uint64_t heartbeat;      /* ns: last turn of the worker's loop */
    uint64_t request_start;  /* ns: when the request now in the app entered it; 0: none */
    uint64_t active;         /* requests in the app now */
    uint64_t connections;    /* open client connections */
    uint64_t requests;       /* responses finished, errors included */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t status[5];      /* responses of class 1xx, 2xx, 3xx, 4xx, 5xx */
    uint64_t cut;            /* requests that got no complete response: the worker ended or the app failed in the middle */
    uint64_t siblings;       /* other workers that there are; written by the master */
    uint64_t rss;            /* bytes; written by the master */
    uint64_t latency_sum;    /* ns, over all requests that reached the app */
    uint64_t latency[PYSERVE_LATENCY_BUCKETS]; /* bucket i: requests that took < 2^i * 64 us; the last one takes the rest */
    uint64_t queued;         /* complete requests that wait for a thread now */
    uint64_t queue_waits;    /* requests that have waited for one */
    uint64_t queue_time;     /* ns: how long they did, in all */
    uint64_t takers;         /* other workers that may take connections from the hand-off queue; written by the master */
    uint64_t gate;           /* not 0: nothing may enter the app, in the epoch of this number; written by the master, the responder's by itself */
    uint64_t spooled;        /* bytes of bodies and responses that are in temporary files now */
    /* The lines of the requests in the app, of those that entered it last: "GET /path", cut to fit, as received. A worker
     * that runs one at a time has the first place for its current or last one, and does not write request_since. */
    uint64_t request_since[PYSERVE_REQUEST_LINES];        /* ns: when it entered the app; 0: the place is free */
    uint64_t request_line_length[PYSERVE_REQUEST_LINES];  /* 0: the place is free */
    char request_line[PYSERVE_REQUEST_LINES][PYSERVE_REQUEST_LINE];
} pyserve_slot;

_Static_assert(sizeof(pyserve_slot) <= PYSERVE_SLOT_SIZE, "a slot must fit its place");

#endif
