/* Byte classes and small conversions of HTTP's text. */
#ifndef PYSERVE_OCTETS_H
#define PYSERVE_OCTETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* token = 1*tchar
 * tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA
 * (RFC 9110, 5.6.2) */
static inline int octets_is_token(const char *data, size_t size)
{
    static const unsigned char tchar[256] = {
        ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,
        ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1,
        ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1,
        ['A'] = 1, ['B'] = 1, ['C'] = 1, ['D'] = 1, ['E'] = 1, ['F'] = 1, ['G'] = 1, ['H'] = 1, ['I'] = 1, ['J'] = 1,
        ['K'] = 1, ['L'] = 1, ['M'] = 1, ['N'] = 1, ['O'] = 1, ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1, ['T'] = 1,
        ['U'] = 1, ['V'] = 1, ['W'] = 1, ['X'] = 1, ['Y'] = 1, ['Z'] = 1,
        ['a'] = 1, ['b'] = 1, ['c'] = 1, ['d'] = 1, ['e'] = 1, ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1, ['j'] = 1,
        ['k'] = 1, ['l'] = 1, ['m'] = 1, ['n'] = 1, ['o'] = 1, ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1, ['t'] = 1,
        ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1, ['z'] = 1,
    };
    size_t i;
    for (i = 0; i < size; i++)
        if (!tchar[(unsigned char)data[i]])
            return 0;
    return size > 0;
}

/* field-value and reason-phrase: HTAB / SP / VCHAR / obs-text, so no control character but the tab (RFC 9110, 5.5) */
static inline int octets_is_text(const char *data, size_t size)
{
    unsigned bad = 0;
    size_t i;
    for (i = 0; i < size; i++) {
        unsigned char c = (unsigned char)data[i];
        bad |= (unsigned)((c < 0x20) & (c != '\t')) | (unsigned)(c == 0x7f);
    }
    return !bad;
}

/* ASCII, any case; `name` is in lower case. */
static inline int octets_equal(const char *data, size_t size, const char *name, size_t name_size)
{
    size_t i;
    if (size != name_size)
        return 0;
    for (i = 0; i < size; i++) {
        char c = data[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c + 32);
        if (c != name[i])
            return 0;
    }
    return 1;
}

/* Is `token` (lower case) a member of the comma separated list? */
static inline int octets_list_has(const char *data, size_t size, const char *token, size_t token_size)
{
    size_t i = 0;
    while (i < size) {
        size_t start, end;
        while (i < size && (data[i] == ',' || data[i] == ' ' || data[i] == '\t'))
            i++;
        start = i;
        while (i < size && data[i] != ',')
            i++;
        end = i;
        while (end > start && (data[end - 1] == ' ' || data[end - 1] == '\t'))
            end--;
        if (octets_equal(data + start, end - start, token, token_size))
            return 1;
    }
    return 0;
}

/* 1*DIGIT that fits 63 bits: 0 and the value, else -1. */
static inline int octets_number(const char *data, size_t size, uint64_t *value)
{
    uint64_t n = 0;
    size_t i;
    if (size == 0 || size > 18)
        return -1;
    for (i = 0; i < size; i++) {
        if (data[i] < '0' || data[i] > '9')
            return -1;
        n = n * 10 + (uint64_t)(data[i] - '0');
    }
    *value = n;
    return 0;
}

/* Writes the number, without a terminator; at most 20 bytes. Returns how many. */
static inline size_t octets_decimal(char *out, uint64_t value)
{
    char digits[20];
    size_t n = 0, i;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    for (i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    return n;
}

/* Writes "1f40\r\n", the line before a chunk's data; at most 18 bytes. Returns how many. */
static inline size_t octets_chunk_line(char *out, uint64_t value)
{
    char digits[16];
    size_t n = 0, i;
    do {
        digits[n++] = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value > 0);
    for (i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    out[n] = '\r';
    out[n + 1] = '\n';
    return n + 2;
}

static inline int octets_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Percent-decodes; `out` needs `size` bytes. An escape that is none stays as it is. Returns the decoded length. */
static inline size_t octets_unquote(char *out, const char *data, size_t size)
{
    size_t i = 0, n = 0;
    while (i < size) {
        if (data[i] == '%' && i + 2 < size) {
            int high = octets_hex(data[i + 1]), low = octets_hex(data[i + 2]);
            if (high >= 0 && low >= 0) {
                out[n++] = (char)(high << 4 | low);
                i += 3;
                continue;
            }
        }
        out[n++] = data[i++];
    }
    return n;
}

#endif
