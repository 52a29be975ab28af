/* unicode.c - writes the ranges of unicode_ranges.c into one table by code point (unicode.h). */
#include "broker/text/unicode.h"

#include "schema/log.h"

static void mark(uint8_t *classes, const struct unicode_range *ranges, unsigned n, uint8_t class)
{
    for (unsigned i = 0; i < n; i++)
        for (uint32_t c = ranges[i].first; c <= ranges[i].last; c++)
            classes[c] |= class;
}

uint8_t *unicode_classes(void)
{
    uint8_t *classes = xcalloc(UNICODE_END, 1);
    mark(classes, unicode_letters, unicode_n_letters, UNICODE_LETTER);
    mark(classes, unicode_numbers, unicode_n_numbers, UNICODE_NUMBER);
    mark(classes, unicode_spaces, unicode_n_spaces, UNICODE_SPACE);
    mark(classes, unicode_tails, unicode_n_tails, UNICODE_TAIL);
    mark(classes, unicode_heads, unicode_n_heads, UNICODE_HEAD);
    /* A Hangul syllable of two letters fuses with a third; every 28th syllable is one. */
    for (uint32_t c = 0xac00; c <= 0xd7a3; c += 28)
        classes[c] |= UNICODE_HEAD;
    return classes;
}
