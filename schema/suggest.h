/* suggest.h - suggests the intended word for a mistyped one: options and verbs of every program. */
#ifndef ASSAY_SUGGEST_H
#define ASSAY_SUGGEST_H

#include <getopt.h>
#include <stddef.h>

struct suggestion {
    const char *typed, *best; /* best: NULL when none is near */
    size_t distance;
};

void suggestion_begin(struct suggestion *s, const char *typed);
/* Tries an existing word, borrowed as long as the suggestion is used. */
void suggestion_try(struct suggestion *s, const char *word);
/* Writes "; did you mean --WORD?", or ""; `before` is the "--". Returns text. */
const char *suggestion_text(
    const struct suggestion *s, const char *before, char *text, size_t text_bytes);

/* Writes to `text` what getopt_long found wrong, naming the option. Call getopt_long with opterr 0
 * and letters that begin with ':'. `found` is its result (':' or '?'); optopt and optind must be as
 * it left them. */
void suggest_explain(
    const struct option *list, int found, char *const *argv, char *text, size_t text_bytes);

#endif
