/* libFuzzer target: any bytes as a chunked body. The outcome must not depend on how they arrive, and a body that is
 * accepted must be the one that the simplest reading of the same bytes finds. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "http1.h"

#define CHECK(condition) ((condition) ? (void)0 : abort())

typedef struct {
    uint8_t *data; /* room for the whole input */
    size_t length;
    size_t consumed;
    int32_t answer;
} body;

/* One call with the data from `body->consumed` to `end`, in memory of just that size. */
static void feed(h1_chunked *state, body *body, const uint8_t *data, size_t end) {
    const size_t size = end - body->consumed;
    uint8_t *copy = malloc(size ? size : 1);
    CHECK(copy);
    memcpy(copy, data + body->consumed, size);
    size_t consumed = 0, produced = 0;
    body->answer = h1_decode_chunked(state, copy, size, &consumed, &produced);
    CHECK(produced <= consumed && consumed <= size);
    CHECK(body->answer != H1_MORE || consumed == size);
    memcpy(body->data + body->length, copy, produced);
    body->length += produced;
    body->consumed += consumed;
    free(copy);
}

/* Everything in pieces of `step` bytes. */
static body decode(const uint8_t *data, size_t size, size_t step) {
    h1_chunked state;
    h1_chunked_init(&state);
    body found = {.data = malloc(size ? size : 1)};
    CHECK(found.data);
    while (found.answer == H1_MORE && found.consumed < size)
        feed(&state, &found, data, size - found.consumed > step ? found.consumed + step : size);
    return found;
}

static size_t after_line(const uint8_t *data, size_t at) {
    while (data[at] != '\n')
        at++;
    return at + 1;
}

/* The plain twin, right only for bodies that are known to be well-formed. */
static void check_simple_reading(const body *found, const uint8_t *data) {
    size_t at = 0, length = 0;
    for (;;) {
        const size_t size = strtoull((const char *)data + at, NULL, 16);
        at = after_line(data, at);
        if (size == 0)
            break;
        CHECK(length + size <= found->length && !memcmp(found->data + length, data + at, size));
        length += size;
        at += size + 2;
    }
    while (data[at] != '\r')
        at = after_line(data, at);
    CHECK(at + 2 == found->consumed && length == found->length);
}

static void check_same(const body *one, const body *other) {
    CHECK(one->answer == other->answer && one->consumed == other->consumed && one->length == other->length);
    CHECK(!memcmp(one->data, other->data, one->length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    body whole = decode(data, size, size);
    body pieces = decode(data, size, 1 + (size ? data[size / 2] % 16u : 0));
    body bytes = decode(data, size, 1);
    check_same(&whole, &pieces);
    check_same(&whole, &bytes);
    CHECK(whole.answer >= 0 || h1_error_name(whole.answer));
    if (whole.answer == H1_CHUNKED_DONE)
        check_simple_reading(&whole, data);
    free(whole.data);
    free(pieces.data);
    free(bytes.data);
    return 0;
}
