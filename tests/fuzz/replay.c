/* Stands in for libFuzzer where a corpus is only replayed: runs the target on each file named on the command line. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    static uint8_t room[1 << 20];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 1;
        }
        const size_t size = fread(room, 1, sizeof room, file);
        fclose(file);
        uint8_t *data = malloc(size ? size : 1); /* of its exact size, for AddressSanitizer */
        if (!data)
            return 1;
        for (size_t byte = 0; byte < size; byte++)
            data[byte] = room[byte];
        fprintf(stderr, "%s\n", argv[i]); /* the last line tells the culprit */
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    printf("%d files\n", argc - 1);
    return 0;
}
