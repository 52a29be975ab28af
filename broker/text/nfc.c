/* nfc.c - finds the stretches of a text that may change, and sorts and composes their characters
 * (nfc.h). */
#include "broker/text/nfc.h"

#include <assert.h>
#include <stdlib.h>
#include <sysexits.h>
#include <utf8proc.h>

#include "broker/text/unicode.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define LONGEST_DECOMPOSITION 8 /* characters; the longest canonical one has 4 */

struct mark {
    utf8proc_int32_t code;
    int class;    /* canonical combining class */
    size_t order; /* keeps the sort stable */
};

static int by_class(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static int combining_class(utf8proc_int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

/* Sorts each run of marks by class (canonical order). utf8proc's own sort is quadratic in the
 * length of a run. */
static void sort_marks(utf8proc_int32_t *codes, size_t n)
{
    struct mark *marks = xcalloc(n, sizeof *marks);
    for (size_t i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && (marks[end - i].class = combining_class(codes[end])) != 0; end++) {
            marks[end - i].code = codes[end];
            marks[end - i].order = end;
        }
        if (end - i > 1)
            qsort(marks, end - i, sizeof *marks, by_class);
        for (size_t k = i; k < end; k++)
            codes[k] = marks[k - i].code;
    }
    free(marks);
}

/* Normalizes a stretch: decompose, sort, compose. */
static void compose(struct buffer *out, const uint8_t *text, size_t len)
{
    size_t room = len * LONGEST_DECOMPOSITION + LONGEST_DECOMPOSITION, n = 0;
    utf8proc_int32_t *codes = malloc(room * sizeof *codes);
    if (!codes)
        die(EX_OSERR, "out of memory: %zu bytes of text to normalize", len);
    for (size_t i = 0; i < len;) {
        unsigned bytes;
        utf8proc_int32_t code = (utf8proc_int32_t)unicode_decode(text + i, &bytes);
        utf8proc_ssize_t got = utf8proc_decompose_char(code, codes + n,
            (utf8proc_ssize_t)(room - n), UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        assert(got > 0 && got <= LONGEST_DECOMPOSITION);
        n += (size_t)got;
        i += bytes;
    }
    sort_marks(codes, n);
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < composed; i++)
        out->len += (size_t)utf8proc_encode_char(codes[i], buffer_reserve(out, 4));
    free(codes);
}

/* Returns the place of the first tail from `at` on, or len. *head: the head before that tail, or
 * the tail's own place if there is none. */
static size_t find_tail(
    const uint8_t *classes, const uint8_t *text, size_t len, size_t at, size_t *head)
{
    unsigned bytes;
    size_t before = at;
    int fuses = 0; /* the character at `before` is a head */
    while (at < len) {
        uint8_t class = classes[unicode_decode(text + at, &bytes)];
        if (class & UNICODE_TAIL)
            break;
        fuses = class & UNICODE_HEAD;
        before = at;
        at += bytes;
    }
    *head = fuses ? before : at;
    return at;
}

void nfc_append(struct buffer *out, const uint8_t *classes, const uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t head, end = find_tail(classes, text, len, i, &head);
        unsigned bytes;
        buffer_append(out, text + i, head - i);
        if (end == len) {
            buffer_append(out, text + head, end - head);
            return;
        }
        while (end < len && (classes[unicode_decode(text + end, &bytes)] & UNICODE_TAIL))
            end += bytes;
        compose(out, text + head, end - head);
        i = end;
    }
}
