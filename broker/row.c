/* row.c - allocates and frees rows and sequences, and says which tokens a sequence pools
 * (row.h). */
#include "broker/row.h"

#include <stdlib.h>

#include "schema/alloc.h"

struct sequence *sequence_new(uint32_t n_tokens, uint32_t n_positions)
{
    struct sequence *r = xcalloc(1, sizeof *r + ((size_t)n_tokens + n_positions) * sizeof(int32_t));
    r->n_tokens = n_tokens;
    r->n_positions = n_positions;
    r->ids = (int32_t *)(r + 1);
    r->positions = r->ids + n_tokens;
    return r;
}

struct row *row_new(uint32_t n_parts, uint32_t n_tokens)
{
    struct row *l = xcalloc(1, sizeof *l);
    l->n_parts = n_parts;
    l->n_tokens = n_tokens;
    l->values = xcalloc(n_parts, sizeof *l->values);
    l->pooled = xcalloc(n_parts, 2 * sizeof *l->pooled);
    l->done = xcalloc(n_parts, 1);
    l->origin = ROW_COPIED;
    return l;
}

void row_unref(struct row *l)
{
    if (!l || --l->refs > 0)
        return;
    free(l->values);
    free(l->pooled);
    free(l->done);
    free(l);
}

void sequence_free(struct sequence **r)
{
    for (struct sequence *duplicate = *r ? (*r)->duplicates : NULL, *next; duplicate;
         duplicate = next) {
        next = duplicate->next;
        sequence_free(&duplicate);
    }
    if (*r) {
        row_unref((*r)->of);
        free((*r)->found_values);
        free((*r)->found_message);
    }
    free(*r);
    *r = NULL;
}

uint32_t sequence_pooled(const struct sequence *r)
{
    uint32_t steps = 0;
    switch (r->pool.type) {
    case POOL_ALL:
    case POOL_MEAN:
        return r->n_tokens;
    case POOL_POSITIONS:
        return r->n_positions;
    case POOL_STEP:
        for (uint32_t i = 0; i < r->n_tokens; i++)
            steps += r->ids[i] == r->pool.step_token;
        return steps;
    default:
        return 1;
    }
}

int32_t *sequence_pooled_at(const struct sequence *r, uint32_t *n)
{
    int32_t *pairs = xcalloc((size_t)r->n_tokens + r->n_positions + 1, 2 * sizeof *pairs);
    *n = 0;
    for (uint32_t i = 0; r->pool.type == POOL_STEP && i < r->n_tokens; i++)
        if (r->ids[i] == r->pool.step_token)
            pairs[2 * (*n)++] = (int32_t)i;
    if (r->pool.type == POOL_LAST || r->pool.type == POOL_CLS)
        pairs[2 * (*n)++] = r->pool.type == POOL_CLS ? 0
                            : r->n_positions == 1    ? r->positions[0]
                                                     : (int32_t)r->n_tokens - 1;
    for (uint32_t i = 0; r->pool.type == POOL_POSITIONS && i < r->n_positions; i++)
        pairs[2 * (*n)++] = r->positions[i];
    for (uint32_t i = 0; i < *n; i++)
        pairs[2 * i + 1] = r->ids[pairs[2 * i]];
    return pairs;
}
