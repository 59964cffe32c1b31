from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "http1.h" nogil:
    int H1_MORE
    int H1_CHUNKED_DONE
    int H1_TARGET_ABSOLUTE
    int H1_TARGET_ASTERISK
    int H1_PHASE_FIELDS
    int H1_PHASE_REQUEST_LINE
    uint32_t H1_UNKNOWN
    uint32_t H1_FIELD_HAS_UNDERSCORE
    int H1_KNOWN_FIELDS
    int H1_MAX_FIELDS
    int H1_MAX_METHOD
    int H1_MAX_CHUNK_EXTENSIONS
    int H1_MAX_TRAILER_BYTES
    int H1_MAX_TRAILERS
    int H1_FIELD_HOST
    int H1_FIELD_CONTENT_LENGTH
    int H1_FIELD_TRANSFER_ENCODING
    int H1_FIELD_COOKIE
    int H1_FIELD_PROXY
    int H1_FIELD_X_FORWARDED_PROTO
    int H1_FIELD_REFERER
    int H1_FIELD_USER_AGENT
    int H1_FIELD_AUTHORIZATION

    ctypedef struct h1_known_field:
        const char *name
        uint8_t name_length
        uint8_t forbidden_in_trailers
        const char *environ_key
        uint8_t environ_key_length
    const h1_known_field *h1_known_fields
    uint32_t h1_known_index(const uint8_t *name, size_t length)

    ctypedef struct h1_span:
        uint32_t offset
        uint32_t length

    ctypedef struct h1_field:
        h1_span name
        h1_span value
        uint32_t known
        uint32_t flags

    ctypedef struct h1_limits:
        uint32_t line
        uint32_t fields
        uint32_t field_size
        uint32_t head
        uint32_t raw_target

    ctypedef struct h1_head:
        h1_span method
        h1_span target
        h1_span path
        h1_span query
        h1_span host
        uint8_t target_form
        uint8_t target_https
        uint8_t has_query
        uint8_t minor_version
        uint8_t keep_alive
        uint8_t chunked
        uint8_t expect_continue
        uint8_t upgrade
        uint8_t has_content_length
        uint64_t content_length
        uint32_t field_count
        uint64_t lines
        uint32_t position
        uint32_t phase
        h1_field *fields

    int H1_MEMORY_PLACES

    ctypedef struct h1_memory:
        uint64_t count

    ctypedef struct h1_chunked:
        uint64_t remaining

    void h1_head_init(h1_head *head)
    int32_t h1_parse_head(h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits)
    int32_t h1_parse_familiar(
        h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits, h1_memory *memory
    )
    void h1_chunked_init(h1_chunked *state)
    int32_t h1_decode_chunked(h1_chunked *state, uint8_t *buffer, size_t length, size_t *consumed, size_t *produced)
    int h1_status(int error)
    const char *h1_reason(int error)
    const char *h1_error_name(int error)
