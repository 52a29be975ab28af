/* pooler.h - turns hidden states into scores: pooler(hidden_states, pooling_metadata).
 *
 * Before the forward pass, pooling_metadata_init resolves each row's pool type to positions
 * (schema/pooling.h has the table), so that the last layer computes only those
 * (attn_metadata.out_rows). pooler takes the hidden states of these tokens, in the same order, and
 * applies the head, the activation and MEAN. All of this runs on the device, so that only scores
 * are copied back. */
#ifndef ASSAY_POOLER_H
#define ASSAY_POOLER_H

#include "schema/err.h"
#include "shm/stage.h"
#include "worker/qwen2.h"

/* Where some pooled tokens are not computed, since the KV cache has their logits (reuse.h). */
struct kept_logits {
    const uint32_t *cached; /* [n_cached] slots of those */
    uint32_t n_cached;
    const uint32_t *order; /* [n_out_rows] each one's place among the computed ones, and those of
                              `cached` after them */
    const struct kv_slots *slots; /* [n_slots] which of the computed ones are kept; their tokens
                                     count the computed ones */
    uint32_t n_slots;
};

struct pooling_metadata {
    uint32_t n_rows;
    uint32_t n_out_rows;
    uint32_t *out_rows;      /* [n_out_rows] token indices in the batch, in each row's order */
    uint32_t *first;         /* [n_rows + 1] row r owns out_rows[first[r] .. first[r+1]-1] */
    uint32_t n_values;       /* floats of all rows */
    struct pool_span *spans; /* [n_rows] */
    const struct lora_mapping *lora; /* borrowed; NULL: no row goes through an adapter */
    const struct kept_logits *kept;  /* borrowed; NULL: all are computed */
};

/* Explicit positions are scored in the given order, duplicates included. A token that several rows
 * share appears once for each row that pools it, so that each row's tokens are adjacent.
 * ASSAY_ENOSTEP if a STEP row has no step token, ASSAY_EFORMAT if n_values does not match,
 * ASSAY_ETOOLARGE for more than max_out_rows tokens in all. */
int pooling_metadata_init(struct pooling_metadata *p, const struct stage_batch *batch,
    uint32_t n_labels, uint32_t max_out_rows, struct err *e);
void pooling_metadata_release(struct pooling_metadata *p);

/* Ends the batch that forward began: once device_ops.poll reports the batch done, `values` (host)
 * holds p->n_values floats; NULL: nobody wants them. hidden_states are of the tokens that were
 * computed. A row's bits are the same in any batch. */
void pooler(struct qwen2_reward_model *m, struct tensor hidden_states,
    const struct pooling_metadata *p, float *values);

#endif
