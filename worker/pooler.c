/* pooler.c - see pooler.h. */
#include "worker/pooler.h"

#include <stdlib.h>
#include <string.h>

#include "schema/log.h"

/* Positions that row r pools, counted from its first token, into out (NULL: only count them). */
static uint32_t resolve(
    const struct stage_row *row, const int32_t *ids, const int32_t *positions, uint32_t *out)
{
    uint32_t n = 0;
    switch (row->pool_type) {
    case POOL_LAST:
        if (out)
            out[0] = row->n_positions == 1 ? (uint32_t)positions[0] : row->n_tokens - 1;
        return 1;
    case POOL_CLS:
        if (out)
            out[0] = 0;
        return 1;
    case POOL_POSITIONS:
        for (; out && n < row->n_positions; n++)
            out[n] = (uint32_t)positions[n];
        return row->n_positions;
    default:
        for (uint32_t i = 0; i < row->n_tokens; i++) {
            if (row->pool_type == POOL_STEP && ids[i] != row->step_token)
                continue;
            if (out)
                out[n] = i;
            n++;
        }
        return n;
    }
}

static uint32_t values_of(const struct stage_row *row, uint32_t n_positions, uint32_t n_labels)
{
    uint32_t each = activation_values((int)row->activation, n_labels);
    return row->pool_type == POOL_MEAN ? each : n_positions * each;
}

int pooling_metadata_init(
    struct pooling_metadata *p, const struct stage_batch *batch, uint32_t n_labels, struct err *e)
{
    const int32_t *positions = batch->positions;
    *p = (struct pooling_metadata){.n_rows = batch->n_rows};
    p->spans = xcalloc(batch->n_rows, sizeof *p->spans);
    p->first = xcalloc(batch->n_rows + 1u, sizeof *p->first);
    p->out_rows = xcalloc((size_t)batch->n_tokens + batch->n_positions, sizeof *p->out_rows);
    for (uint32_t r = 0; r < batch->n_rows; r++) {
        const struct stage_row *row = &batch->rows[r];
        uint32_t token = batch->cu_seqlens[r], *out = p->out_rows + p->first[r];
        uint32_t n = resolve(row, batch->ids + token, positions, out);
        for (uint32_t k = 0; k < n; k++)
            out[k] += token;
        p->first[r + 1] = p->first[r] + n;
        positions += row->n_positions;
        if (n == 0)
            return err_set(e, ASSAY_ENOSTEP, "row %u of the batch: no token to pool", r);
        if (row->activation == ACTIVATION_CLASS1 && n_labels < 2)
            return err_set(e, ASSAY_EFORMAT,
                "row %u of the batch: class1 needs 2 labels, the model has %u", r, n_labels);
        if (row->n_values != values_of(row, n, n_labels))
            return err_set(e, ASSAY_EFORMAT, "row %u of the batch: expected %u values, found %u", r,
                values_of(row, n, n_labels), row->n_values);
        p->spans[r] = (struct pool_span){
            p->first[r], n, row->pool_type == POOL_MEAN, row->activation, p->n_values};
        p->n_values += row->n_values;
    }
    p->n_out_rows = p->first[batch->n_rows];
    return 0;
}

void pooling_metadata_release(struct pooling_metadata *p)
{
    free(p->first);
    free(p->out_rows);
    free(p->spans);
    *p = (struct pooling_metadata){0};
}

void pooler(struct qwen2_reward_model *m, struct tensor hidden_states,
    const struct pooling_metadata *p, float *values)
{
    const struct ops *ops = m->ops;
    const struct pool_span *spans = ops->push(m->device, p->spans, p->n_rows * sizeof *spans);
    struct tensor logits = qwen2_reward_model_score(m, hidden_states);
    ops->pool(m->device, m->values, logits, spans, p->n_rows);
    ops->finish(m->device, values, m->values, p->n_values * sizeof *values);
}
