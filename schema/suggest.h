/* suggest.h - the word that was meant, where one was mistyped: options and verbs of every program. */
#ifndef ASSAY_SUGGEST_H
#define ASSAY_SUGGEST_H

#include <getopt.h>
#include <stddef.h>

struct suggestion {
    const char *typed, *best; /* best: NULL, none is near */
    size_t distance;
};

void suggestion_begin(struct suggestion *s, const char *typed);
/* A word that there is; borrowed as long as the suggestion is used. */
void suggestion_try(struct suggestion *s, const char *word);
/* "; did you mean --WORD?", or "". Returns text. */
const char *suggestion_text(
    const struct suggestion *s, const char *before, char *text, size_t text_bytes);

/* What getopt_long found wrong, in words that name the option. It was called with opterr 0 and letters
 * that begin with ':'; `found` is what it returned (':' or '?'), optopt and optind as it left them. */
void suggest_explain(
    const struct option *list, int found, char *const *argv, char *text, size_t text_bytes);

#endif
