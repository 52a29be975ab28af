/* chunked_prefill.c - see chunked_prefill.h. */
#include "worker/chunked_prefill.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "worker/pooler.h"

/* The batch's own arrays, which stage_batch only borrows. */
static struct stage_row *rows_of(const struct chunked_prefill *c)
{
    return (struct stage_row *)c->batch.rows;
}

static int32_t *ids_of(const struct chunked_prefill *c)
{
    return (int32_t *)c->batch.ids;
}

static int32_t *positions_of(const struct chunked_prefill *c)
{
    return (int32_t *)c->batch.positions;
}

static uint32_t *ends_of(const struct chunked_prefill *c)
{
    return (uint32_t *)c->batch.cu_seqlens;
}

void chunked_prefill_init(
    struct chunked_prefill *c, const struct stage_batch *whole, uint32_t most, uint32_t n_labels)
{
    uint32_t longest = most;
    *c = (struct chunked_prefill){.whole = whole, .most = most, .n_labels = n_labels};
    for (uint32_t r = 0; r < whole->n_rows; r++)
        longest = whole->rows[r].n_tokens > longest ? whole->rows[r].n_tokens : longest;
    c->batch.token = whole->token;
    c->batch.rows = xcalloc(whole->n_rows, sizeof *c->batch.rows);
    c->batch.ids = xcalloc(longest, sizeof *c->batch.ids);
    c->batch.cu_seqlens = xcalloc(whole->n_rows + 1u, sizeof *c->batch.cu_seqlens);
    c->batch.positions = xcalloc(whole->n_positions + (size_t)most, sizeof *c->batch.positions);
}

void chunked_prefill_release(struct chunked_prefill *c)
{
    free((void *)c->batch.rows);
    free((void *)c->batch.ids);
    free((void *)c->batch.cu_seqlens);
    free((void *)c->batch.positions);
    *c = (struct chunked_prefill){0};
}

/* Adds row r, the next one; whole: with the tokens that it shares in the whole batch. */
static void add_row(struct chunked_prefill *c, uint32_t r, int is_whole)
{
    const struct stage_batch *b = c->whole;
    const struct stage_row *row = &b->rows[r];
    uint32_t shared = row->n_shared, own = row->n_tokens - shared, owner = r;
    int32_t *ids = ids_of(c) + c->batch.n_tokens;
    rows_of(c)[c->batch.n_rows] = *row;
    if (is_whole && shared > 0) {
        while (b->rows[owner].n_shared > 0)
            owner--;
        memcpy(ids, b->ids + b->cu_seqlens[owner], shared * sizeof *ids);
        rows_of(c)[c->batch.n_rows].n_shared = 0;
        c->batch.n_tokens += shared;
        ids += shared;
    }
    memcpy(ids, b->ids + b->cu_seqlens[r], own * sizeof *ids);
    if (row->n_positions > 0)
        memcpy(positions_of(c) + c->batch.n_positions,
            b->positions + c->n_positions + c->batch.n_positions, row->n_positions * sizeof *ids);
    c->batch.n_positions += row->n_positions;
    c->batch.n_tokens += own;
    c->batch.n_values += row->n_values;
    ends_of(c)[++c->batch.n_rows] = c->batch.n_tokens;
}

static void begin(struct chunked_prefill *c)
{
    c->batch.n_rows = c->batch.n_tokens = c->batch.n_positions = c->batch.n_values = 0;
    c->is_part = 0;
}

/* Adds rows from c->row on, as many as fit; the first at any length. */
static void add_rows(struct chunked_prefill *c)
{
    const struct stage_row *rows = c->whole->rows;
    uint32_t first = c->row;
    do
        add_row(c, c->row, c->row == first);
    while (++c->row < c->whole->n_rows &&
           c->batch.n_tokens + rows[c->row].n_tokens - rows[c->row].n_shared <= c->most);
    c->n_positions += c->batch.n_positions;
    c->n_values += c->batch.n_values;
    c->token = 0;
}

/* Cuts the batch, which is one whole row, down to its first `end` tokens, and pools those of the
 * last chunk that the row pools; its last token if there are none. */
static int cut_row(struct chunked_prefill *c, uint32_t from, uint32_t end, struct err *e)
{
    struct stage_batch *b = &c->batch;
    struct stage_row *row = rows_of(c);
    struct pooling_metadata p;
    uint8_t *wanted = xcalloc(end - from, sizeof *wanted);
    int rc = pooling_metadata_init(&p, b, c->n_labels, UINT32_MAX, e);
    for (uint32_t i = 0; rc == 0 && i < p.n_out_rows; i++)
        if (p.out_rows[i] >= from && p.out_rows[i] < end)
            wanted[p.out_rows[i] - from] = 1;
    pooling_metadata_release(&p);
    b->n_positions = 0;
    for (uint32_t i = from; i < end; i++)
        if (wanted[i - from])
            positions_of(c)[b->n_positions++] = (int32_t)i;
    free(wanted);
    row->n_tokens = b->n_tokens = ends_of(c)[1] = end;
    row->n_positions = b->n_positions;
    row->pool.type = b->n_positions > 0 ? POOL_POSITIONS : POOL_LAST;
    row->pool.activation = ACTIVATION_NONE;
    row->n_values = b->n_values = (b->n_positions > 0 ? b->n_positions : 1) * c->n_labels;
    return rc;
}

int chunked_prefill_next(struct chunked_prefill *c, struct err *e)
{
    begin(c);
    if (c->row == c->whole->n_rows)
        return 0;
    if (c->whole->rows[c->row].n_tokens - c->token <= c->most) {
        add_rows(c);
        return 1;
    }
    add_row(c, c->row, 1);
    c->is_part = 1;
    c->token += c->most;
    int rc = cut_row(c, c->token - c->most, c->token, e);
    return rc == 0 ? 1 : rc;
}
