/* HTTP/1.1 request parser: plain C17, no Python, no allocation, no I/O, nothing global that varies.
 *
 * Sources: http1.c (head), h1_values.c (fields that decide about framing), h1_memory.c (field lines that come again),
 * h1_chunked.c (body); link all of them.
 *
 * The head
 * --------
 * The caller owns a buffer that holds the bytes of one connection in order. It calls h1_head_init() once per
 * request, and h1_parse_head() each time more bytes have arrived after the *same* contents (the buffer may have
 * moved: spans are offsets from its start, not pointers). The answer is
 *
 *     > 0         the head is complete: that many bytes from the start of the buffer belong to it, head is filled in;
 *     H1_MORE     the bytes so far are the beginning of a valid head: call again with more;
 *     < 0         an h1_error: refuse the request with h1_status(error), log h1_reason(error), close the connection.
 *                 Final: further calls answer the same.
 *
 * The answer depends only on the bytes, never on how they were split over calls, and the first fault from the left
 * decides: grammar and limits where they are met, each framing field at the end of its line, relations between
 * fields at the end of the head. A faulty byte is refused when it arrives; no later byte is waited for. Bytes after
 * the head are not looked at. A call costs time in proportion to the new bytes and the one unfinished line; finished
 * lines are not read again.
 *
 * After an answer > 0: fields[0..field_count) hold every field in order of arrival, spans included for those that
 * the parser itself has understood. Names keep their case. Values have no surrounding whitespace and no byte below
 * 0x20 but HTAB, and no 0x7f.
 *
 * The chunked body
 * ----------------
 * See h1_decode_chunked() below.
 */
#ifndef PYSERVE_HTTP1_H
#define PYSERVE_HTTP1_H

#include <stddef.h>
#include <stdint.h>

#include "h1_fields.h" /* H1_FIELD_HOST and so on, H1_KNOWN_FIELDS: indexes into h1_known_fields[] */

#define H1_MAX_FIELDS 256
#define H1_MAX_METHOD 32 /* longer than any registered method */
#define H1_UNKNOWN UINT32_MAX

/* ---- errors ---- */

/* Every error: X(number, NAME, status, what was wrong). The numbers are stable; 9 was PERCENT. */
#define H1_ERRORS(X)                                                                                  \
    X(1, METHOD, 400, "the method is not a token followed by one space")                              \
    X(2, TARGET, 400, "the request target is malformed")                                              \
    X(3, VERSION, 400, "the HTTP version is missing or malformed")                                    \
    X(4, LINE_TOO_LONG, 414, "the request line is too long")                                          \
    X(5, BARE_LF, 400, "a line ends in LF without CR")                                                \
    X(6, BARE_CR, 400, "CR without LF")                                                               \
    X(7, METHOD_TOO_LONG, 400, "the method is too long")                                              \
    X(8, CONNECT, 501, "CONNECT is for proxies")                                                      \
    X(10, PERCENT_NUL, 400, "the path contains %00")                                                  \
    X(11, USERINFO, 400, "the request target contains user information")                              \
    X(12, UNSUPPORTED_VERSION, 505, "the HTTP version is not 1.0 or 1.1")                             \
    X(13, FIELD_NAME, 400, "a field name is empty or has a byte that is not allowed there")           \
    X(14, FIELD_COLON, 400, "a field line without a colon")                                           \
    X(15, FIELD_SPACE, 400, "whitespace between a field name and the colon")                          \
    X(16, FIELD_FOLD, 400, "a field line begins with whitespace (line folding)")                      \
    X(17, FIELD_VALUE, 400, "a control character in a field value")                                   \
    X(18, FIELD_TOO_LONG, 431, "a field line is too long")                                            \
    X(19, TOO_MANY_FIELDS, 431, "too many fields")                                                    \
    X(20, HEAD_TOO_LARGE, 431, "the request head is too large")                                       \
    X(21, FIELD_UNDERSCORE, 400, "a field name imitates Content-Length or Transfer-Encoding with _")  \
    X(22, FIELD_REPEATED, 400, "a field that may appear only once is repeated")                       \
    X(23, HOST_MISSING, 400, "HTTP/1.1 without Host")                                                 \
    X(24, HOST, 400, "Host, or the authority in the request target, is not a host and port")          \
    X(25, CONTENT_LENGTH, 400, "Content-Length is not a number")                                      \
    X(26, CONTENT_LENGTH_HUGE, 400, "Content-Length is beyond 2^63-1")                                \
    X(27, TRANSFER_ENCODING, 400, "Transfer-Encoding is not chunked")                                 \
    X(28, TRANSFER_CODING, 501, "Transfer-Encoding names a coding besides chunked")                   \
    X(29, TRANSFER_VERSION, 400, "Transfer-Encoding with HTTP/1.0")                                   \
    X(30, LENGTH_CONFLICT, 400, "Transfer-Encoding together with Content-Length")                     \
    X(31, EXPECT, 417, "an expectation other than 100-continue")                                      \
    X(32, CHUNK_SIZE, 400, "a chunk size is not a hexadecimal number")                                \
    X(33, CHUNK_HUGE, 400, "a chunk size has more than 16 digits or is beyond 2^63-1")                \
    X(34, CHUNK_EXTENSION, 400, "a chunk extension is malformed")                                     \
    X(35, CHUNK_EXTENSIONS_TOO_LARGE, 400, "too many bytes of chunk extensions")                      \
    X(36, CHUNK_END, 400, "chunk data is not followed by CRLF")                                       \
    X(37, TRAILER_FORBIDDEN, 400, "a field of framing, routing or authentication among the trailers") \
    X(38, TRAILERS_TOO_LARGE, 431, "too many or too large trailer fields")                            \
    X(39, TARGET_RAW, 400,                                                                            \
      "a byte above 0x7f in the request target: percent-encode it, or set permit_raw_target")

