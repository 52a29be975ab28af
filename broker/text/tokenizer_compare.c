/* tokenizer_compare.c - finds what two tokenizers would write differently (tokenizer.h). It
 * compares all that the encoder reads, not texts: no text shows every merge. */
#include <stdio.h>
#include <string.h>

#include "broker/text/tokenizer_private.h"

static int are_same_json(const json_t *a, const json_t *b)
{
    return a && b ? json_equal(a, b) : a == b;
}

static int are_same_ids(const struct id_list *a, const struct id_list *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->at, b->at, a->len * sizeof *a->at) == 0);
}

/* Returns the first id that is another token in the two, -1: none. */
static int64_t find_other_token(const struct tokenizer *a, const struct tokenizer *b)
{
    uint32_t n = a->n_ids > b->n_ids ? a->n_ids : b->n_ids;
    for (uint32_t id = 0; id < n; id++)
        if (!slice_is_same(tokenizer_piece(a, (int32_t)id), tokenizer_piece(b, (int32_t)id)))
            return id;
    return -1;
}

int tokenizer_differs(const struct tokenizer *a, const struct tokenizer *b, char *what, size_t size)
{
    int64_t id = find_other_token(a, b);
    const char *part = bpe_difference(a->bpe, b->bpe);
    if (id >= 0) {
        snprintf(what, size, "token under id %lld", (long long)id);
        return 1;
    }
    if (!part && (!added_sets_are_same(&a->added, &b->added) ||
                     !added_sets_are_same(&a->added_normalized, &b->added_normalized)))
        part = "flags of the added tokens";
    if (!part && !are_same_json(a->normalizer_json, b->normalizer_json))
        part = "normalizer";
    if (!part && !are_same_json(a->pre_json, b->pre_json))
        part = "pre_tokenizer";
    if (!part && !(are_same_ids(&a->before, &b->before) && are_same_ids(&a->behind, &b->behind)))
        part = "tokens before and behind a text";
    snprintf(what, size, "%s", part ? part : "");
    return part != NULL;
}
