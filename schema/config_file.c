/* config_file.c - see config_file.h. */
#include "schema/config_file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "schema/alloc.h"
#include "schema/utf8.h"

static int read_whole(const char *path, char **text, size_t *n, struct err *e)
{
    struct stat st;
    FILE *f = fopen(path, "re");
    if (!f)
        return err_errno(e, ASSAY_EIO, "'%s'", path);
    if (fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode)) {
        fclose(f);
        return err_set(e, ASSAY_EIO, "'%s': expected a file, found a directory", path);
    }
    *text = xcalloc(1, CONFIG_FILE_BYTES + 2);
    *n = fread(*text, 1, CONFIG_FILE_BYTES + 1, f);
    int failed = ferror(f);
    fclose(f);
    if (failed)
        return err_errno(e, ASSAY_EIO, "'%s'", path);
    if (*n > CONFIG_FILE_BYTES)
        return err_set(
            e, ASSAY_EFORMAT, "'%s': expected at most %d bytes", path, CONFIG_FILE_BYTES);
    return 0;
}

/* Cuts the blanks off both ends. */
static char *trimmed(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1]))
        n--;
    s[n] = '\0';
    return s;
}

/* Splits the line. Returns 0, or -1 when there is no key, or nothing behind `=`. */
static int split(char *line, char **key, char **value)
{
    size_t n = strcspn(line, "= \t");
    char *rest = line + n;
    int has_sign = 0;
    for (; *rest == ' ' || *rest == '\t' || (*rest == '=' && !has_sign); rest++)
        has_sign |= *rest == '=';
    if (n == 0 || (has_sign && !*rest))
        return -1;
    *value = *rest ? rest : NULL;
    line[n] = '\0';
    *key = line;
    return 0;
}

static int take_line(
    const char *path, int number, char *line, config_file_visitor *visit, void *arg, struct err *e)
{
    char *key, *value, shown[80];
    line = trimmed(line);
    if (!*line || *line == '#')
        return 0;
    snprintf(shown, sizeof shown, "%s", line);
    utf8_make_printable(shown);
    if (split(line, &key, &value) != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s:%d: expected `key = value`, `key value` or `key`, found '%s'", path, number, shown);
    return visit(arg, number, key, value);
}

int config_file_read(
    const char *path, char **text, config_file_visitor *visit, void *arg, struct err *e)
{
    size_t n = 0;
    int number = 1;
    *text = NULL;
    int rc = read_whole(path, text, &n, e);
    if (rc == 0 && strlen(*text) < n)
        rc = err_set(e, ASSAY_EFORMAT, "'%s': expected a text file, found a NUL byte", path);
    if (rc == 0 && utf8_valid((const uint8_t *)*text, n) < n)
        rc = err_set(e, ASSAY_EFORMAT, "'%s': expected UTF-8", path);
    int marked =
        rc == 0 && strncmp(*text, UTF8_BOM, strlen(UTF8_BOM)) == 0; /* as some editors do */
    for (char *line = *text + (marked ? strlen(UTF8_BOM) : 0), *next; rc == 0 && line;
         line = next, number++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        rc = take_line(path, number, line, visit, arg, e);
    }
    return rc;
}
