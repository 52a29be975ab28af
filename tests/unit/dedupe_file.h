/* dedupe_file.h - where this process has a job's table of rows that are the same mapped: its file
 * has no name. */
#ifndef ASSAY_DEDUPE_FILE_H
#define ASSAY_DEDUPE_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct dedupe_file {
    uint64_t *slots; /* NULL: it has none */
    uint64_t bytes;
};

static inline struct dedupe_file dedupe_file(const char *dir, int64_t job)
{
    struct dedupe_file file = {0};
    char line[8192], name[4400];
    snprintf(name, sizeof name, "%s/twins-%lld.", dir, (long long)job);
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        void *from, *to;
        if (strstr(line, name) && sscanf(line, "%p-%p", &from, &to) == 2) {
            file.slots = from;
            file.bytes = (uint64_t)((uint8_t *)to - (uint8_t *)from);
        }
    }
    if (maps)
        fclose(maps);
    return file;
}

#endif
