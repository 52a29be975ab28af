/* pooler.c - resolves pool types to the batch's tokens, then runs head, activation and mean
 * (pooler.h). */
#include "worker/pooler.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"

/* A row of a batch, with its own arrays there, and where its prefix owner's tokens begin. */
struct placed_row {
    const struct stage_row *row;
    const int32_t *ids; /* the batch's */
    const int32_t *positions;
    uint32_t shared, own;
};

/* The batch's index of the token at this position of the row. */
static uint32_t token_at(const struct placed_row *p, uint32_t position)
{
    uint32_t n = p->row->n_shared;
    return position < n ? p->shared + position : p->own + (position - n);
}

/* Writes the tokens that the row pools to out (NULL: only counts them) and returns their number. */
static uint32_t resolve(const struct placed_row *p, uint32_t *out)
{
    const struct stage_row *row = p->row;
    uint32_t n = 0;
    switch (row->pool.type) {
    case POOL_LAST:
        if (out)
            out[0] =
                token_at(p, row->n_positions == 1 ? (uint32_t)p->positions[0] : row->n_tokens - 1);
        return 1;
    case POOL_CLS:
        if (out)
            out[0] = token_at(p, 0);
        return 1;
    case POOL_POSITIONS:
        for (; out && n < row->n_positions; n++)
            out[n] = token_at(p, (uint32_t)p->positions[n]);
        return row->n_positions;
    default:
        for (uint32_t i = 0; i < row->n_tokens; i++) {
            uint32_t token = token_at(p, i);
            if (row->pool.type == POOL_STEP && p->ids[token] != row->pool.step_token)
                continue;
            if (out)
                out[n] = token;
            n++;
        }
        return n;
    }
}

/* Moves p from row r - 1 to row r; for row 0, p must be zeroed. */
static void place_next(struct placed_row *p, const struct stage_batch *batch, uint32_t r)
{
    p->positions = r == 0 ? batch->positions : p->positions + p->row->n_positions;
    p->ids = batch->ids;
    p->row = &batch->rows[r];
    p->own = batch->cu_seqlens[r];
    if (p->row->n_shared == 0)
        p->shared = p->own;
}

static uint32_t values_of(const struct stage_row *row, uint32_t n_positions, uint32_t n_labels)
{
    uint32_t each = activation_values(row->pool.activation, n_labels);
    return row->pool.type == POOL_MEAN ? each : n_positions * each;
}

/* Counts every row's part of out_rows before memory is taken for it: rows that share tokens may
 * pool more of them than the batch has. */
static int count_out_rows(struct pooling_metadata *p, const struct stage_batch *batch,
    uint32_t max_out_rows, struct err *e)
{
    struct placed_row placed = {0};
    uint64_t total = 0;
    for (uint32_t r = 0; r < batch->n_rows; r++) {
        place_next(&placed, batch, r);
        uint32_t n = resolve(&placed, NULL);
        if (n == 0)
            return err_set(e, ASSAY_ENOSTEP, "row %u of the batch: no token to pool", r);
        total += n;
        if (total > max_out_rows)
            return err_set(e, ASSAY_ETOOLARGE,
                "rows 0 to %u of the batch pool %llu tokens: expected at most %u", r,
                (unsigned long long)total, max_out_rows);
        p->first[r + 1] = (uint32_t)total;
    }
    p->n_out_rows = (uint32_t)total;
    return 0;
}

int pooling_metadata_init(struct pooling_metadata *p, const struct stage_batch *batch,
    uint32_t n_labels, uint32_t max_out_rows, struct err *e)
{
    struct placed_row placed = {0};
    *p = (struct pooling_metadata){.n_rows = batch->n_rows};
    p->spans = xcalloc(batch->n_rows, sizeof *p->spans);
    p->first = xcalloc(batch->n_rows + 1u, sizeof *p->first);
    int rc = count_out_rows(p, batch, max_out_rows, e);
    if (rc != 0)
        return rc;
    p->out_rows = xcalloc(p->n_out_rows, sizeof *p->out_rows);
    for (uint32_t r = 0; r < batch->n_rows; r++) {
        const struct stage_row *row = &batch->rows[r];
        place_next(&placed, batch, r);
        uint32_t n = resolve(&placed, p->out_rows + p->first[r]);
        if (row->pool.activation == ACTIVATION_CLASS1 && n_labels < 2)
            return err_set(e, ASSAY_EFORMAT,
                "row %u of the batch: class1 needs 2 labels, the model has %u", r, n_labels);
        if (row->n_values != values_of(row, n, n_labels))
            return err_set(e, ASSAY_EFORMAT, "row %u of the batch: expected %u values, found %u", r,
                values_of(row, n, n_labels), row->n_values);
        p->spans[r] = (struct pool_span){
            p->first[r], n, row->pool.type == POOL_MEAN, row->pool.activation, p->n_values};
        p->n_values += row->n_values;
    }
    return 0;
}

void pooling_metadata_release(struct pooling_metadata *p)
{
    free(p->first);
    free(p->out_rows);
    free(p->spans);
    *p = (struct pooling_metadata){0};
}

/* The logits of all pooled tokens: those of the computed ones, and those that are kept. */
static struct tensor merge_logits(struct qwen2_reward_model *m, struct tensor computed,
    const struct kept_logits *k, uint32_t n_out_rows)
{
    const struct ops *ops = m->ops;
    const struct device_ops *device = ops->device;
    struct tensor all = computed, kept = computed, out = m->kv_caches.merged;
    all.rows = computed.rows + k->n_cached;
    kept = tensor_rows(all, computed.rows, k->n_cached);
    out.rows = n_out_rows;
    ops->gather(m->device, kept, m->kv_caches.logits,
        device->push(m->device, k->cached, k->n_cached * sizeof *k->cached));
    ops->gather(
        m->device, out, all, device->push(m->device, k->order, n_out_rows * sizeof *k->order));
    ops->keep(m->device, m->kv_caches.logits, computed,
        device->push(m->device, k->slots, k->n_slots * sizeof *k->slots), k->n_slots);
    return out;
}

void pooler(struct qwen2_reward_model *m, struct tensor hidden_states,
    const struct pooling_metadata *p, float *values)
{
    const struct ops *ops = m->ops;
    const struct pool_span *spans =
        ops->device->push(m->device, p->spans, p->n_rows * sizeof *spans);
    struct tensor logits = qwen2_reward_model_score(m, hidden_states, p->lora);
    if (p->kept)
        logits = merge_logits(m, logits, p->kept, p->n_out_rows);
    ops->pool(m->device, m->values, logits, spans, p->n_rows);
    ops->device->finish(m->device, values, m->values, values ? p->n_values * sizeof *values : 0);
}
