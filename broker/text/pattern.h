/* pattern.h - runs the patterns of a tokenizer.json: where they match in a text.
 *
 * A pattern tells characters apart only by the sets that it names, so all characters that are in
 * the same of them are one code, of which there are at most 256. A text becomes its codes, a byte
 * for each character, and PCRE2 runs the pattern over these, knowing nothing of Unicode: what a
 * letter is stays the reference's (pattern_syntax.h), whatever version of PCRE2 is installed.
 *
 * LIMITS: a match may backtrack some 10^7 + 64 times the text's characters before the text is
 * refused, and take 512 MiB. Not counted is a possessive or atomic run that is begun at each place
 * of a text and fails there.
 *
 * A pattern is read-only and may be shared; each thread has its own matcher. */
#ifndef ASSAY_PATTERN_H
#define ASSAY_PATTERN_H

#include "broker/text/added.h"
#include "schema/err.h"
#include "schema/msg.h"

struct pattern;

/* ASSAY_EFORMAT naming what in the pattern cannot be honoured. */
int pattern_new(struct pattern **p, const char *pattern, struct err *e);
/* The pattern that matches this text, at least one byte. */
int pattern_new_text(struct pattern **p, const char *text, struct err *e);
void pattern_free(struct pattern **p);

struct pattern_matcher;

struct pattern_matcher *pattern_matcher_new(void); /* for any pattern */
void pattern_matcher_free(struct pattern_matcher **m);
/* Begins the search in text (valid UTF-8), which stays borrowed until the last match. */
void pattern_begin(struct pattern_matcher *m, const struct pattern *p, struct slice text);
/* Finds the next match, behind the last. Returns 1 and *match in bytes, not empty; 0: none; or
 * ASSAY_EBADTEXT: a limit is reached. */
int pattern_next(struct pattern_matcher *m, struct span *match, struct err *e);

#endif
