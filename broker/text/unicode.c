/* unicode.c - writes the ranges of unicode_ranges.c into one table by code point (unicode.h). */
#include "broker/text/unicode.h"

#include <stdlib.h>

#include "schema/alloc.h"

static uint8_t classes_of(uint8_t category)
{
    uint32_t c = 1u << category;
    return (uint8_t)((c & UNICODE_LETTERS ? UNICODE_LETTER : 0) |
                     (c & UNICODE_NUMBERS ? UNICODE_NUMBER | UNICODE_DIGIT : 0) |
                     (c & UNICODE_WORD_CATEGORIES ? UNICODE_WORD : 0) |
                     (c & UNICODE_PUNCTUATION_MARKS ? UNICODE_PUNCTUATION : 0));
}

/* Turns the class of these characters on, or off where it is on. */
static void turn(uint8_t *classes, const struct unicode_range *ranges, unsigned n, uint8_t class)
{
    for (unsigned i = 0; i < n; i++)
        for (uint32_t c = ranges[i].first; c <= ranges[i].last; c++)
            classes[c] ^= class;
}

uint8_t *unicode_classes(void)
{
    uint8_t *classes = xcalloc(UNICODE_END, 1);
    for (unsigned i = 0; i < unicode_n_runs; i++) {
        uint32_t end = i + 1 < unicode_n_runs ? unicode_runs[i + 1].first : UNICODE_END;
        for (uint32_t c = unicode_runs[i].first; c < end; c++)
            classes[c] = classes_of(unicode_runs[i].category);
    }
    for (int c = '!'; c <= '~'; c++)
        if (!(classes[c] & (UNICODE_LETTER | UNICODE_NUMBER)))
            classes[c] |= UNICODE_PUNCTUATION;
    turn(classes, unicode_spaces, unicode_n_spaces, UNICODE_SPACE);
    turn(classes, unicode_tails, unicode_n_tails, UNICODE_TAIL);
    turn(classes, unicode_heads, unicode_n_heads, UNICODE_HEAD);
    turn(classes, unicode_words_but, unicode_n_words_but, UNICODE_WORD);
    turn(classes, unicode_single_words_but, unicode_n_single_words_but, UNICODE_WORD);
    turn(classes, unicode_digits_but, unicode_n_digits_but, UNICODE_DIGIT);
    turn(classes, unicode_punctuation_but, unicode_n_punctuation_but, UNICODE_PUNCTUATION);
    /* A Hangul syllable of two letters fuses with a third; every 28th syllable is one. */
    for (uint32_t c = 0xac00; c <= 0xd7a3; c += 28)
        classes[c] |= UNICODE_HEAD;
    return classes;
}

static int compare(const void *key, const void *range)
{
    uint32_t c = *(const uint32_t *)key;
    const struct unicode_range *r = range;
    return c < r->first ? -1 : c > r->last;
}

int unicode_is_in(const struct unicode_range *ranges, unsigned n, uint32_t c)
{
    return bsearch(&c, ranges, n, sizeof *ranges, compare) != NULL;
}

uint32_t unicode_lower(uint32_t c)
{
    const struct unicode_lower_run *run =
        bsearch(&c, unicode_lowers, unicode_n_lowers, sizeof *unicode_lowers, compare);
    if (!run || (c - run->range.first) % run->step != 0)
        return c;
    return (uint32_t)((int32_t)c + run->shift);
}
