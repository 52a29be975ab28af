/* pattern_syntax.h - reads a pattern as the reference's engine (Oniguruma) does, and writes it for
 * PCRE2.
 *
 * Read are: characters and their escapes; `.`, \s \S \d \D \w \W; \p{..} and \P{..} of categories
 * and Han; classes, with ranges, classes inside, and &&; groups, atomic groups and (?i:..);
 * lookahead and lookbehind; $ \A \z; the quantifiers * + ? {n} {n,m} with ? or + behind. Whatever
 * else the two engines may read differently is refused by name, and so is a pattern that can match
 * nothing.
 *
 * Where they differ the writing says what the reference means: {n,m}+ repeats a repetition, $
 * stands before a newline or at the end. Every set of characters is spelled out, so neither engine
 * decides what a letter is. */
#ifndef ASSAY_PATTERN_SYNTAX_H
#define ASSAY_PATTERN_SYNTAX_H

#include "broker/text/buffer.h"
#include "broker/text/charset.h"
#include "schema/err.h"

#define PATTERN_MAX_SETS 64

/* Zero-initialize; release after use. */
struct pattern_syntax {
    struct buffer text; /* for PCRE2, but a byte from 0x80 on stands for sets[byte - 0x80] */
    struct charset sets[PATTERN_MAX_SETS];
    unsigned n_sets;
};

/* ASSAY_EFORMAT naming what in the pattern is not read, and where. */
int pattern_syntax_read(struct pattern_syntax *s, const char *pattern, struct err *e);
void pattern_syntax_release(struct pattern_syntax *s);

#endif
