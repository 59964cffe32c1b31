/* A monotonic clock, and dates written without strftime(), whose names follow the app's locale. */
#ifndef PYSERVE_CLOCK_H
#define PYSERVE_CLOCK_H

#include <stdint.h>
#include <string.h>
#include <time.h>

#define CLOCK_HTTP_DATE_LENGTH 29   /* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7) */
#define CLOCK_LOG_DATE_LENGTH 26    /* "06/Nov/1994:08:49:37 +0000" */
#define CLOCK_ISO_DATE_LENGTH 19    /* "1994-11-06T08:49:37" */

static const char clock_days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
static const char clock_months[12][4] = {
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
};

static inline uint64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_wall(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void clock_digits(char *out, int value, int width)
{
    while (width-- > 0) {
        out[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

static inline void clock_http_date(char *out, uint64_t wall_seconds)
{
    struct tm tm;
    time_t t = (time_t)wall_seconds;
    gmtime_r(&t, &tm);
    memcpy(out, "Sun, 06 Nov 1994 08:49:37 GMT", CLOCK_HTTP_DATE_LENGTH);
    memcpy(out, clock_days[tm.tm_wday], 3);
    clock_digits(out + 5, tm.tm_mday, 2);
    memcpy(out + 8, clock_months[tm.tm_mon], 3);
    clock_digits(out + 12, tm.tm_year + 1900, 4);
    clock_digits(out + 17, tm.tm_hour, 2);
    clock_digits(out + 20, tm.tm_min, 2);
    clock_digits(out + 23, tm.tm_sec, 2);
}

static inline void clock_log_date(char *out, uint64_t wall_seconds)
{
    struct tm tm;
    time_t t = (time_t)wall_seconds;
    long offset;
    localtime_r(&t, &tm);
    offset = tm.tm_gmtoff / 60;
    memcpy(out, "06/Nov/1994:08:49:37 +0000", CLOCK_LOG_DATE_LENGTH);
    clock_digits(out, tm.tm_mday, 2);
    memcpy(out + 3, clock_months[tm.tm_mon], 3);
    clock_digits(out + 7, tm.tm_year + 1900, 4);
    clock_digits(out + 12, tm.tm_hour, 2);
    clock_digits(out + 15, tm.tm_min, 2);
    clock_digits(out + 18, tm.tm_sec, 2);
    if (offset < 0) {
        out[21] = '-';
        offset = -offset;
    }
    clock_digits(out + 22, (int)(offset / 60), 2);
    clock_digits(out + 24, (int)(offset % 60), 2);
}

/* UTC, without the fraction and the zone, which the caller adds. */
static inline void clock_iso_date(char *out, uint64_t wall_seconds)
{
    struct tm tm;
    time_t t = (time_t)wall_seconds;
    gmtime_r(&t, &tm);
    memcpy(out, "1994-11-06T08:49:37", CLOCK_ISO_DATE_LENGTH);
    clock_digits(out, tm.tm_year + 1900, 4);
    clock_digits(out + 5, tm.tm_mon + 1, 2);
    clock_digits(out + 8, tm.tm_mday, 2);
    clock_digits(out + 11, tm.tm_hour, 2);
    clock_digits(out + 14, tm.tm_min, 2);
    clock_digits(out + 17, tm.tm_sec, 2);
}

#endif
