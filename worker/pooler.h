/* pooler.h - which hidden states become scores, and how: pooler(hidden_states, pooling_metadata).
 *
 * pooling_metadata_init resolves each row's pool type to positions (schema/pooling.h has the table)
 * before the forward, so that the forward's last layer computes only those
 * (attn_metadata.out_rows). pooler then takes the hidden states of just these tokens, in the same
 * order, applies the head, the activation, and MEAN, and writes floats row after row: all on the
 * device, so that a batch comes back as its scores alone. */
#ifndef ASSAY_POOLER_H
#define ASSAY_POOLER_H

#include "schema/err.h"
#include "shm/stage.h"
#include "worker/qwen2.h"

struct pooling_metadata {
    uint32_t n_rows;
    uint32_t n_out_rows;
    uint32_t *out_rows;      /* [n_out_rows] token indices in the batch, in each row's order */
    uint32_t *first;         /* [n_rows + 1] row r owns out_rows[first[r] .. first[r+1]-1] */
    uint32_t n_values;       /* floats of all rows */
    struct pool_span *spans; /* [n_rows] */
};

/* Explicit positions are scored in the order given, twice if given twice. A token that several rows
 * share is there for each that pools it, so that a row's are next to each other. ASSAY_ENOSTEP when a
 * STEP row has no step token, ASSAY_EFORMAT when n_values does not fit, ASSAY_ETOOLARGE for more than
 * max_out_rows tokens in all. */
int pooling_metadata_init(struct pooling_metadata *p, const struct stage_batch *batch,
    uint32_t n_labels, uint32_t max_out_rows, struct err *e);
void pooling_metadata_release(struct pooling_metadata *p);

/* Ends the batch that forward began: p->n_values floats are in `values` (host) once ops.poll says
 * that the batch is done. Same bits for a row in any batch. */
void pooler(struct qwen2_reward_model *m, struct tensor hidden_states,
    const struct pooling_metadata *p, float *values);

#endif