typedef enum {
    H1_MORE = 0,
#define H1_ERROR_ENUM(number, name, status, reason) H1_ERR_##name = -(number),
    H1_ERRORS(H1_ERROR_ENUM)
#undef H1_ERROR_ENUM
} h1_error;

int h1_status(int error);             /* the response status for an error; 500 for a number that is none */
const char *h1_reason(int error);     /* one phrase for the log; never NULL */
const char *h1_error_name(int error); /* "BARE_LF"; NULL for a number that is none */

/* ---- field names ---- */

typedef struct {
    const char *name; /* lower case */
    uint8_t name_length;
    uint8_t forbidden_in_trailers;
    const char *environ_key; /* "HTTP_HOST", "CONTENT_TYPE" */
    uint8_t environ_key_length;
} h1_known_field;

extern const h1_known_field h1_known_fields[H1_KNOWN_FIELDS];

/* The index of a field name, any case, in h1_known_fields, or H1_UNKNOWN. `name` must consist of tchar. */
uint32_t h1_known_index(const uint8_t *name, size_t length);

/* ---- the head ---- */

typedef struct {
    uint32_t offset;
    uint32_t length;
} h1_span;

/* A name with '_' would become the same environ key as the name with '-', which a proxy in front may have checked or
 * set: such fields must be left out of the environ (those that imitate a framing field are refused by the parser). */
#define H1_FIELD_HAS_UNDERSCORE 1u

typedef struct {
    h1_span name;
    h1_span value;  /* without leading and trailing whitespace */
    uint32_t known; /* index into h1_known_fields, or H1_UNKNOWN */
    uint32_t flags; /* H1_FIELD_HAS_UNDERSCORE */
} h1_field;

typedef struct {
    uint32_t line;       /* request line, bytes without CRLF */
    uint32_t fields;     /* number of field lines; more than H1_MAX_FIELDS means H1_MAX_FIELDS */
    uint32_t field_size; /* one field line, bytes without CRLF */
    uint32_t head;       /* the whole head, bytes, with the empty lines before and after it */
    uint32_t raw_target; /* no number: may the target's path and query have bytes above 0x7f? */
} h1_limits;

typedef enum {
    H1_TARGET_ORIGIN,   /* /path?query */
    H1_TARGET_ABSOLUTE, /* http://host/path?query: the authority overrides Host */
    H1_TARGET_ASTERISK, /* OPTIONS */
} h1_target_form;

typedef enum {
    H1_PHASE_START,        /* not even the empty line that may precede a request line has been read */
    H1_PHASE_REQUEST_LINE, /* that empty line has been read; position is 2 */
    H1_PHASE_FIELDS,       /* the request line is finished: method, target, ... are valid */
    H1_PHASE_DONE,
} h1_phase;

