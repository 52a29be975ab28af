/* foreign.c - compares a file's first bytes with the marks of other formats (foreign.h);
 * foreign_text.c looks at its text. */
#include "broker/cli/input/foreign.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/utf8.h"

#define SEEN_BYTES 264 /* a tar is recognised at byte 257 */
#define TAR_AT 257
#define TEXT_BYTES 65536 /* seen if the first line is not a row */

static const char as_lines[] =
    "write it out as JSON lines first (pandas: DataFrame.to_json(orient='records', lines=True))";

struct beginning {
    struct foreign what;
    unsigned char n;
    char bytes[16];
};

/* Data that was decompressed may be compressed once more. */
static const struct beginning beginnings[] = {
    {{"xz", "decompress it first, with `xz -d`"}, 6, "\xfd\x37zXZ"},
    {{"bzip2", "decompress it first, with `bzip2 -d`"}, 3, "BZh"},
    {{"a zip archive", "unpack it first, with `unzip`"}, 4, "PK\3\4"},
    {{"an empty zip archive", "expected rows in it"}, 4, "PK\5\6"},
    {{"a 7z archive", "unpack it first, with `7z x`"}, 6, "7z\xbc\xaf\x27\x1c"},
    {{"lz4", "decompress it first, with `lz4 -d`"}, 4, "\4\x22\x4d\x18"},
    {{"lzip", "decompress it first, with `lzip -d`"}, 5, "LZIP\1"},
    {{"lzma", "decompress it first, with `xz -d --format=lzma`"}, 3, "\x5d\0\0"},
    {{"compress (.Z)", "decompress it first, with `gzip -d`"}, 2, "\x1f\x9d"},
    {{"gzip within the compression", "decompress it once"}, 2, "\x1f\x8b"},
    {{"zstd within the compression", "decompress it once"}, 4, "\x28\xb5\x2f\xfd"},
    {{"Parquet", as_lines}, 4, "PAR1"},
    {{"Arrow", as_lines}, 6, "ARROW1"},
    {{"an Arrow stream", as_lines}, 4, "\xff\xff\xff\xff"},
    {{"Feather", as_lines}, 4, "FEA1"},
    {{"Avro", as_lines}, 4, "Obj\1"},
    {{"HDF5", as_lines}, 5, "\x89HDF\r"},
    {{"NumPy", as_lines}, 6, "\x93NUMPY"},
    {{"a Python pickle", as_lines}, 3, "\x80\4\x95"},
    {{"a SQLite database", as_lines}, 15, "SQLite format 3"},
    {{"UTF-32 (little endian)", "convert it: iconv -f UTF-32LE -t UTF-8"}, 4, "\xff\xfe\0\0"},
    {{"UTF-32 (big endian)", "convert it: iconv -f UTF-32BE -t UTF-8"}, 4, "\0\0\xfe\xff"},
    {{"UTF-16 (little endian)", "convert it: iconv -f UTF-16LE -t UTF-8"}, 2, "\xff\xfe"},
    {{"UTF-16 (big endian)", "convert it: iconv -f UTF-16BE -t UTF-8"}, 2, "\xfe\xff"},
};

static const struct foreign tar = {"a tar archive", "unpack it first, with `tar -x`"};

static int is_text(unsigned char byte)
{
    return (byte >= ' ' && byte < 0x7f) || byte == '\n' || byte == '\r' || byte == '\t';
}

static const struct foreign *named(const char *name)
{
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (strcmp(beginnings[i].what.name, name) == 0)
            return &beginnings[i].what;
    return NULL;
}

/* JSON begins with ASCII characters, so the zeros between them tell the encoding even without a
 * byte order mark. */
static const struct foreign *wide_text(const unsigned char *b, size_t n)
{
    if (n < 4)
        return NULL;
    if (is_text(b[0]) && !b[1] && !b[2] && !b[3])
        return named("UTF-32 (little endian)");
    if (!b[0] && !b[1] && !b[2] && is_text(b[3]))
        return named("UTF-32 (big endian)");
    if (is_text(b[0]) && !b[1] && is_text(b[2]) && !b[3])
        return named("UTF-16 (little endian)");
    if (!b[0] && is_text(b[1]) && !b[2] && is_text(b[3]))
        return named("UTF-16 (big endian)");
    return NULL;
}

static const struct foreign *foreign_of(const unsigned char *b, size_t n)
{
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (n >= beginnings[i].n && memcmp(b, beginnings[i].bytes, beginnings[i].n) == 0)
            return &beginnings[i].what;
    if (n >= TAR_AT + 5 && memcmp(b + TAR_AT, "ustar", 5) == 0)
        return &tar;
    return wide_text(b, n);
}

/* Reads up to `room` bytes of `file`, but stops at a newline once there are `least`. */
static size_t read_more(FILE *file, char *seen, size_t n, size_t room, size_t least, int *at_end)
{
    int byte = n > 0 ? (unsigned char)seen[n - 1] : 0;
    while (n < room && !(n >= least && byte == '\n') && (byte = getc(file)) != EOF)
        seen[n++] = (char)byte;
    *at_end = byte == EOF;
    return n;
}

static const struct foreign *look_at_text(FILE *file, char *seen, size_t *n, int *at_end)
{
    size_t skipped = *n >= 3 && memcmp(seen, UTF8_BOM, 3) == 0 ? 3 : 0;
    if (foreign_is_plain(seen + skipped, *n - skipped))
        return NULL;
    if (!*at_end)
        *n = read_more(file, seen, *n, TEXT_BYTES, TEXT_BYTES, at_end);
    return foreign_text(seen + skipped, *n - skipped, *at_end);
}

/* A pipe may offer only its first line for now, so no more is read at first; any row has more than
 * four bytes. */
const struct foreign *foreign_look(FILE *file)
{
    char *seen = xcalloc(1, TEXT_BYTES);
    int at_end;
    size_t n = read_more(file, seen, 0, SEEN_BYTES, 4, &at_end);
    const struct foreign *found = foreign_of((const unsigned char *)seen, n);
    if (!found && !ferror(file))
        found = look_at_text(file, seen, &n, &at_end);
    if (at_end && !ferror(file))
        clearerr(file);
    while (n > 0) /* glibc takes back all that it gave */
        ungetc((unsigned char)seen[--n], file);
    free(seen);
    return found;
}
