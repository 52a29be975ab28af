/* charset.h - sets of characters, as the split patterns of a tokenizer.json name them.
 *
 * A set is a list of ranges, ascending, not overlapping and not touching. Zero-initialize for the
 * empty set; charset_release frees it. Sums of sets and their complements are sets again, in this
 * form. */
#ifndef ASSAY_CHARSET_H
#define ASSAY_CHARSET_H

#include <stddef.h>
#include <stdint.h>

#include "broker/text/unicode.h"

struct charset {
    struct unicode_range *at;
    size_t n, room;
};

void charset_release(struct charset *s);
/* Adds the characters first to last. */
void charset_add(struct charset *s, uint32_t first, uint32_t last);
void charset_add_all(struct charset *s, const struct charset *other);
/* Makes it the set of all other characters. */
void charset_invert(struct charset *s);
/* Keeps what the other has, too. */
void charset_intersect(struct charset *s, const struct charset *other);
int charset_same(const struct charset *a, const struct charset *b);
int charset_has(const struct charset *s, uint32_t c);

/* Add the characters of a property, as the reference's patterns know it. */
void charset_add_categories(struct charset *s, uint32_t categories); /* 1 << category, ored */
void charset_add_spaces(struct charset *s);                          /* \s */
/* \w; is_alone: outside of a class it has some characters more. */
void charset_add_words(struct charset *s, int is_alone);
/* The property of this name: a category (Lu, L) or Han. Returns 0, -1: unknown. */
int charset_add_property(struct charset *s, const char *name, size_t len);

#endif
