/* charset.c - unites, complements and intersects lists of ranges, and makes those of classes
 * (charset.h). */
#include "broker/text/charset.h"

#include <stdlib.h>
#include <string.h>

#include "broker/text/buffer.h"

void charset_release(struct charset *s)
{
    free(s->at);
    *s = (struct charset){0};
}

/* Appends a range behind all others; it may touch the last. */
static void append(struct charset *s, uint32_t first, uint32_t last)
{
    if (s->n > 0 && s->at[s->n - 1].last + 1 >= first) {
        if (last > s->at[s->n - 1].last)
            s->at[s->n - 1].last = last;
        return;
    }
    s->at = list_grow(s->at, s->n, &s->room, sizeof *s->at);
    s->at[s->n++] = (struct unicode_range){first, last};
}

void charset_add_all(struct charset *s, const struct charset *other)
{
    struct charset sum = {0};
    size_t i = 0, k = 0;
    while (i < s->n || k < other->n) {
        int mine = k == other->n || (i < s->n && s->at[i].first <= other->at[k].first);
        const struct unicode_range *next = mine ? &s->at[i++] : &other->at[k++];
        append(&sum, next->first, next->last);
    }
    charset_release(s);
    *s = sum;
}

void charset_add(struct charset *s, uint32_t first, uint32_t last)
{
    struct unicode_range range = {first, last};
    if (s->n == 0 || first > s->at[s->n - 1].last)
        append(s, first, last);
    else
        charset_add_all(s, &(struct charset){&range, 1, 1});
}

void charset_invert(struct charset *s)
{
    struct charset rest = {0};
    uint32_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->at[i].first > next)
            append(&rest, next, s->at[i].first - 1);
        next = s->at[i].last + 1;
    }
    if (next < UNICODE_END)
        append(&rest, next, UNICODE_END - 1);
    charset_release(s);
    *s = rest;
}

/* What both have is what neither lacks. */
void charset_intersect(struct charset *s, const struct charset *other)
{
    struct charset lacks = {0};
    charset_add_all(&lacks, other);
    charset_invert(&lacks);
    charset_invert(s);
    charset_add_all(s, &lacks);
    charset_invert(s);
    charset_release(&lacks);
}

int charset_same(const struct charset *a, const struct charset *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->at, b->at, a->n * sizeof *a->at) == 0);
}

int charset_has(const struct charset *s, uint32_t c)
{
    for (size_t i = 0; i < s->n && s->at[i].first <= c; i++)
        if (c <= s->at[i].last)
            return 1;
    return 0;
}

/* ---- properties ---- */

void charset_add_categories(struct charset *s, uint32_t categories)
{
    struct charset found = {0};
    for (unsigned i = 0; i < unicode_n_runs; i++)
        if (categories >> unicode_runs[i].category & 1)
            append(&found, unicode_runs[i].first,
                (i + 1 < unicode_n_runs ? unicode_runs[i + 1].first : UNICODE_END) - 1);
    charset_add_all(s, &found);
    charset_release(&found);
}

static void add_table(struct charset *s, const struct unicode_range *ranges, unsigned n)
{
    charset_add_all(s, &(struct charset){(struct unicode_range *)(uintptr_t)ranges, n, n});
}

void charset_add_spaces(struct charset *s)
{
    add_table(s, unicode_spaces, unicode_n_spaces);
}

/* The words are their categories' characters but those of a table, and those of it that are none of
 * the categories. */
void charset_add_words(struct charset *s, int is_alone)
{
    struct charset words = {0}, but = {0}, both = {0};
    charset_add_categories(&words, UNICODE_WORD_CATEGORIES);
    add_table(&but, unicode_words_but, unicode_n_words_but);
    charset_add_all(&both, &words);
    charset_intersect(&both, &but);
    charset_invert(&both);
    charset_add_all(&words, &but);
    charset_intersect(&words, &both);
    charset_add_all(s, &words);
    if (is_alone)
        add_table(s, unicode_words_alone, unicode_n_words_alone);
    charset_release(&words);
    charset_release(&but);
    charset_release(&both);
}

int charset_add_property(struct charset *s, const char *name, size_t len)
{
    static const char names[][3] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
        "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp",
        "Cc", "Cf", "Co", "Cn"};
    uint32_t categories = 0;
    if (len == 3 && memcmp(name, "Han", 3) == 0) {
        add_table(s, unicode_han, unicode_n_han);
        return 0;
    }
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if ((len == 1 || len == 2) && memcmp(name, names[i], len) == 0)
            categories |= 1u << i;
    charset_add_categories(s, categories);
    return categories ? 0 : -1;
}
