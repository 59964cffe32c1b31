/* The chunked decoder: a machine of states, one byte a step but for the data. The contract is in http1.h.
 *
 * RFC 9112 7.1:  chunked-body = *chunk last-chunk trailer-section CRLF
 *                chunk        = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
 *                chunk-size   = 1*HEXDIG
 *                last-chunk   = 1*("0") [ chunk-ext ] CRLF
 * RFC 9112 7.1.1: chunk-ext   = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
 *                chunk-ext-val = token / quoted-string
 * RFC 9112 7.1.2: trailer-section = *( field-line CRLF )
 */
#include <string.h>

#include "h1_grammar.h"

enum {
    SIZE,            /* in the digits of a chunk size */
    EXT_END,         /* BWS after an extension: only ';' may follow */
    EXT_START,       /* BWS after ';': a name must follow */
    EXT_NAME,        /* in a name */
    EXT_NAME_END,    /* BWS after a name: '=' or ';' must follow */
    EXT_VALUE_START, /* BWS after '=': a token or a quoted string must follow */
    EXT_TOKEN,       /* in a token */
    EXT_QUOTED,      /* in a quoted string */
    EXT_ESCAPED,     /* after a backslash in it */
    EXT_QUOTED_END,  /* after the closing quote */
    SIZE_LF,         /* after the CR of a size line */
    DATA,
    DATA_CR, /* after the data */
    DATA_LF,
    TRAILER_START, /* at the start of a trailer line, or of the CRLF that ends the body */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF, /* after the CR that begins the last CRLF */
    DONE,
};

void h1_chunked_init(h1_chunked *state) { memset(state, 0, sizeof *state); }

static int32_t go(h1_chunked *state, uint32_t phase) {
    state->phase = phase;
    return 0;
}

/* A byte that does not continue what was being read. */
static int32_t refuse(uint8_t byte, int32_t error) { return byte == '\n' ? H1_ERR_BARE_LF : error; }

static int32_t expect_lf(h1_chunked *state, uint8_t byte, uint32_t phase) {
    return byte == '\n' ? go(state, phase) : H1_ERR_BARE_CR;
}

/* ---- the size line ---- */

static int32_t size_byte(h1_chunked *state, uint8_t byte) {
    if (h1_class[byte] & H1_HEX) {
        if (state->digits++ == 16 || !h1_append_digit(&state->remaining, 16, h1_hex_value(byte)))
            return H1_ERR_CHUNK_HUGE;
        return 0;
    }
    if (state->digits == 0)
        return refuse(byte, H1_ERR_CHUNK_SIZE);
    if (byte == '\r')
        return go(state, SIZE_LF);
    if (byte == ';')
        return go(state, EXT_START);
    /* BWS may come here, before ';', and a recipient must parse it. h11 and llhttp refuse it, and so does this one:
     * readers that skip it, or skip only some of it, have been used to smuggle requests. */
    return refuse(byte, H1_ERR_CHUNK_SIZE);
}

/* What may follow a complete extension; `bws` is the state that whitespace leads to. */
static int32_t after_extension(h1_chunked *state, uint8_t byte, uint32_t bws) {
    if (byte == '\r')
        return go(state, SIZE_LF);
    if (byte == ';')
        return go(state, EXT_START);
    return h1_is_space(byte) ? go(state, bws) : refuse(byte, H1_ERR_CHUNK_EXTENSION);
}

static int32_t extension_byte(h1_chunked *state, uint8_t byte) {
    const bool token = h1_class[byte] & H1_TCHAR;
    switch (state->phase) {
    case EXT_END:
        if (byte == ';')
            return go(state, EXT_START);
        break;
    case EXT_START:
        if (token)
            return go(state, EXT_NAME);
        break;
    case EXT_NAME:
        if (byte == '=')
            return go(state, EXT_VALUE_START);
        return token ? 0 : after_extension(state, byte, EXT_NAME_END);
    case EXT_NAME_END:
        if (byte == '=' || byte == ';')
            return go(state, byte == '=' ? EXT_VALUE_START : EXT_START);
        break;
    case EXT_VALUE_START:
        if (token || byte == '"')
            return go(state, token ? EXT_TOKEN : EXT_QUOTED);
        break;
    case EXT_TOKEN:
        return token ? 0 : after_extension(state, byte, EXT_END);
    case EXT_QUOTED: /* RFC 9110 5.6.4: quoted-string; its bytes are those of a field value */
        if (byte == '"' || byte == '\\')
            return go(state, byte == '"' ? EXT_QUOTED_END : EXT_ESCAPED);
        return h1_class[byte] & H1_VALUE ? 0 : refuse(byte, H1_ERR_CHUNK_EXTENSION);
    case EXT_ESCAPED:
        return h1_class[byte] & H1_VALUE ? go(state, EXT_QUOTED) : refuse(byte, H1_ERR_CHUNK_EXTENSION);
    default: /* EXT_QUOTED_END */
        return after_extension(state, byte, EXT_END);
    }
    return h1_is_space(byte) ? 0 : refuse(byte, H1_ERR_CHUNK_EXTENSION); /* BWS, as much as the limit allows */
}

