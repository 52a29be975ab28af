/* score.c - see score.h. */
#include "worker/score.h"

#include "worker/pooler.h"

#define CANARY_TOKENS 8

int score_batch(struct qwen2_reward_model *m, const struct stage_batch *b, const int32_t *ids,
    int32_t *positions, float *values, struct err *e)
{
    struct pooling_metadata pooling;
    struct tensor hidden_states;
    int rc = pooling_metadata_init(&pooling, b, m->config.n_labels, e);
    uint32_t longest = 0;
    for (uint32_t r = 0; r < b->n_rows; r++) {
        for (uint32_t i = b->cu_seqlens[r]; i < b->cu_seqlens[r + 1]; i++)
            positions[i] = (int32_t)(i - b->cu_seqlens[r]);
        if (b->rows[r].n_tokens > longest)
            longest = b->rows[r].n_tokens;
    }
    if (rc == 0 && longest > m->cache_config.max_len)
        rc = err_set(e, ASSAY_ETOOLONG, "row of %u tokens: expected at most %u", longest,
            m->cache_config.max_len);
    struct attn_metadata meta = {
        b->n_rows, b->cu_seqlens, longest, pooling.out_rows, pooling.n_out_rows, NULL};
    if (rc == 0)
        rc = qwen2_reward_model_forward(m, ids, positions, NULL, &meta, NULL, &hidden_states, e);
    if (rc == 0)
        pooler(m, hidden_states, &pooling, values);
    pooling_metadata_release(&pooling);
    return rc;
}

int score_canary(struct qwen2_reward_model *m, uint32_t max_tokens, float *values, struct err *e)
{
    int32_t ids[CANARY_TOKENS], positions[CANARY_TOKENS], position = 0;
    uint32_t n = CANARY_TOKENS, cu_seqlens[2] = {0};
    if (n > m->cache_config.max_len)
        n = m->cache_config.max_len;
    if (n > max_tokens)
        n = max_tokens;
    cu_seqlens[1] = n;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i % m->config.vocab_size);
    struct stage_row row = {.n_tokens = n,
        .pool_type = POOL_LAST,
        .activation = ACTIVATION_NONE,
        .n_values = m->config.n_labels};
    struct stage_batch b = {.n_rows = 1,
        .n_tokens = n,
        .n_values = row.n_values,
        .rows = &row,
        .ids = ids,
        .positions = &position};
    b.cu_seqlens = cu_seqlens;
    int rc = score_batch(m, &b, ids, positions, values, e);
    if (rc == 0)
        m->ops->poll(m->device, 1);
    return rc;
}
