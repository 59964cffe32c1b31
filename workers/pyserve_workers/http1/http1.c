/* The request head: lines, the request line's three parts, field lines. The contract is in http1.h; what the values
 * of framing fields mean is in h1_values.c.
 *
 * Every scan_ function takes the offset of the first byte it has to read and answers as h1_parse_head() does: > 0
 * the offset after what it has read (never 0: something precedes it or it reads something), H1_MORE, or an error. */
#include "http1.h"

#include <string.h>

#include "h1_grammar.h"
#include "h1_known.h"

/* ---- errors ---- */

typedef struct {
    int status;
    const char *name;
    const char *reason;
} error_text;

static const error_text error_texts[] = {
#define ERROR_TEXT(number, name, status, reason) [number] = {status, #name, reason},
    H1_ERRORS(ERROR_TEXT)
#undef ERROR_TEXT
};

static const error_text *find_error(int error) {
    const int count = (int)(sizeof error_texts / sizeof error_texts[0]);
    return error < 0 && error > -count && error_texts[-error].name ? &error_texts[-error] : NULL;
}

int h1_status(int error) {
    const error_text *text = find_error(error);
    return text ? text->status : 500;
}

const char *h1_reason(int error) {
    const error_text *text = find_error(error);
    return text ? text->reason : "an unknown parser error";
}

const char *h1_error_name(int error) {
    const error_text *text = find_error(error);
    return text ? text->name : NULL;
}

/* ---- field names ---- */

/* tools/h1_tables.py chooses hash_factors so that no two known names share a slot. OR-ing 0x20 lower-cases a letter
 * and changes no digit and no '-'; what it does to other tchar only leads to a slot where the comparison fails. */
static uint32_t known_slot(const uint8_t *name, size_t length) {
    return (hash_factors[0] * (uint32_t)length + hash_factors[1] * (name[0] | 0x20u) +
            hash_factors[2] * (name[length / 2] | 0x20u) + hash_factors[3] * (name[length - 2] | 0x20u)) %
           HASH_SLOTS;
}

