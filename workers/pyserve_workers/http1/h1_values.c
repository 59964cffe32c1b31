/* The fields that decide where a request ends and what becomes of its connection. Pure functions of a finished
 * value; the scanning of lines is in http1.c. Strict: what two readers could understand differently is refused
 * (RFC 9112 11.2). */
#include <arpa/inet.h>
#include <string.h>

#include "h1_grammar.h"

#define IS(bytes, length, text) h1_equals(bytes, length, text, sizeof(text) - 1)

/* ---- Host ---- */

/* RFC 3986 3.2.3: port = *DIGIT. Beyond 65535 there is no such port. */
static bool is_port(const uint8_t *bytes, size_t length) {
    uint64_t port = 0;
    for (size_t i = 0; i < length; i++)
        if (!h1_is_digit(bytes[i]) || !h1_append_digit(&port, 10, (uint8_t)(bytes[i] - '0')) || port > UINT16_MAX)
            return false;
    return true;
}

/* RFC 3986 3.2.2: IP-literal = "[" ( IPv6address / IPvFuture ) "]". No IPvFuture exists; a zone means nothing here. */
static bool is_ipv6(const uint8_t *bytes, size_t length) {
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (length >= sizeof text || memchr(bytes, 0, length))
        return false;
    memcpy(text, bytes, length);
    text[length] = 0;
    return inet_pton(AF_INET6, text, &address) == 1;
}

/* RFC 3986 3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ), which covers IPv4address too.
 * RFC 9110 4.2.1: the host of an http URI is not empty. */
static bool is_name(const uint8_t *bytes, size_t length) {
    size_t i = 0;
    while (i < length) {
        if (h1_class[bytes[i]] & H1_REG_NAME)
            i += 1;
        else if (bytes[i] == '%' && length - i > 2 && h1_class[bytes[i + 1]] & h1_class[bytes[i + 2]] & H1_HEX)
            i += 3;
        else
            return false;
    }
    return length > 0;
}

/* RFC 9112 3.2: Host = uri-host [ ":" port ] */
bool h1_is_authority(const uint8_t *bytes, size_t length) {
    const bool literal = length && bytes[0] == '[';
    const uint8_t *end = length ? memchr(bytes, literal ? ']' : ':', length) : NULL;
    if (literal && !end)
        return false;
    const size_t host = end ? (size_t)(end - bytes) : length; /* without the closing bracket */
    const size_t port = host + literal;
    if (port < length && (bytes[port] != ':' || !is_port(bytes + port + 1, length - port - 1)))
        return false;
    return literal ? is_ipv6(bytes + 1, host - 1) : is_name(bytes, host);
}

/* RFC 9112 3.2: one Host line, valid, also where the absolute form overrides it. An empty one would be right only
 * for a target URI without an authority, which http and https do not have. */
static int32_t judge_host(h1_head *head, const uint8_t *buffer, h1_span value) {
    if (head->seen & H1_SEEN_HOST)
        return H1_ERR_FIELD_REPEATED;
    head->seen |= H1_SEEN_HOST;
    if (!h1_is_authority(buffer + value.offset, value.length))
        return H1_ERR_HOST;
    if (head->target_form != H1_TARGET_ABSOLUTE)
        head->host = value;
    return 0;
}

/* ---- Content-Length ---- */

/* RFC 9110 8.6: Content-Length = 1*DIGIT. A list of equal numbers ("5, 5"), or the line repeated, may be refused: it
 * is. Leading zeros are in the grammar and mean the same to everyone who reads decimal numbers. */
static int32_t judge_content_length(h1_head *head, const uint8_t *digits, uint32_t length) {
    if (head->seen & H1_SEEN_CONTENT_LENGTH)
        return H1_ERR_FIELD_REPEATED;
    head->seen |= H1_SEEN_CONTENT_LENGTH;
    for (uint32_t i = 0; i < length; i++)
        if (!h1_is_digit(digits[i]))
            return H1_ERR_CONTENT_LENGTH;
    uint64_t number = 0;
    for (uint32_t i = 0; i < length; i++)
        if (!h1_append_digit(&number, 10, (uint8_t)(digits[i] - '0')))
            return H1_ERR_CONTENT_LENGTH_HUGE;
    head->has_content_length = 1;
    head->content_length = number;
    return length ? 0 : H1_ERR_CONTENT_LENGTH;
}

/* ---- Transfer-Encoding ---- */

/* The next element of a comma-separated list from *at on, without its whitespace; false at the end of the list. */
static bool next_element(const uint8_t *list, uint32_t length, uint32_t *at, h1_span *element) {
    if (*at > length)
        return false;
    uint32_t start = *at;
    uint32_t end = start;
    while (end < length && list[end] != ',')
        end++;
    *at = end + 1;
    while (start < end && h1_is_space(list[start]))
        start++;
    while (start < end && h1_is_space(list[end - 1]))
        end--;
    *element = (h1_span){start, end - start};
    return true;
}

static bool is_token(const uint8_t *bytes, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        if (!(h1_class[bytes[i]] & H1_TCHAR))
            return false;
    return length > 0;
}

/* RFC 9112 6.1: a coding we do not know is 501, if the message can be framed at all: a list of plain names, of which
 * chunked is the last and only the last. RFC 9112 6.3: anything else is 400. Parameters and empty elements are
 * refused with it: nobody sends them in earnest. */
