/* row.c - see row.h. */
#include "broker/row.h"

#include <stdlib.h>

#include "schema/log.h"

struct row *row_new(uint32_t n_tokens, uint32_t n_positions)
{
    struct row *r = xcalloc(1, sizeof *r + ((size_t)n_tokens + n_positions) * sizeof(int32_t));
    r->n_tokens = n_tokens;
    r->n_positions = n_positions;
    r->ids = (int32_t *)(r + 1);
    r->positions = r->ids + n_tokens;
    return r;
}

struct line *line_new(uint32_t n_parts, uint32_t n_tokens)
{
    struct line *l = xcalloc(1, sizeof *l);
    l->n_parts = n_parts;
    l->n_tokens = n_tokens;
    l->values = xcalloc(n_parts, sizeof *l->values);
    l->pooled = xcalloc(n_parts, 2 * sizeof *l->pooled);
    l->done = xcalloc(n_parts, 1);
    l->origin = ROW_COPIED;
    return l;
}

void line_unref(struct line *l)
{
    if (!l || --l->refs > 0)
        return;
    free(l->values);
    free(l->pooled);
    free(l->done);
    free(l);
}

void row_free(struct row **r)
{
    for (struct row *duplicate = *r ? (*r)->duplicates : NULL, *next; duplicate; duplicate = next) {
        next = duplicate->next;
        row_free(&duplicate);
    }
    if (*r) {
        line_unref((*r)->line);
        free((*r)->known);
        free((*r)->known_message);
    }
    free(*r);
    *r = NULL;
}

struct batch *batch_new(uint32_t max_rows, uint32_t min_shared)
{
    struct batch *b = xcalloc(1, sizeof *b);
    b->min_shared = min_shared;
    b->rows = xcalloc(max_rows, sizeof(struct row *));
    return b;
}

void batch_move(struct batch *b, struct row **r)
{
    if (b->n_rows == 0)
        (*r)->n_shared = 0;
    if ((*r)->n_shared == 0)
        b->leader = b->n_rows;
    b->n_tokens += (*r)->n_tokens - (*r)->n_shared;
    b->n_pooled += row_pooled(*r);
    b->n_positions += (*r)->n_positions;
    b->n_values += (*r)->n_values;
    b->rows[b->n_rows++] = *r;
    *r = NULL;
}

void batch_add(struct batch *b, struct row **r)
{
    struct joining j = batch_try(b, *r);
    if (j.detaches) {
        b->leader = b->n_rows - 1;
        b->rows[b->leader]->n_shared = 0;
    }
    for (uint32_t i = b->leader + 1; j.n_shared > 0 && i < b->n_rows; i++)
        b->rows[i]->n_shared = j.n_shared;
    (*r)->n_shared = j.n_shared;
    batch_move(b, r);
    b->n_tokens = j.n_tokens;
}

void batch_free(struct batch **out)
{
    struct batch *b = *out;
    if (!b)
        return;
    for (uint32_t i = 0; i < b->n_rows; i++)
        row_free(&b->rows[i]);
    free(b->rows);
    free(b->values);
    free(b);
    *out = NULL;
}

uint32_t row_pooled(const struct row *r)
{
    uint32_t steps = 0;
    switch (r->pool_type) {
    case POOL_ALL:
    case POOL_MEAN:
        return r->n_tokens;
    case POOL_POSITIONS:
        return r->n_positions;
    case POOL_STEP:
        for (uint32_t i = 0; i < r->n_tokens; i++)
            steps += r->ids[i] == r->step_token;
        return steps;
    default:
        return 1;
    }
}

int32_t *row_pooled_at(const struct row *r, uint32_t *n)
{
    int32_t *pairs = xcalloc((size_t)r->n_tokens + r->n_positions + 1, 2 * sizeof *pairs);
    *n = 0;
    for (uint32_t i = 0; r->pool_type == POOL_STEP && i < r->n_tokens; i++)
        if (r->ids[i] == r->step_token)
            pairs[2 * (*n)++] = (int32_t)i;
    if (r->pool_type == POOL_LAST || r->pool_type == POOL_CLS)
        pairs[2 * (*n)++] = r->pool_type == POOL_CLS ? 0
                            : r->n_positions == 1    ? r->positions[0]
                                                     : (int32_t)r->n_tokens - 1;
    for (uint32_t i = 0; r->pool_type == POOL_POSITIONS && i < r->n_positions; i++)
        pairs[2 * (*n)++] = r->positions[i];
    for (uint32_t i = 0; i < *n; i++)
        pairs[2 * i + 1] = r->ids[pairs[2 * i]];
    return pairs;
}
