/* normal_form.c - finds the stretches of a text that may change, and decomposes, sorts and composes
 * their characters (normal_form.h). */
#include "broker/text/normal_form.h"

#include <assert.h>
#include <stdlib.h>
#include <sysexits.h>
#include <utf8proc.h>

#include "broker/text/unicode.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define LONGEST_DECOMPOSITION 18 /* characters, that of U+FDFA; the longest canonical one has 4 */

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

static int is_composed(enum normal_form form)
{
    return form == NORMAL_NFC || form == NORMAL_NFKC;
}

static int is_compatible(enum normal_form form)
{
    return form == NORMAL_NFKC || form == NORMAL_NFKD;
}

/* Normalizes a stretch: decompose, sort, compose. */
static void change(struct buffer *out, enum normal_form form, const uint8_t *text, size_t len)
{
    size_t room = len * LONGEST_DECOMPOSITION + LONGEST_DECOMPOSITION, n = 0;
    utf8proc_option_t how = is_compatible(form) ? UTF8PROC_COMPAT : 0;
    utf8proc_int32_t *codes = malloc(room * sizeof *codes);
    if (!codes)
        die(EX_OSERR, "out of memory: %zu bytes of text to normalize", len);
    for (size_t i = 0; i < len;) {
        unsigned bytes;
        utf8proc_int32_t code = (utf8proc_int32_t)unicode_decode(text + i, &bytes);
        utf8proc_ssize_t got = utf8proc_decompose_char(code, codes + n,
            (utf8proc_ssize_t)(room - n), how | UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        assert(got > 0 && got <= LONGEST_DECOMPOSITION);
        n += (size_t)got;
        i += bytes;
    }
    sort_marks(codes, n);
    if (is_composed(form))
        n = (size_t)utf8proc_normalize_utf32(
            codes, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (size_t i = 0; i < n; i++)
        out->len += (size_t)utf8proc_encode_char(codes[i], buffer_reserve(out, 4));
    free(codes);
}

/* May the form change this character, move it, or fuse it with what precedes? */
static int is_active(enum normal_form form, const uint8_t *classes, uint32_t c)
{
    if (form == NORMAL_NFC)
        return classes[c] & UNICODE_TAIL;
    return c >= 0x80 &&
           ((classes[c] & (UNICODE_TAIL | UNICODE_HEAD)) ||
               (c >= 0xac00 && c <= 0xd7a3) || /* Hangul syllables */
               (is_compatible(form) && unicode_is_in(unicode_compatible, unicode_n_compatible, c)));
}

/* Returns the place of the first active character from `at` on, or len. *head: the head before it
 * that it may fuse with, or its own place if there is none. */
static size_t find_active(enum normal_form form, const uint8_t *classes, const uint8_t *text,
    size_t len, size_t at, size_t *head)
{
    unsigned bytes;
    size_t before = at;
    int fuses = 0; /* the character at `before` is a head */
    while (at < len) {
        uint32_t c = unicode_decode(text + at, &bytes);
        if (is_active(form, classes, c))
            break;
        fuses = is_composed(form) && (classes[c] & UNICODE_HEAD);
        before = at;
        at += bytes;
    }
    *head = fuses ? before : at;
    return at;
}

void normal_form_append(struct buffer *out, enum normal_form form, const uint8_t *classes,
    const uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t head, end = find_active(form, classes, text, len, i, &head);
        unsigned bytes;
        buffer_append(out, text + i, head - i);
        if (end == len) {
            buffer_append(out, text + head, end - head);
            return;
        }
        while (end < len && is_active(form, classes, unicode_decode(text + end, &bytes)))
            end += bytes;
        change(out, form, text + head, end - head);
        i = end;
    }
}