static int32_t refused_codings(const uint8_t *list, uint32_t length) {
    uint32_t at = 0;
    h1_span element = {0, 0};
    bool chunked = false;
    while (next_element(list, length, &at, &element)) {
        if (chunked || !is_token(list + element.offset, element.length))
            return H1_ERR_TRANSFER_ENCODING;
        chunked = IS(list + element.offset, element.length, "chunked");
    }
    return chunked ? H1_ERR_TRANSFER_CODING : H1_ERR_TRANSFER_ENCODING;
}

/* RFC 9112 6.1: HTTP/1.0 does not know Transfer-Encoding: its framing is faulty. One line, saying "chunked". */
static int32_t judge_transfer_encoding(h1_head *head, const uint8_t *bytes, uint32_t length) {
    if (head->seen & H1_SEEN_TRANSFER_ENCODING)
        return H1_ERR_FIELD_REPEATED;
    head->seen |= H1_SEEN_TRANSFER_ENCODING;
    if (head->minor_version == 0)
        return H1_ERR_TRANSFER_VERSION;
    if (!IS(bytes, length, "chunked"))
        return refused_codings(bytes, length);
    head->chunked = 1;
    return 0;
}

/* ---- Connection, Expect ---- */

/* RFC 9110 7.6.1: Connection = #connection-option. Options we do not know, and elements that are none,
 * mean nothing to us. */
static int32_t judge_connection(h1_head *head, const uint8_t *list, uint32_t length) {
    uint32_t at = 0;
    h1_span option = {0, 0};
    while (next_element(list, length, &at, &option)) {
        const uint8_t *name = list + option.offset;
        if (IS(name, option.length, "close"))
            head->seen |= H1_SEEN_CONNECTION_CLOSE;
        else if (IS(name, option.length, "keep-alive"))
            head->seen |= H1_SEEN_CONNECTION_KEEP_ALIVE;
        else if (IS(name, option.length, "upgrade"))
            head->seen |= H1_SEEN_CONNECTION_UPGRADE;
    }
    return 0;
}

/* RFC 9110 10.1.1: Expect = #expectation; 100-continue from an HTTP/1.0 client is ignored, and so is anything else
 * it expects: it may have been forwarded by a proxy that did not understand it. */
static int32_t judge_expect(h1_head *head, const uint8_t *list, uint32_t length) {
    if (head->minor_version == 0)
        return 0;
    uint32_t at = 0;
    h1_span element = {0, 0};
    while (next_element(list, length, &at, &element)) {
        if (element.length == 0)
            continue;
        if (!IS(list + element.offset, element.length, "100-continue"))
            return H1_ERR_EXPECT;
        head->expect_continue = 1;
    }
    return 0;
}

/* RFC 9110 8.3: Content-Type is one media type. Two of them let a filter and the app read the body differently. */
static int32_t judge_content_type(h1_head *head) {
    if (head->seen & H1_SEEN_CONTENT_TYPE)
        return H1_ERR_FIELD_REPEATED;
    head->seen |= H1_SEEN_CONTENT_TYPE;
    return 0;
}

/* ---- together ---- */

/* Content_Length and Transfer_Encoding: as environ keys they are the framing fields. */
static bool imitates_framing(const uint8_t *name, uint32_t length) {
    return IS(name, length, "content_length") || IS(name, length, "transfer_encoding");
}

int32_t h1_judge_field(h1_head *head, const uint8_t *buffer, const h1_field *field) {
    const uint8_t *value = buffer + field->value.offset;
    const uint32_t length = field->value.length;
    if (field->flags & H1_FIELD_HAS_UNDERSCORE && imitates_framing(buffer + field->name.offset, field->name.length))
        return H1_ERR_FIELD_UNDERSCORE;
    switch (field->known) {
    case H1_FIELD_HOST:
        return judge_host(head, buffer, field->value);
    case H1_FIELD_CONTENT_LENGTH:
        return judge_content_length(head, value, length);
    case H1_FIELD_TRANSFER_ENCODING:
        return judge_transfer_encoding(head, value, length);
    case H1_FIELD_CONNECTION:
        return judge_connection(head, value, length);
    case H1_FIELD_CONTENT_TYPE:
        return judge_content_type(head);
    case H1_FIELD_EXPECT:
        return judge_expect(head, value, length);
    case H1_FIELD_UPGRADE:
        head->seen |= H1_SEEN_UPGRADE;
        return 0;
    default:
        return 0;
    }
}

int32_t h1_judge_head(h1_head *head) {
    const uint32_t seen = head->seen;
    /* RFC 9112 3.2: also when the target has an authority of its own */
    if (head->minor_version == 1 && !(seen & H1_SEEN_HOST))
        return H1_ERR_HOST_MISSING;
    /* RFC 9112 6.1: may be an attempt at request smuggling */
    if (seen & H1_SEEN_TRANSFER_ENCODING && seen & H1_SEEN_CONTENT_LENGTH)
        return H1_ERR_LENGTH_CONFLICT;
    /* RFC 9112 9.3: close wins; HTTP/1.1 persists by default, HTTP/1.0 if it asks for it */
    head->keep_alive = !(seen & H1_SEEN_CONNECTION_CLOSE) &&
                       (head->minor_version == 1 || seen & H1_SEEN_CONNECTION_KEEP_ALIVE);
    /* RFC 9110 7.8: Upgrade in HTTP/1.0 is ignored */
    head->upgrade = head->minor_version == 1 && seen & H1_SEEN_UPGRADE && seen & H1_SEEN_CONNECTION_UPGRADE;
    return 0;
}
