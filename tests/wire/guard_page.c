/* Reads the files named after "head" or "chunked" and parses every beginning of each, laid so that its last byte is the
 * last byte of a page and the next page cannot be touched: reading one byte too many ends the program with a signal, in
 * the same optimised code that serves. For heads the bytes are read-only too. Prints the answer for each whole file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "http1.h"

#define ROOM 65536u

static int32_t parse(const uint8_t *data, size_t length) {
    static const h1_limits limits = {.line = 8190, .fields = 100, .field_size = 8190, .head = 65536};
    static h1_head head;
    h1_head_init(&head);
    return h1_parse_head(&head, data, length, &limits);
}

static int32_t decode(uint8_t *data, size_t length) {
    h1_chunked state;
    size_t consumed = 0, produced = 0;
    h1_chunked_init(&state);
    return h1_decode_chunked(&state, data, length, &consumed, &produced);
}

static int32_t every_beginning(int chunked, uint8_t *end, const uint8_t *data, size_t size) {
    int32_t answer = 0;
    for (size_t length = 0; length <= size; length++) {
        uint8_t *start = end - length;
        memcpy(start, data, length);
        if (!chunked && mprotect(end - ROOM, ROOM, PROT_READ))
            exit(1);
        answer = chunked ? decode(start, length) : parse(start, length);
        if (!chunked && mprotect(end - ROOM, ROOM, PROT_READ | PROT_WRITE))
            exit(1);
    }
    return answer;
}

int main(int argc, char **argv) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages = mmap(NULL, ROOM + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc < 2 || pages == MAP_FAILED || mprotect(pages + ROOM, page, PROT_NONE))
        return 1;
    for (int i = 2; i < argc; i++) {
        static uint8_t data[ROOM];
        FILE *file = fopen(argv[i], "rb");
        if (!file)
            return 1;
        const size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        printf("%d\n", every_beginning(!strcmp(argv[1], "chunked"), pages + ROOM, data, size));
    }
    return 0;
}
