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

void row_free(struct row **r)
{
    free(*r);
    *r = NULL;
}

struct batch *batch_new(uint32_t max_rows)
{
    struct batch *b = xcalloc(1, sizeof *b);
    b->rows = xcalloc(max_rows, sizeof(struct row *));
    return b;
}

void batch_add(struct batch *b, struct row **r)
{
    b->n_tokens += (*r)->n_tokens;
    b->n_positions += (*r)->n_positions;
    b->n_values += (*r)->n_values;
    b->rows[b->n_rows++] = *r;
    *r = NULL;
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