static int32_t size_line_end(h1_chunked *state, uint8_t byte) {
    state->digits = 0;
    return expect_lf(state, byte, state->remaining ? DATA : TRAILER_START);
}

/* ---- trailers ---- */

/* Remembers the name's first bytes, '_' as '-': a trailer may not pass for a field of the head in either spelling. */
static void note_name_byte(h1_chunked *state, uint8_t byte) {
    if (state->name_length < sizeof state->name)
        state->name[state->name_length] = byte == '_' ? '-' : byte;
    state->name_length++;
}

static int32_t trailer_start(h1_chunked *state, uint8_t byte) {
    if (byte == '\r')
        return go(state, END_LF);
    if (h1_is_space(byte))
        return H1_ERR_FIELD_FOLD;
    if (!(h1_class[byte] & H1_TCHAR))
        return refuse(byte, H1_ERR_FIELD_NAME);
    if (state->trailers++ == H1_MAX_TRAILERS)
        return H1_ERR_TRAILERS_TOO_LARGE;
    state->name_length = 0;
    note_name_byte(state, byte);
    return go(state, TRAILER_NAME);
}

static int32_t trailer_name_byte(h1_chunked *state, uint8_t byte) {
    if (h1_class[byte] & H1_TCHAR) {
        note_name_byte(state, byte);
        return 0;
    }
    if (byte == '\r')
        return H1_ERR_FIELD_COLON;
    if (byte != ':')
        return h1_is_space(byte) ? H1_ERR_FIELD_SPACE : refuse(byte, H1_ERR_FIELD_NAME);
    if (state->name_length <= sizeof state->name) {
        const uint32_t known = h1_known_index(state->name, state->name_length);
        if (known != H1_UNKNOWN && h1_known_fields[known].forbidden_in_trailers)
            return H1_ERR_TRAILER_FORBIDDEN;
    }
    return go(state, TRAILER_VALUE);
}

static int32_t trailer_value_byte(h1_chunked *state, uint8_t byte) {
    if (byte == '\r')
        return go(state, TRAILER_LF);
    return h1_class[byte] & H1_VALUE ? 0 : refuse(byte, H1_ERR_FIELD_VALUE);
}

/* ---- all ---- */

/* One byte that is not chunk data; 0 or an error. */
static int32_t step(h1_chunked *state, uint8_t byte) {
    const bool extension = state->phase >= EXT_END && state->phase <= EXT_QUOTED_END;
    if (extension && state->extension_bytes++ == H1_MAX_CHUNK_EXTENSIONS)
        return H1_ERR_CHUNK_EXTENSIONS_TOO_LARGE;
    if (state->phase >= TRAILER_START && state->trailer_bytes++ == H1_MAX_TRAILER_BYTES)
        return H1_ERR_TRAILERS_TOO_LARGE;
    switch (state->phase) {
    case SIZE:
        return size_byte(state, byte);
    case SIZE_LF:
        return size_line_end(state, byte);
    case DATA_CR:
        return byte == '\r' ? go(state, DATA_LF) : refuse(byte, H1_ERR_CHUNK_END);
    case DATA_LF:
        return expect_lf(state, byte, SIZE);
    case TRAILER_START:
        return trailer_start(state, byte);
    case TRAILER_NAME:
        return trailer_name_byte(state, byte);
    case TRAILER_VALUE:
        return trailer_value_byte(state, byte);
    case TRAILER_LF:
        return expect_lf(state, byte, TRAILER_START);
    case END_LF:
        return expect_lf(state, byte, DONE);
    default:
        return extension_byte(state, byte);
    }
}

int32_t h1_decode_chunked(h1_chunked *state, uint8_t *buffer, size_t length, size_t *consumed, size_t *produced) {
    size_t in = 0;
    size_t out = 0;
    while (in < length && state->phase != DONE && !state->error) {
        if (state->phase != DATA) {
            state->error = step(state, buffer[in++]);
            continue;
        }
        const size_t there = length - in;
        const size_t run = state->remaining < there ? (size_t)state->remaining : there;
        memmove(buffer + out, buffer + in, run);
        in += run;
        out += run;
        state->remaining -= run;
        if (state->remaining == 0)
            state->phase = DATA_CR;
    }
    *consumed = in;
    *produced = out;
    if (state->error)
        return state->error;
    return state->phase == DONE ? H1_CHUNKED_DONE : H1_MORE;
}
