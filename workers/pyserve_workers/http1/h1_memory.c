/* Field lines that come again. A client mostly sends the same ones with each request, byte for byte, and what was made
 * of them then holds now: the judgement of field lines depends on their bytes, the limits, the version, and whether the
 * target has an authority of its own. Heads of which the last is true are not remembered. */
#include <stdbool.h>
#include <string.h>

#include "h1_grammar.h"

/* Where lines of this length belong; `rest` is what has arrived behind the request line: mostly they and no more. */
static h1_lines *place_of(h1_memory *memory, size_t rest) { return &memory->places[rest % H1_MEMORY_PLACES]; }

static bool are_same(const h1_lines *lines, const h1_head *head, const uint8_t *bytes, size_t rest) {
    return lines->size && lines->size <= rest && lines->minor_version == head->minor_version &&
           !memcmp(lines->bytes, bytes, lines->size);
}

static int32_t recall(h1_head *head, const h1_lines *lines) {
    const uint32_t start = head->position;
    for (uint32_t i = 0; i < lines->field_count; i++) {
        head->fields[i] = lines->fields[i];
        head->fields[i].name.offset += start;
        head->fields[i].value.offset += start;
    }
    head->field_count = lines->field_count;
    if (lines->host.length)
        head->host = (h1_span){start + lines->host.offset, lines->host.length};
    head->keep_alive = lines->keep_alive;
    head->chunked = lines->chunked;
    head->expect_continue = lines->expect_continue;
    head->upgrade = lines->upgrade;
    head->has_content_length = lines->has_content_length;
    head->content_length = lines->content_length;
    head->seen = lines->seen;
    head->lines = lines->number;
    head->position = start + lines->size;
    head->phase = H1_PHASE_DONE;
    return (int32_t)head->position;
}

/* The lines have come for the first time: only their bytes are kept, which is cheap. */
static void note(h1_lines *lines, const h1_head *head, const uint8_t *bytes, uint32_t size) {
    lines->number = 0;
    lines->size = size;
    lines->minor_version = head->minor_version;
    memcpy(lines->bytes, bytes, size);
}

/* They have come again. */
static void keep(h1_memory *memory, h1_lines *lines, h1_head *head, uint32_t start) {
    for (uint32_t i = 0; i < head->field_count; i++) {
        lines->fields[i] = head->fields[i];
        lines->fields[i].name.offset -= start;
        lines->fields[i].value.offset -= start;
    }
    lines->field_count = head->field_count;
    lines->host = head->host;
    if (lines->host.length)
        lines->host.offset -= start;
    lines->keep_alive = head->keep_alive;
    lines->chunked = head->chunked;
    lines->expect_continue = head->expect_continue;
    lines->upgrade = head->upgrade;
    lines->has_content_length = head->has_content_length;
    lines->content_length = head->content_length;
    lines->seen = head->seen;
    memory->count++;
    lines->number = memory->count * H1_MEMORY_PLACES + (uint64_t)(lines - memory->places);
    head->lines = lines->number;
}

int32_t h1_parse_familiar(h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits,
                          h1_memory *memory) {
    if (head->phase >= H1_PHASE_FIELDS || head->error)
        return h1_parse_head(head, buffer, length, limits);
    int32_t answer = h1_parse_until(H1_PHASE_FIELDS, head, buffer, length, limits);
    if (answer <= 0)
        return answer;
    const uint32_t start = head->position;
    const size_t rest = length - start;
    h1_lines *lines = place_of(memory, rest);
    const bool same = head->target_form != H1_TARGET_ABSOLUTE && are_same(lines, head, buffer + start, rest);
    if (same && lines->number && start + lines->size <= limits->head)
        return recall(head, lines);
    answer = h1_parse_head(head, buffer, length, limits);
    if (answer <= 0 || head->target_form == H1_TARGET_ABSOLUTE)
        return answer;
    const uint32_t size = head->position - start;
    if (size > H1_MEMORY_BYTES || head->field_count > H1_MEMORY_FIELDS)
        return answer;
    if (same && lines->size == size)
        keep(memory, lines, head, start);
    else
        note(lines, head, buffer + start, size);
    return answer;
}