static uint64_t eight_bytes(const void *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* h1_equals() for a name of tchar and a known one, which consists of letters, digits and '-': no other tchar becomes
 * one of these by OR-ing 0x20. Eight bytes a step, the last eight perhaps once more. */
static bool same_name(const uint8_t *name, const char *known, size_t length) {
    const uint64_t fold = 0x2020202020202020u;
    if (length < 8)
        return h1_equals(name, length, known, length);
    for (size_t i = 0; i + 8 < length; i += 8)
        if ((eight_bytes(name + i) | fold) != eight_bytes(known + i))
            return false;
    return (eight_bytes(name + length - 8) | fold) == eight_bytes(known + length - 8);
}

uint32_t h1_known_index(const uint8_t *name, size_t length) {
    if (length < 2 || length > LONGEST_KNOWN)
        return H1_UNKNOWN;
    const uint32_t index = hash_slots[known_slot(name, length)];
    if (index == EMPTY_SLOT)
        return H1_UNKNOWN;
    const h1_known_field *field = &h1_known_fields[index];
    return length == field->name_length && same_name(name, field->name, length) ? index : H1_UNKNOWN;
}

/* ---- one line ---- */

typedef struct {
    const uint8_t *buffer;
    uint32_t end;     /* no byte of the head from here on: they have not come, or the head may not have them */
    uint32_t stop;    /* at most end: the line's CR must come before or here */
    int32_t at_end;   /* what reaching end means */
    int32_t too_long; /* what reaching stop before end means */
    uint32_t raw_target;
} line_scan;

static line_scan line_at(const h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits) {
    const uint32_t longest = head->phase == H1_PHASE_FIELDS ? limits->field_size : limits->line;
    const uint32_t largest = limits->head < INT32_MAX ? limits->head : INT32_MAX; /* offsets are answered as int32_t */
    line_scan line = {.buffer = buffer, .raw_target = limits->raw_target};
    line.end = length < largest ? (uint32_t)length : largest;
    line.stop = longest < line.end - head->position ? head->position + longest : line.end;
    /* An unfinished head that has all the bytes it may have will not be finished: do not wait for one more. */
    line.at_end = length < largest ? H1_MORE : H1_ERR_HEAD_TOO_LARGE;
    line.too_long = head->phase == H1_PHASE_FIELDS ? H1_ERR_FIELD_TOO_LONG : H1_ERR_LINE_TOO_LONG;
    return line;
}

/* The answer when a byte of the line was due at `at` and there is none to be had. */
static int32_t none_left(const line_scan *line, uint32_t at) { return at == line->end ? line->at_end : line->too_long; }

/* The answer for the byte at `at`, which does not continue what is being read; `error` says what that was. */
static int32_t refuse(const line_scan *line, uint32_t at, int32_t error) {
    if (at >= line->stop)
        return none_left(line, at);
    /* RFC 9112 2.2 lets a recipient take a lone LF for a line's end. This one does not: others disagree about it. */
    return line->buffer[at] == '\n' ? H1_ERR_BARE_LF : error;
}

/* CR LF; another byte is `error`. */
static int32_t scan_line_end(const line_scan *line, uint32_t at, int32_t error) {
    if (at == line->end)
        return line->at_end;
    if (line->buffer[at] != '\r')
        return refuse(line, at, error);
    if (at + 1 == line->end)
        return line->at_end;
    return line->buffer[at + 1] == '\n' ? (int32_t)(at + 2) : H1_ERR_BARE_CR;
}

/* Exactly this text; `fold` is 0x20 to take letters in any case, for texts of letters only. */
static int32_t scan_text(const line_scan *line, uint32_t at, const char *text, uint8_t fold, int32_t error) {
    for (; *text; text++, at++)
        if (at >= line->stop || (line->buffer[at] | fold) != (uint8_t)*text)
            return refuse(line, at, error);
    return (int32_t)at;
}

static h1_span span(uint32_t start, uint32_t end) { return (h1_span){start, end - start}; }

/* ---- the request line: RFC 9112 3: request-line = method SP request-target SP HTTP-version ---- */

/* RFC 9110 9.1: method = token */
static int32_t scan_method(h1_head *head, const line_scan *line, uint32_t at) {
    const uint32_t start = at;
    while (at < line->stop && h1_class[line->buffer[at]] & H1_TCHAR) {
        if (at - start == H1_MAX_METHOD)
            return H1_ERR_METHOD_TOO_LONG;
        at++;
    }
    if (at >= line->stop || at == start || line->buffer[at] != ' ')
        return refuse(line, at, H1_ERR_METHOD);
    head->method = span(start, at);
    return (int32_t)(at + 1);
}

static bool method_is(const h1_head *head, const line_scan *line, const char *name) {
    return head->method.length == strlen(name) && !memcmp(line->buffer + head->method.offset, name, strlen(name));
}

/* A path or a query, up to the first byte that is none of the class. A "%" that no two hex digits follow stands for
 * itself; as it is no hex digit either, each "%00", wherever it stands, is what decoding finds there. */
static int32_t scan_part(const line_scan *line, uint32_t at, uint8_t class) {
    const uint8_t *buffer = line->buffer;
    for (;; at++) {
        while (at < line->stop && h1_class[buffer[at]] & class)
            at++;
        if (at >= line->stop)
            return (int32_t)at;
        if (buffer[at] == '%') {
            /* RFC 3986 7.3: %00 should be rejected where raw data is not expected: the path is decoded for the app
             * and often names a file. */
            if (at + 2 < line->stop && buffer[at + 1] == '0' && buffer[at + 2] == '0')
                return H1_ERR_PERCENT_NUL;
        } else if (buffer[at] <= 0x7f) {
            return (int32_t)at;
        } else if (!line->raw_target) {
            return H1_ERR_TARGET_RAW;
        }
    }
}

/* RFC 9112 3.2.1: origin-form = absolute-path [ "?" query ]; the caller has seen the first byte: '/', '?' or ' '. */
static int32_t scan_path_and_query(h1_head *head, const line_scan *line, uint32_t at) {
    const int32_t path_end = scan_part(line, at, H1_PATH);
    if (path_end <= 0)
        return path_end;
    head->path = span(at, (uint32_t)path_end);
    head->query = span((uint32_t)path_end, (uint32_t)path_end);
    head->has_query = (uint32_t)path_end < line->stop && line->buffer[path_end] == '?';
    if (!head->has_query)
        return path_end;
    const uint32_t query = (uint32_t)path_end + 1;
    const int32_t query_end = scan_part(line, query, H1_QUERY);
    if (query_end > 0)
        head->query = span(query, (uint32_t)query_end);
    return query_end;
}

/* RFC 9112 3.2.4: asterisk-form = "*", only for OPTIONS */
static int32_t scan_asterisk(h1_head *head, const line_scan *line, uint32_t at) {
    if (!method_is(head, line, "OPTIONS"))
        return H1_ERR_TARGET;
    head->target_form = H1_TARGET_ASTERISK;
    head->path = span(at, at + 1);
    head->query = span(at + 1, at + 1);
    head->has_query = 0;
    return (int32_t)(at + 1);
}

/* RFC 9110 4.2: "http" [ "s" ] "://" authority; userinfo in it is refused (4.2.4). */
static int32_t scan_authority(h1_head *head, const line_scan *line, uint32_t at) {
    int32_t next = scan_text(line, at, "http", 0x20, H1_ERR_TARGET);
    if (next <= 0)
        return next;
    at = (uint32_t)next;
    head->target_https = at < line->stop && h1_lower(line->buffer[at]) == 's';
    next = scan_text(line, at + head->target_https, "://", 0, H1_ERR_TARGET);
    if (next <= 0)
        return next;
    const uint32_t start = at = (uint32_t)next;
    while (at < line->stop && h1_class[line->buffer[at]] & H1_AUTHORITY)
        at++;
    if (at >= line->stop)
        return none_left(line, at);
    if (line->buffer[at] == '@')
        return H1_ERR_USERINFO;
    if (!h1_is_authority(line->buffer + start, at - start))
        return refuse(line, at, H1_ERR_HOST);
    head->host = span(start, at);
    return (int32_t)at;
}

/* RFC 9112 3.2.2: absolute-form = absolute-URI */
static int32_t scan_absolute(h1_head *head, const line_scan *line, uint32_t at) {
    const int32_t next = scan_authority(head, line, at);
    if (next <= 0)
        return next;
    head->target_form = H1_TARGET_ABSOLUTE;
    const uint8_t first = line->buffer[next];
    if (first != '/' && first != '?' && first != ' ')
        return refuse(line, (uint32_t)next, H1_ERR_TARGET);
    return scan_path_and_query(head, line, (uint32_t)next);
}

/* RFC 9112 3.2: request-target, and the space after it. The authority form is CONNECT's and has been refused before. */
static int32_t scan_target(h1_head *head, const line_scan *line, uint32_t at) {
    if (at >= line->stop)
        return none_left(line, at);
    int32_t next;
    head->target_form = H1_TARGET_ORIGIN;
    if (line->buffer[at] == '/')
        next = scan_path_and_query(head, line, at);
    else if (line->buffer[at] == '*')
        next = scan_asterisk(head, line, at);
    else
        next = scan_absolute(head, line, at);
    if (next <= 0)
        return next;
    if ((uint32_t)next >= line->stop || line->buffer[next] != ' ')
        return refuse(line, (uint32_t)next, H1_ERR_TARGET);
    head->target = span(at, (uint32_t)next);
    return next + 1;
}

/* RFC 9112 2.3: HTTP-version = "HTTP" "/" DIGIT "." DIGIT, in upper case; and the end of the line. */
static int32_t scan_version(h1_head *head, const line_scan *line, uint32_t at) {
    const int32_t next = scan_text(line, at, "HTTP/", 0, H1_ERR_VERSION);
    if (next <= 0)
        return next;
    uint8_t part[3];
    for (uint32_t i = 0; i < 3; i++) {
        at = (uint32_t)next + i;
        if (at >= line->stop || !(i == 1 ? line->buffer[at] == '.' : h1_is_digit(line->buffer[at])))
            return refuse(line, at, H1_ERR_VERSION);
        part[i] = line->buffer[at];
    }
    const int32_t line_end = scan_line_end(line, at + 1, H1_ERR_VERSION);
    if (line_end > 0 && part[0] != '1')
        return H1_ERR_UNSUPPORTED_VERSION;
    head->minor_version = part[2] != '0';
    return line_end;
}

static int32_t request_line(h1_head *head, const line_scan *line) {
    int32_t next = scan_method(head, line, head->position);
    if (next > 0 && method_is(head, line, "CONNECT"))
        return H1_ERR_CONNECT;
    if (next > 0)
        next = scan_target(head, line, (uint32_t)next);
    if (next > 0)
        next = scan_version(head, line, (uint32_t)next);
    if (next > 0)
        head->phase = H1_PHASE_FIELDS;
    return next;
}

/* RFC 9112 2.2: one empty line before the request line is skipped (old clients end a POST body with one too many). */
static int32_t start(h1_head *head, const line_scan *line) {
    if (line->end == 0)
        return line->at_end;
    if (line->buffer[0] != '\r')
        return request_line(head, line);
    const int32_t next = scan_line_end(line, 0, H1_ERR_METHOD);
    if (next > 0)
        head->phase = H1_PHASE_REQUEST_LINE;
    return next;
}

/* ---- field lines: RFC 9112 5: field-line = field-name ":" OWS field-value OWS ---- */

/* RFC 9110 5.1: field-name = token. RFC 9112 5.1: no whitespace before the colon; 5.2: no folding. */
static int32_t scan_field_name(h1_field *field, const line_scan *line, uint32_t at) {
    const uint32_t start = at;
    uint8_t classes = 0;
    while (at < line->stop && h1_class[line->buffer[at]] & H1_TCHAR)
        classes |= h1_class[line->buffer[at++]];
    if (at >= line->stop)
        return none_left(line, at);
    const uint8_t byte = line->buffer[at];
    if (h1_is_space(byte))
        return at == start ? H1_ERR_FIELD_FOLD : H1_ERR_FIELD_SPACE;
    if (byte == '\r')
        return H1_ERR_FIELD_COLON;
    if (byte != ':' || at == start)
        return refuse(line, at, H1_ERR_FIELD_NAME);
    field->name = span(start, at);
    field->known = h1_known_index(line->buffer + start, at - start);
    field->flags = classes & H1_UNDERSCORE ? H1_FIELD_HAS_UNDERSCORE : 0;
    return (int32_t)(at + 1);
}

/* The first byte from `at` on that is not of H1_VALUE, or stop. Values are most of a head: eight bytes a step, as long
 * as none of them is below 0x20 or is 0x7f (such a byte sets its top bit; a carry from it may set another's too); then
 * the plain loop, which decides. The tests try every byte at every place of a step. */
static uint32_t skip_value(const uint8_t *buffer, uint32_t at, uint32_t stop) {
    const uint64_t each = 0x0101010101010101u;
    for (; stop - at >= 8; at += 8) {
        const uint64_t bytes = eight_bytes(buffer + at);
        const uint64_t del = bytes ^ each * 0x7f;
        if ((((bytes - each * 0x20) & ~bytes) | ((del - each) & ~del)) & (each * 0x80))
            break;
    }
    while (at < stop && h1_class[buffer[at]] & H1_VALUE)
        at++;
    return at;
}

/* RFC 9110 5.5: field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ] */
static int32_t scan_field_value(h1_field *field, const line_scan *line, uint32_t at) {
    const uint8_t *buffer = line->buffer;
    while (at < line->stop && h1_is_space(buffer[at]))
        at++;
    const uint32_t start = at;
    at = skip_value(buffer, at, line->stop);
    const int32_t next = scan_line_end(line, at, H1_ERR_FIELD_VALUE);
    while (at > start && h1_is_space(buffer[at - 1]))
        at--;
    field->value = span(start, at);
    return next;
}

static int32_t field_line(h1_head *head, const line_scan *line, const h1_limits *limits) {
    const uint32_t most = limits->fields < H1_MAX_FIELDS ? limits->fields : H1_MAX_FIELDS;
    if (head->field_count >= most)
        return H1_ERR_TOO_MANY_FIELDS;
    h1_field *field = &head->fields[head->field_count];
    int32_t next = scan_field_name(field, line, head->position);
    if (next > 0)
        next = scan_field_value(field, line, (uint32_t)next);
    if (next <= 0)
        return next;
    const int32_t verdict = h1_judge_field(head, line->buffer, field);
    if (verdict)
        return verdict;
    head->field_count++;
    return next;
}

static int32_t field_line_or_end(h1_head *head, const line_scan *line, const h1_limits *limits) {
    const uint32_t at = head->position;
    if (at == line->end)
        return line->at_end;
    if (line->buffer[at] != '\r')
        return field_line(head, line, limits);
    const int32_t next = scan_line_end(line, at, H1_ERR_BARE_CR);
    if (next <= 0)
        return next;
    head->phase = H1_PHASE_DONE;
    const int32_t verdict = h1_judge_head(head);
    return verdict ? verdict : next;
}

/* ---- the head ---- */

void h1_head_init(h1_head *head) { memset(head, 0, offsetof(h1_head, fields)); }

static int32_t next_line(h1_head *head, const line_scan *line, const h1_limits *limits) {
    switch (head->phase) {
    case H1_PHASE_START:
        return start(head, line);
    case H1_PHASE_REQUEST_LINE:
        return request_line(head, line);
    default:
        return field_line_or_end(head, line, limits);
    }
}

int32_t h1_parse_until(uint32_t phase, h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits) {
    while (!head->error && head->phase < phase) {
        const line_scan line = line_at(head, buffer, length, limits);
        const int32_t next = next_line(head, &line, limits);
        if (next == H1_MORE)
            return H1_MORE;
        if (next < 0)
            head->error = next;
        else
            head->position = (uint32_t)next;
    }
    return head->error ? head->error : (int32_t)head->position;
}

int32_t h1_parse_head(h1_head *head, const uint8_t *buffer, size_t length, const h1_limits *limits) {
    return h1_parse_until(H1_PHASE_DONE, head, buffer, length, limits);
}
