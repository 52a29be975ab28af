/* side_tokens.h - a list of added tokens that grows like that of Hugging Face's tokenizers: each
 * token gets the next free id unless its text is a token already; a token with a known text changes
 * the flags.
 *
 * Tokens are objects as in tokenizer.json's added_tokens. If `normalized` is absent, it is the
 * opposite of `special`. */
#ifndef ASSAY_SIDE_TOKENS_H
#define ASSAY_SIDE_TOKENS_H

#include <jansson.h>

struct side_tokens {
    const json_t *vocab; /* borrowed */
    json_t *list;        /* array, with ids and all flags */
    json_t *by_content;  /* from text to the list's element */
    json_int_t highest;  /* highest id in the list, -1: none */
    json_int_t next;     /* id for the next new text */
};

void side_tokens_init(struct side_tokens *t, const json_t *vocab);
void side_tokens_release(struct side_tokens *t);
/* Starts one call of several tokens; the first free id is determined here, once for each call. */
void side_tokens_begin(struct side_tokens *t);
/* Adds a token, copying what it needs. Does nothing if the content is absent or empty. */
void side_tokens_add(struct side_tokens *t, const json_t *token);
json_t *side_tokens_find(const struct side_tokens *t, const char *content); /* NULL: none */

const char *side_content(const json_t *token); /* NULL: none */
int side_flag(const json_t *token, const char *name);
int side_same(const json_t *a, const json_t *b); /* are all flags equal? */

#endif
