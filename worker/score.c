/* score.c - builds a batch's metadata, and starts its forward and pooler on the device, or hands it
 * on to the next pipeline stage (score.h). */
#include "worker/score.h"

#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/reuse.h"
#include "worker/sequences.h"

#define CANARY_TOKENS 8

/* Adds a row's tokens, or what it wants of them, to the spans. */
static void add_span(
    struct lora_span *spans, uint32_t *n_spans, uint32_t first, uint32_t n, uint32_t adapter)
{
    struct lora_span *last = *n_spans > 0 ? &spans[*n_spans - 1] : NULL;
    if (adapter == 0 || n == 0)
        return;
    if (last && last->adapter == adapter && last->first + last->n == first)
        last->n += n;
    else
        spans[(*n_spans)++] = (struct lora_span){first, n, adapter};
}

int score_map_adapters(const struct qwen2_reward_model *m, const struct stage_batch *b,
    const struct pooling_metadata *p, struct lora_mapping *mapping, struct err *e)
{
    struct lora_span *spans = xcalloc(2 * (size_t)b->n_rows, sizeof *spans);
    *mapping = (struct lora_mapping){.tokens = spans, .wanted = spans + b->n_rows};
    for (uint32_t r = 0; r < b->n_rows; r++) {
        uint32_t adapter = b->rows[r].adapter, first = b->cu_seqlens[r];
        if (adapter > m->lora_config.n_adapters)
            return err_set(e, ASSAY_EADAPTER,
                "row %u of the batch: adapter: expected at most %u, found %u", r,
                m->lora_config.n_adapters, adapter);
        add_span(spans, &mapping->n_tokens, first, b->cu_seqlens[r + 1] - first, adapter);
        add_span(spans + b->n_rows, &mapping->n_wanted, p->first[r], p->first[r + 1] - p->first[r],
            adapter);
    }
    return 0;
}

/* A batch, all of it or what the KV cache does not have, and where its scores go. */
struct run {
    struct pipeline *pipeline;
    const struct stage_batch *batch;
    const int32_t *ids;
    const struct pooling_metadata *wanted; /* of these tokens */
    struct pooling_metadata *pooling;      /* of the whole batch */
    const struct reuse *reuse;             /* NULL: there is no cache */
    int32_t *positions;
    float *values;
};

static struct attn_metadata metadata_of(const struct run *r, const struct sequences *s, int shares)
{
    struct attn_metadata meta = {.n_rows = s->n,
        .cu_seqlens = s->cu_seqlens,
        .max_seqlen = s->longest,
        .out_rows = r->wanted->out_rows,
        .n_out_rows = r->wanted->n_out_rows,
        .prefix_segments = shares ? s->prefixes : NULL};
    if (r->reuse) {
        meta.block_tables = s->tables;
        meta.slot_mapping = r->reuse->slots;
        meta.n_slot_mapping = r->reuse->n_slots;
    }
    return meta;
}

/* Ends a stage's batch: with scores, or with what the next stage goes on from. */
static int end_stage(struct qwen2_reward_model *m, const struct run *r,
    const struct intermediate_tensors *out, struct err *e)
{
    if (qwen2_is_last_stage(m)) {
        pooler(m, out->hidden_states, r->pooling, r->values);
        return 0;
    }
    int rc = pipeline_send(r->pipeline, &r->batch->token, out, e);
    if (rc == 0)
        m->ops->device->finish(m->device, r->values, out->residual.data, 0);
    return rc;
}

/* Starts forward and what follows it. */
static int run(
    struct qwen2_reward_model *m, struct run *r, const struct sequences *s, struct err *e)
{
    struct lora_mapping mapping = {0};
    struct intermediate_tensors in, out;
    int is_first = qwen2_is_first_stage(m);
    struct attn_metadata meta = metadata_of(r, s, sequences_positions(s, r->positions));
    int rc = score_map_adapters(m, r->batch, r->wanted, &mapping, e);
    r->pooling->lora = &mapping;
    r->pooling->kept = r->reuse ? &r->reuse->logits : NULL;
    if (rc == 0 && !is_first) {
        in = qwen2_reward_model_make_empty_intermediate_tensors(m, r->batch->n_tokens);
        rc = pipeline_receive(r->pipeline, &r->batch->token, &in, e);
    }
    if (rc == 0)
        rc = qwen2_reward_model_forward(m,
            &(struct forward_inputs){.input_ids = r->ids,
                .positions = r->positions,
                .kv_caches = r->reuse ? &m->kv_caches : NULL,
                .attn_metadata = &meta,
                .intermediate_tensors = is_first ? NULL : &in,
                .lora_mapping = mapping},
            &out, e);
    if (rc == 0)
        rc = end_stage(m, r, &out, e);
    free((void *)mapping.tokens);
    return rc;
}

/* The same for what the KV cache does not have of the batch. */
static int run_rest(
    struct qwen2_reward_model *m, const struct run *r, struct sequences *s, struct err *e)
{
    struct reuse u;
    struct run rest = *r;
    reuse_init(&u, m->kv_cache, r->batch, r->pooling, s);
    rest.batch = &u.batch;
    rest.ids = u.batch.ids;
    rest.wanted = &u.wanted;
    rest.reuse = &u;
    int rc = run(m, &rest, s, e);
    reuse_end(&u, rc == 0);
    m->tokens_reused += rc == 0 ? u.n_reused : 0;
    reuse_release(&u);
    return rc;
}

int score_batch(struct qwen2_reward_model *m, struct pipeline *pipeline,
    const struct stage_batch *b, const int32_t *ids, int32_t *positions, float *values,
    struct err *e)
{
    struct pooling_metadata pooling;
    struct sequences s;
    uint32_t max_len = m->cache_config.max_len, max_tokens = m->cache_config.max_batch_tokens;
    struct run r = {pipeline, b, ids, &pooling, &pooling, NULL, positions, values};
    int rc = pooling_metadata_init(
        &pooling, b, m->config.n_labels, max_len > max_tokens ? max_len : max_tokens, e);
    sequences_init(&s, b);
    if (rc == 0 && s.longest > max_len)
        rc =
            err_set(e, ASSAY_ETOOLONG, "row of %u tokens: expected at most %u", s.longest, max_len);
    if (rc == 0)
        rc = m->kv_cache ? run_rest(m, &r, &s, e) : run(m, &r, &s, e);
    m->tokens_given += rc == 0 ? b->n_tokens : 0;
    sequences_release(&s);
    pooling_metadata_release(&pooling);
    return rc;
}

int score_canary(struct qwen2_reward_model *m, struct pipeline *pipeline, uint32_t max_tokens,
    float *values, struct err *e)
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
        .pool.type = POOL_LAST,
        .pool.activation = ACTIVATION_NONE,
        .n_values = m->config.n_labels};
    struct stage_batch b = {.n_rows = 1,
        .n_tokens = n,
        .n_values = row.n_values,
        .rows = &row,
        .ids = ids,
        .positions = &position};
    b.cu_seqlens = cu_seqlens;
    int rc = score_batch(m, pipeline, &b, ids, positions, values, e);
    if (rc == 0)
        m->ops->device->poll(m->device, 1);
    return rc;
}
