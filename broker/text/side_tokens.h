/* side_tokens.h - a list of added tokens that grows as that of Hugging Face's tokenizers does: each token
 * gets the next free id unless its text is a token already, and one of a known text changes the flags.
 *
 * Tokens are objects as in tokenizer.json's added_tokens; `normalized` may be absent: then it is what
 * `special` is not. */
#ifndef ASSAY_SIDE_TOKENS_H
#define ASSAY_SIDE_TOKENS_H

#include <jansson.h>

struct side_tokens {
    const json_t *vocab; /* borrowed */
    json_t *list;        /* array, with ids and all flags */
    json_t *by_content;  /* text to the list's element */
    json_int_t highest;  /* id in the list, -1: none */
    json_int_t next;     /* id of a text that is no token yet */
};

void side_tokens_init(struct side_tokens *t, const json_t *vocab);
void side_tokens_release(struct side_tokens *t);
/* Tokens are added in calls of several, and the first free id is looked for at the beginning of each. */
void side_tokens_begin(struct side_tokens *t);
/* Copies what it needs of the token. Without content, or with an empty one: nothing. */
void side_tokens_add(struct side_tokens *t, const json_t *token);
json_t *side_tokens_find(const struct side_tokens *t, const char *content); /* NULL: none */

const char *side_content(const json_t *token); /* NULL: none */
int side_flag(const json_t *token, const char *name);
int side_same(const json_t *a, const json_t *b); /* flags alike */

#endif
