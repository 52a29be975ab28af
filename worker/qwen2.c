/* qwen2.c - the forward, written once over the table of operations (qwen2.h).
 *
 * Activations of the arena, T tokens of the batch, sizes of this rank:
 *     residual  [T, hidden]              the stream that every block adds to
 *     pruned    [wanted, hidden]         the same, in the last layer after attention
 *     normed    [T, hidden]              norm1 or norm2 of it; then a row-parallel product's output
 *     qkv       [T, (heads + 2 kv) dim]
 *     context   [T, heads dim]           what attention gives
 *     gate_up   [MLP_ROWS, 2 mlp]        a stretch of rows at a time: a long row needs no more
 *     score     [T, hidden / ranks] and [T, n_labels]
 *
 * In the last layer only the wanted tokens (attn_metadata.out_rows) go on after attention: from
 * there each token goes its own way, so the others need not be computed, and no bit changes. */
#include "worker/qwen2.h"

#include <stdlib.h>
#include <string.h>

#include "schema/log.h"
#include "worker/rope.h"

#define MLP_ROWS 768

struct activations {
    int64_t max_tokens;
    float *residual, *pruned, *normed, *qkv, *context, *gate_up, *score_hidden, *logits;
};

struct sizes {
    int64_t tokens, hidden, q, kv, mlp, score_hidden, labels;
};

static struct sizes sizes_of(
    const struct model_config *c, const struct cache_config *cache, uint32_t n_ranks)
{
    int64_t kv_heads = c->n_kv_heads >= n_ranks ? c->n_kv_heads / n_ranks : 1;
    return (struct sizes){
        .tokens =
            cache->max_batch_tokens > cache->max_len ? cache->max_batch_tokens : cache->max_len,
        .hidden = c->hidden_size,
        .q = (int64_t)c->n_heads / n_ranks * c->head_dim,
        .kv = kv_heads * c->head_dim,
        .mlp = c->intermediate_size / n_ranks,
        .score_hidden = c->hidden_size / n_ranks,
        .labels = c->n_labels,
    };
}

size_t qwen2_arena_bytes(
    const struct model_config *c, const struct cache_config *cache, uint32_t n_ranks)
{
    struct sizes s = sizes_of(c, cache, n_ranks);
    int64_t per_token = 3 * s.hidden + 2 * s.q + 2 * s.kv + s.score_hidden + s.labels;
    int64_t tables = (int64_t)cache->max_len * c->head_dim;
    int64_t vectors = c->n_layers * (2 * s.hidden + s.q + 2 * s.kv + 2 * c->head_dim) +
                      3 * s.hidden + 2 * s.labels;
    int64_t floats = s.tokens * per_token + MLP_ROWS * 2 * s.mlp + tables + vectors;
    return (size_t)floats * sizeof(float) + 64 * (16 + 8 * (size_t)c->n_layers);
}

static int take(
    struct qwen2_reward_model *m, float **out, int64_t rows, int64_t cols, struct err *e)
{
    *out = m->ops->alloc(m->device, (size_t)(rows * cols) * sizeof **out);
    if (*out)
        return 0;
    return err_set(e, ASSAY_ENOMEM, "activations: no memory for [%lld, %lld] floats",
        (long long)rows, (long long)cols);
}

static int take_activations(struct qwen2_reward_model *m, struct err *e)
{
    struct sizes s = sizes_of(&m->config, &m->cache_config, m->n_ranks);
    struct activations *a = m->activations;
    a->max_tokens = s.tokens;
    if (take(m, &a->residual, s.tokens, s.hidden, e) ||
        take(m, &a->pruned, s.tokens, s.hidden, e) || take(m, &a->normed, s.tokens, s.hidden, e) ||
        take(m, &a->qkv, s.tokens, s.q + 2 * s.kv, e) || take(m, &a->context, s.tokens, s.q, e) ||
        take(m, &a->gate_up, MLP_ROWS, 2 * s.mlp, e) ||
        take(m, &a->score_hidden, s.tokens, s.score_hidden, e) ||
        take(m, &a->logits, s.tokens, s.labels, e) || take(m, &m->mean, 1, s.labels, e))
        return ASSAY_ENOMEM;
    return 0;
}

static int take_rope(struct qwen2_reward_model *m, struct err *e)
{
    int64_t n = m->cache_config.max_len, half = m->config.head_dim / 2;
    size_t bytes = (size_t)(n * half) * sizeof(float);
    if (take(m, &m->cos_table, n, half, e) || take(m, &m->sin_table, n, half, e))
        return ASSAY_ENOMEM;
    float *host = xcalloc(2, bytes);
    rope_fill(&m->config.rope, m->config.head_dim, (uint32_t)n, host, host + n * half);
    m->ops->upload(m->device, m->cos_table, host, bytes);
    m->ops->upload(m->device, m->sin_table, host + n * half, bytes);
    free(host);
    return 0;
}