typedef struct {
    /* results: those of the request line are valid from H1_PHASE_FIELDS, the rest when the head is complete */
    h1_span method;
    h1_span target; /* as received */
    h1_span path;   /* still percent-encoded; "*" for the asterisk form; empty for http://host (means "/") */
    h1_span query;  /* without the '?' */
    h1_span host;   /* host[:port], the target's authority or else Host's value; length 0 if none (HTTP/1.0) */
    uint8_t target_form;   /* h1_target_form */
    uint8_t target_https;  /* the absolute form's scheme is https */
    uint8_t has_query;     /* there is a '?', even if nothing follows */
    uint8_t minor_version; /* 0 or 1; HTTP/1.2 to 1.9 count as 1.1 (RFC 9110 2.5) */
    uint8_t keep_alive;    /* by version and Connection: the client will reuse the connection */
    uint8_t chunked;       /* Transfer-Encoding: chunked */
    uint8_t expect_continue; /* Expect: 100-continue in HTTP/1.1, whether or not a body is announced */
    uint8_t upgrade;         /* HTTP/1.1, Connection: upgrade and an Upgrade field */
    uint8_t has_content_length;
    uint64_t content_length; /* at most INT64_MAX */
    uint32_t field_count;
    uint64_t lines; /* by h1_parse_familiar(): heads with the same number have the same field lines; 0: nothing known */
    /* the parser's own */
    uint32_t position; /* start of the first unfinished line; the head's length when it is complete */
    uint32_t phase;    /* h1_phase */
    uint32_t seen;     /* bits of what has been met: see h1_values.c */
    int32_t error;     /* the answer, once it is negative */
    h1_field fields[H1_MAX_FIELDS];
} h1_head;

void h1_head_init(h1_head *head); /* cheap: does not touch fields[] */
int32_t h1_parse_head(h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits);

/* ---- field lines that come again ----
 *
 * h1_parse_familiar() answers as h1_parse_head() does, and remembers field lines: when a client sends the same bytes
 * again, they are compared rather than parsed. One memory serves any number of connections, always with the same
 * limits. head->lines lets the caller, too, use again what it has made of such lines: the number, modulo
 * H1_MEMORY_PLACES, is a place for that.
 */
#define H1_MEMORY_PLACES 8u
#define H1_MEMORY_BYTES 2048u /* longer ones, or more fields, are not remembered */
#define H1_MEMORY_FIELDS 32u

typedef struct {
    uint64_t number; /* 0: has come once so far, only size, minor_version and bytes are valid */
    uint32_t size;   /* bytes, with the empty line at the end; 0: the place is free */
    uint8_t minor_version;
    uint8_t keep_alive, chunked, expect_continue, upgrade, has_content_length; /* these as in h1_head */
    uint64_t content_length;
    h1_span host;
    uint32_t seen;
    uint32_t field_count;
    h1_field fields[H1_MEMORY_FIELDS]; /* spans count from the first line */
    uint8_t bytes[H1_MEMORY_BYTES];
} h1_lines;

typedef struct {
    uint64_t count;
    h1_lines places[H1_MEMORY_PLACES];
} h1_memory; /* all zero: nothing is remembered */

int32_t h1_parse_familiar(h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits,
                          h1_memory *memory);

/* ---- the chunked body ----
 *
 * h1_chunked_init() once per body; h1_decode_chunked() with each piece of it, in order and without gaps:
 *
 *     H1_CHUNKED_DONE  the body has ended; *consumed may be less than length: what follows belongs to the next request;
 *     H1_MORE          every byte was consumed (*consumed == length): call again with the bytes that follow;
 *     < 0              an h1_error; final. *consumed and *produced tell how far it came.
 *
 * It decodes in place: the body bytes of this piece are in buffer[0..*produced), and *produced <= *consumed. Nothing
 * of the piece needs to be kept for the next call. Chunk extensions and trailer fields are checked, bounded and
 * dropped.
 */
#define H1_CHUNKED_DONE 1
#define H1_MAX_CHUNK_EXTENSIONS 16384u /* bytes of extensions in one body (CVE-2024-21647: endless extensions) */
#define H1_MAX_TRAILER_BYTES 8192u     /* bytes of the whole trailer section */
#define H1_MAX_TRAILERS 64u            /* trailer fields */

typedef struct {
    uint64_t remaining; /* of the chunk, bytes still to come; while its size is being read, at least so many */
    uint32_t phase;
    uint32_t digits;          /* of the chunk size */
    uint32_t extension_bytes; /* of the whole body */
    uint32_t trailer_bytes;
    uint32_t trailers;
    uint32_t name_length; /* of the trailer field being read */
    int32_t error;
    uint8_t name[40]; /* its first bytes, '_' as '-' */
} h1_chunked;

void h1_chunked_init(h1_chunked *state);
int32_t h1_decode_chunked(h1_chunked *state, uint8_t *buffer, size_t length, size_t *consumed, size_t *produced);

#endif
