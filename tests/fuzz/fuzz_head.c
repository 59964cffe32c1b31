/* libFuzzer target: any bytes as a request head. The answer must not depend on how they arrive, nothing may be read
 * beyond them (each piece has an allocation of its exact size, for AddressSanitizer), and an accepted head must be as
 * promised. */
#include <stdlib.h>
#include <string.h>

#include "h1_grammar.h"
#include "http1.h"
#include "octets.h"

#define CHECK(condition) ((condition) ? (void)0 : abort())

/* One call with the beginning of the data, in memory of just that size. */
static int32_t feed(h1_head *head, const uint8_t *data, size_t length, const h1_limits *limits) {
    uint8_t *copy = malloc(length ? length : 1);
    CHECK(copy);
    memcpy(copy, data, length);
    const int32_t answer = h1_parse_head(head, copy, length, limits);
    free(copy);
    return answer;
}

static void check_same(const h1_head *one, const h1_head *other) {
    CHECK(one->error == other->error && one->phase == other->phase && one->position == other->position);
    if (one->error || one->phase < H1_PHASE_FIELDS)
        return; /* what was understood of a faulty head or an unfinished request line is nobody's business */
    CHECK(!memcmp(one, other, offsetof(h1_head, fields)));
    CHECK(!memcmp(one->fields, other->fields, one->field_count * sizeof one->fields[0]));
}

static void check_span(h1_span span, uint32_t end, const uint8_t *data, uint8_t class) {
    CHECK(span.offset <= end && span.length <= end - span.offset);
    for (uint32_t i = 0; i < span.length; i++)
        CHECK(h1_class[data[span.offset + i]] & class);
}

/* A path or a query has no byte that its class does not have, but "%" and, if permitted, those above 0x7f. */
static void check_part(h1_span span, const uint8_t *data, uint8_t class, const h1_limits *limits) {
    for (uint32_t i = 0; i < span.length; i++) {
        const uint8_t byte = data[span.offset + i];
        CHECK(h1_class[byte] & class || byte == '%' || (byte > 0x7f && limits->raw_target));
    }
}

/* No path decodes to a NUL: environ.pyx decodes it so. */
static void check_decoded(h1_span span, const uint8_t *data) {
    char *decoded = malloc(span.length ? span.length : 1);
    CHECK(decoded);
    const size_t length = octets_unquote(decoded, (const char *)data + span.offset, span.length);
    CHECK(length <= span.length && !memchr(decoded, 0, length));
    free(decoded);
}

/* What http1.h promises about a complete head. */
static void check_head(const h1_head *head, const uint8_t *data, uint32_t end, const h1_limits *limits) {
    CHECK(end >= 4 && !memcmp(data + end - 4, "\r\n\r\n", 4));
    CHECK(head->method.length && head->method.length <= H1_MAX_METHOD);
    check_span(head->method, end, data, H1_TCHAR);
    check_span(head->target, end, data, H1_VALUE);
    check_span(head->path, end, data, H1_VALUE);
    check_span(head->query, end, data, H1_VALUE);
    check_part(head->path, data, H1_PATH, limits);
    check_part(head->query, data, H1_QUERY, limits);
    check_decoded(head->path, data);
    check_span(head->host, end, data, H1_AUTHORITY);
    CHECK(head->host.length || head->minor_version == 0);
    CHECK(!(head->chunked && head->has_content_length));
    CHECK(head->content_length <= INT64_MAX);
    CHECK(head->field_count <= H1_MAX_FIELDS);
    for (uint32_t i = 0; i < head->field_count; i++) {
        const h1_field *field = &head->fields[i];
        CHECK(field->name.length);
        check_span(field->name, end, data, H1_TCHAR);
        check_span(field->value, end, data, H1_VALUE);
        CHECK(field->known == H1_UNKNOWN || field->known < H1_KNOWN_FIELDS);
    }
}

/* A memory changes no answer, whatever all inputs before have left in it: the first time it may know nothing of these
 * field lines, the second time it has seen them, the third time it has kept them. */
static void check_memory(const h1_head *plain, const uint8_t *data, size_t size, const h1_limits *limits,
                         h1_memory *memory) {
    static h1_head familiar;
    for (int time = 0; time < 3; time++) {
        h1_head_init(&familiar);
        uint8_t *copy = malloc(size ? size : 1);
        CHECK(copy);
        memcpy(copy, data, size);
        const int32_t answer = h1_parse_familiar(&familiar, copy, size, limits, memory);
        free(copy);
        CHECK(answer == (plain->error ? plain->error : plain->phase == H1_PHASE_DONE ? (int32_t)plain->position : H1_MORE));
        const uint64_t lines = familiar.lines;
        familiar.lines = 0;
        check_same(plain, &familiar);
        const bool remembered = answer > 0 && plain->target_form != H1_TARGET_ABSOLUTE &&
                                plain->field_count <= H1_MEMORY_FIELDS && size <= H1_MEMORY_BYTES;
        CHECK(time == 0 || lines || !remembered);
    }
}

static void check_limits(const uint8_t *data, size_t size, const h1_limits *limits, h1_memory *memory) {
    static h1_head whole, halves, bytes;
    h1_head_init(&whole);
    h1_head_init(&halves);
    h1_head_init(&bytes);
    const int32_t answer = feed(&whole, data, size, limits);
    CHECK(answer <= 0 || (size_t)answer <= size);
    CHECK(answer >= 0 || h1_error_name(answer));
    if (answer > 0)
        check_head(&whole, data, (uint32_t)answer, limits);

    check_memory(&whole, data, size, limits, memory);

    /* in two: where, the data decides */
    feed(&halves, data, size ? (size * 7 + data[size / 2]) % size : 0, limits);
    CHECK(feed(&halves, data, size, limits) == answer);
    check_same(&whole, &halves);

    /* byte by byte, and complete no earlier than with its last byte */
    int32_t last = H1_MORE;
    size_t length = 0;
    while (length < size && last == H1_MORE)
        last = feed(&bytes, data, ++length, limits);
    CHECK(last == answer);
    CHECK(answer <= 0 || length == (size_t)answer);
    check_same(&whole, &bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const h1_limits usual = {.line = 8190, .fields = 100, .field_size = 8190, .head = 65536};
    static const h1_limits raw = {.line = 8190, .fields = 100, .field_size = 8190, .head = 65536, .raw_target = 1};
    static const h1_limits tight = {.line = 40, .fields = 3, .field_size = 30, .head = 100};
    static h1_memory usual_memory, raw_memory, tight_memory;
    check_limits(data, size, &usual, &usual_memory);
    check_limits(data, size, &raw, &raw_memory);
    check_limits(data, size, &tight, &tight_memory);
    return 0;
}
