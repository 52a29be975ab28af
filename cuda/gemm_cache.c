/* gemm_cache.c - reads and appends to the file of chosen algorithms, line by line
 * (gemm_cache.h). */
#include "cuda/gemm_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 2048

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Writes `bytes` bytes in hex, a space, the key and the end of the line. */
static int read_line(const char *line, const char *key, uint8_t *value, size_t bytes)
{
    size_t n = strlen(key);
    for (size_t i = 0; i < bytes; i++) {
        int high = hex_digit(line[2 * i]), low = high < 0 ? -1 : hex_digit(line[2 * i + 1]);
        if (low < 0)
            return 0;
        value[i] = (uint8_t)(high << 4 | low);
    }
    line += 2 * bytes;
    return line[0] == ' ' && strncmp(line + 1, key, n) == 0 && line[1 + n] == '\n';
}

int gemm_cache_find(const char *file, const char *key, int skip, void *value, size_t bytes)
{
    char line[LINE_BYTES];
    uint8_t found[256];
    int any = 0;
    FILE *f = bytes <= sizeof found ? fopen(file, "re") : NULL;
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (read_line(line, key, found, bytes) && skip-- == 0) {
            memcpy(value, found, bytes);
            any = 1;
            break;
        }
    fclose(f);
    return any;
}

int gemm_cache_add(
    const char *file, const char *key, const void *value, size_t bytes, struct err *e)
{
    char line[LINE_BYTES];
    size_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < bytes && n + 3 < sizeof line; i++)
        n += (size_t)snprintf(line + n, sizeof line - n, "%02x", ((const uint8_t *)value)[i]);
    n += (size_t)snprintf(line + n, sizeof line - n, " %s\n", key);
    if (n >= sizeof line)
        return err_set(e, ASSAY_EIO, "%s: a line of more than %d bytes", file, LINE_BYTES);
    int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, n) != (ssize_t)n)
        rc = err_errno(e, ASSAY_EIO, "%s: cannot write the choice of algorithms there", file);
    if (fd >= 0)
        close(fd);
    return rc;
}
