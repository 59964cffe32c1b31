/* What the parser's sources share and nobody else may use: small pure helpers, and the judging of field values. */
#ifndef PYSERVE_H1_GRAMMAR_H
#define PYSERVE_H1_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "h1_tables.h"
#include "http1.h"

/* RFC 9110 5.6.3: OWS = *( SP / HTAB ) */
static inline bool h1_is_space(uint8_t byte) { return byte == ' ' || byte == '\t'; }

static inline bool h1_is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

/* A-Z to a-z, nothing else. */
static inline uint8_t h1_lower(uint8_t byte) { return (uint8_t)(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte); }

/* The value of a HEXDIG; the caller has checked that it is one. */
static inline uint8_t h1_hex_value(uint8_t byte) {
    return (uint8_t)(h1_is_digit(byte) ? byte - '0' : h1_lower(byte) - 'a' + 10);
}

/* Whether bytes, any case, are the lower-case text. */
static inline bool h1_equals(const uint8_t *bytes, size_t length, const char *text, size_t text_length) {
    if (length != text_length)
        return false;
    for (size_t i = 0; i < length; i++)
        if (h1_lower(bytes[i]) != (uint8_t)text[i])
            return false;
    return true;
}

/* *value = *value * base + digit; false if that is beyond INT64_MAX. The one place where numbers from the wire grow. */
static inline bool h1_append_digit(uint64_t *value, uint64_t base, uint8_t digit) {
    if (*value > ((uint64_t)INT64_MAX - digit) / base)
        return false;
    *value = *value * base + digit;
    return true;
}

/* bits of h1_head.seen */
enum {
    H1_SEEN_HOST = 1,
    H1_SEEN_CONTENT_LENGTH = 2,
    H1_SEEN_TRANSFER_ENCODING = 4,
    H1_SEEN_CONTENT_TYPE = 8,
    H1_SEEN_UPGRADE = 16,
    H1_SEEN_CONNECTION_CLOSE = 32,
    H1_SEEN_CONNECTION_KEEP_ALIVE = 64,
    H1_SEEN_CONNECTION_UPGRADE = 128,
};

/* h1_parse_head(), but for what comes once head->phase is `phase`. */
int32_t h1_parse_until(uint32_t phase, h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits);

/* Whether bytes are uri-host [ ":" port ] with a host that is not empty. */
bool h1_is_authority(const uint8_t *bytes, size_t length);

/* Note what a finished field line says about framing; 0 or an error. */
int32_t h1_judge_field(h1_head *head, const uint8_t *buffer, const h1_field *field);

/* At the end of the head: what the fields say together; 0 or an error. */
int32_t h1_judge_head(h1_head *head);

#endif