int qwen2_reward_model_init(struct qwen2_reward_model *m, const struct model_config *config,
    const struct cache_config *cache_config, const struct quant_config *quant_config,
    const struct lora_config *lora_config, const struct ops *ops, struct device *device,
    uint32_t rank, uint32_t n_ranks, struct err *e)
{
    *m = (struct qwen2_reward_model){.config = *config,
        .cache_config = *cache_config,
        .ops = ops,
        .device = device,
        .rank = rank,
        .n_ranks = n_ranks};
    int rc = cache_config_check(cache_config, e);
    if (rc == 0)
        rc = quant_config_check(quant_config, e);
    if (rc == 0)
        rc = lora_config_check(lora_config, e);
    if (rc == 0)
        rc = model_config_check_tp(config, n_ranks, e);
    if (rc != 0)
        return rc;
    m->activations = xcalloc(1, sizeof *m->activations);
    m->model.layers = xcalloc(config->n_layers, sizeof *m->model.layers);
    for (uint32_t i = 0; i < config->n_layers; i++)
        m->model.layers[i].window = config->layer_slides[i] ? config->sliding_window : 0;
    rc = take_activations(m, e);
    return rc == 0 ? take_rope(m, e) : rc;
}

void qwen2_reward_model_release(struct qwen2_reward_model *m)
{
    free(m->model.layers);
    free(m->activations);
    m->model.layers = NULL;
    m->activations = NULL;
}

/* ---- forward ---- */

static struct tensor columns(struct tensor t, int64_t from, int64_t n)
{
    return (struct tensor){t.data + from, t.rows, n, t.stride};
}

static struct tensor stretch(struct tensor t, int64_t from, int64_t n)
{
    return (struct tensor){t.data + from * t.stride, n, t.cols, t.stride};
}

static struct tensor tensor_of(float *data, int64_t rows, int64_t cols)
{
    return (struct tensor){data, rows, cols, cols};
}

/* Attention of one block over all tokens: from x's norm to the context, before o_proj. */
static struct tensor attend(struct qwen2_reward_model *m, const struct qwen2_layer *layer,
    struct tensor x, const int32_t *positions, const struct attn_metadata *meta)
{
    const struct ops *ops = m->ops;
    const struct model_config *c = &m->config;
    struct sizes s = sizes_of(c, &m->cache_config, m->n_ranks);
    uint32_t heads = (uint32_t)(s.q / c->head_dim), kv_heads = (uint32_t)(s.kv / c->head_dim);
    struct tensor normed = tensor_of(m->activations->normed, x.rows, s.hidden);
    struct tensor qkv = tensor_of(m->activations->qkv, x.rows, s.q + 2 * s.kv);
    struct tensor q = columns(qkv, 0, s.q), k = columns(qkv, s.q, s.kv),
                  v = columns(qkv, s.q + s.kv, s.kv);
    struct tensor context = tensor_of(m->activations->context, x.rows, s.q);
    struct attention_shape shape = {
        heads, kv_heads, c->head_dim, 1.0f / __builtin_sqrtf((float)c->head_dim), layer->window};
    ops->rms_norm(m->device, normed, x, layer->input_layernorm, c->rms_norm_eps);
    column_parallel_linear(ops, m->device, &layer->qkv_proj, normed, qkv);
    if (c->qk_norm) {
        ops->head_norm(m->device, q, heads, layer->q_norm, c->rms_norm_eps);
        ops->head_norm(m->device, k, kv_heads, layer->k_norm, c->rms_norm_eps);
    }
    ops->rope(m->device, columns(qkv, 0, s.q + s.kv), heads + kv_heads, c->head_dim, positions,
        m->cos_table, m->sin_table);
    ops->attention(m->device, context, q, k, v, &shape, meta);
    return context;
}

/* x += down(silu(gate(norm2(x))) * up(norm2(x))), MLP_ROWS rows at a time */
static void add_mlp(struct qwen2_reward_model *m, const struct qwen2_layer *layer, struct tensor x)
{
    const struct ops *ops = m->ops;
    int64_t mlp = m->config.intermediate_size / m->n_ranks;
    for (int64_t row = 0; row < x.rows; row += MLP_ROWS) {
        struct tensor part = stretch(x, row, x.rows - row < MLP_ROWS ? x.rows - row : MLP_ROWS);
        struct tensor normed = tensor_of(m->activations->normed, part.rows, x.cols);
        struct tensor gate_up = tensor_of(m->activations->gate_up, part.rows, 2 * mlp);
        struct tensor gate = columns(gate_up, 0, mlp), up = columns(gate_up, mlp, mlp);
        ops->rms_norm(
            m->device, normed, part, layer->post_attention_layernorm, m->config.rms_norm_eps);
        column_parallel_linear(ops, m->device, &layer->gate_up_proj, normed, gate_up);
        ops->silu_mul(m->device, gate, gate, up);
        ops->add(m->device, part,
            row_parallel_linear(ops, m->device, &layer->down_proj, gate, normed).output);
    }
}

/* Only the wanted rows of x and context from here on; x moves to `pruned`, context to `qkv`, which
 * is free by now. */
static void prune(struct qwen2_reward_model *m, struct tensor *x, struct tensor *context,
    const struct attn_metadata *meta)
{
    struct tensor kept = tensor_of(m->activations->pruned, meta->n_out_rows, x->cols);
    struct tensor kept_context = tensor_of(m->activations->qkv, meta->n_out_rows, context->cols);
    m->ops->gather(m->device, kept, *x, meta->out_rows);
    m->ops->gather(m->device, kept_context, *context, meta->out_rows);
    *x = kept;
    *context = kept_context;
}

static int check_arguments(const struct qwen2_reward_model *m, const int32_t *ids,
    const void *kv_caches, const struct attn_metadata *meta, const void *intermediate_tensors,
    struct err *e)
{
    uint32_t n = meta->cu_seqlens[meta->n_rows];
    if (kv_caches)
        return err_set(e, ASSAY_EUNSUPPORTED, "kv_caches is not built: expected NULL");
    if (intermediate_tensors)
        return err_set(e, ASSAY_EUNSUPPORTED, "intermediate_tensors is not built: expected NULL");
    if (meta->prefix_segments)
        return err_set(
            e, ASSAY_EUNSUPPORTED, "attn_metadata.prefix_segments is not built: expected NULL");
    if (n > m->activations->max_tokens ||
        (meta->out_rows && meta->n_out_rows > m->activations->max_tokens))
        return err_set(e, ASSAY_ETOOLARGE, "batch of %u tokens: expected at most %lld", n,
            (long long)m->activations->max_tokens);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= m->config.vocab_size)
            return err_set(e, ASSAY_EBADTOKEN, "token %u: expected an id below %u, found %d", i,
                m->config.vocab_size, ids[i]);
    return 0;
}

int qwen2_reward_model_forward(struct qwen2_reward_model *m, const int32_t *input_ids,
    const int32_t *positions, const void *kv_caches, const struct attn_metadata *attn_metadata,
    const void *intermediate_tensors, struct tensor *hidden_states, struct err *e)
{
    const struct ops *ops = m->ops;
    int rc = check_arguments(m, input_ids, kv_caches, attn_metadata, intermediate_tensors, e);
    if (rc != 0)
        return rc;
    int64_t n_tokens = attn_metadata->cu_seqlens[attn_metadata->n_rows];
    struct tensor x = tensor_of(m->activations->residual, n_tokens, m->config.hidden_size);
    ops->embed(m->device, x, &m->model.embed_tokens, input_ids);
    for (uint32_t i = 0; i < m->config.n_layers; i++) {
        const struct qwen2_layer *layer = &m->model.layers[i];
        struct tensor context = attend(m, layer, x, positions, attn_metadata);
        if (i + 1 == m->config.n_layers && attn_metadata->out_rows)
            prune(m, &x, &context, attn_metadata);
        struct tensor out = tensor_of(m->activations->normed, x.rows, x.cols);
        ops->add(
            m->device, x, row_parallel_linear(ops, m->device, &layer->o_proj, context, out).output);
        add_mlp(m, layer, x);
    }
    ops->rms_norm(m->device, x, x, m->model.norm, m->config.rms_norm_eps);
    *hidden_states = x;
    return 0;
}

struct tensor qwen2_reward_model_score(struct qwen2_reward_model *m, struct tensor h)
{
    const struct ops *ops = m->ops;
    struct tensor logits = tensor_of(m->activations->logits, h.rows, m->config.n_labels);
    if (!m->score.mlp) {
        column_parallel_linear(ops, m->device, &m->score.second, h, logits);
        return logits;
    }
    struct tensor hidden =
        tensor_of(m->activations->score_hidden, h.rows, m->config.hidden_size / m->n_ranks);
    hidden =
        relu(ops, m->device, column_parallel_linear(ops, m->device, &m->score.first, h, hidden));
    return row_parallel_linear(ops, m->device, &m->score.second, hidden, logits).output;
}
