/* qwen2_memory.c - see qwen2_memory.h. */
#include "worker/qwen2_memory.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "worker/kv_cache.h"
#include "worker/load.h"
#include "worker/lora.h"
#include "worker/rope.h"

#define ALLOC_BYTES 256 /* room for an allocation's rounding */

struct sizes {
    int64_t hidden, q, kv, mlp, score_hidden, labels;
    int64_t batch, tokens;  /* most tokens of a batch, and of a forward pass */
    int64_t pooled, wanted; /* of which a head scores; none but on the last pipeline stage */
    enum dtype type;        /* of keys and values, as of all that products give */
};

static int64_t most_ranks(const struct lora_config *lora)
{
    int64_t most = 0;
    for (uint32_t i = 0; i < lora->n_adapters; i++)
        most = lora->adapters[i].most_ranks > most ? lora->adapters[i].most_ranks : most;
    return most;
}

/* Layers of the largest pipeline stage. */
static uint32_t most_layers(const struct model_config *c, uint32_t n_pp_ranks)
{
    return (c->n_layers + n_pp_ranks - 1) / n_pp_ranks;
}

/* How many blocks of keys and values fit into the KV cache's bytes, on the largest pipeline stage.
 * So all stages keep the same. */
static int64_t count_blocks(const struct model_config *c, const struct cache_config *cache,
    uint32_t n_pp_ranks, const struct sizes *s)
{
    struct tensor layer = tensor_shaped(NULL, s->type, KV_BLOCK_TOKENS, 2 * s->kv),
                  logits = tensor_shaped(NULL, DTYPE_F32, KV_BLOCK_TOKENS, s->labels);
    uint64_t block = most_layers(c, n_pp_ranks) * tensor_bytes(layer) + tensor_bytes(logits),
             n = cache->kv_cache_bytes / block, most = INT32_MAX / KV_BLOCK_TOKENS;
    return (int64_t)(n < most ? n : most);
}

/* If the KV cache has room for the longest row, a row need not be computed at once. Pipeline stages
 * hand batches over whole. */
static int64_t count_tokens(const struct model_config *c, const struct cache_config *cache,
    uint32_t n_pp_ranks, const struct sizes *s)
{
    int64_t chunk = round_up(cache->max_batch_tokens, KV_BLOCK_TOKENS);
    int holds_a_row = count_blocks(c, cache, n_pp_ranks, s) * KV_BLOCK_TOKENS >= cache->max_len;
    return n_pp_ranks == 1 && holds_a_row && chunk < s->batch ? chunk : s->batch;
}

static struct sizes sizes_of(const struct model_config *c, const struct cache_config *cache,
    uint32_t n_ranks, uint32_t n_pp_ranks, int is_last_stage, const struct ops *ops)
{
    struct sizes s = {
        .batch =
            cache->max_batch_tokens > cache->max_len ? cache->max_batch_tokens : cache->max_len,
        .hidden = c->hidden_size,
        .q = (int64_t)c->n_heads / n_ranks * c->head_dim,
        .kv = (int64_t)model_config_rank_kv_heads(c, n_ranks) * c->head_dim,
        .mlp = c->intermediate_size / n_ranks,
        .score_hidden = c->hidden_size / n_ranks,
        .labels = c->n_labels,
        .type = ops_activations(ops, c->activation_type),
    };
    s.tokens = count_tokens(c, cache, n_pp_ranks, &s);
    s.pooled = is_last_stage ? s.batch : 0;
    s.wanted = is_last_stage ? s.tokens : 0;
    return s;
}

static struct activations shape_activations(const struct model_config *c, const struct sizes *s,
    const struct ops *ops, const struct quant_config *quant_config, const struct lora_config *lora)
{
    enum dtype type = s->type, quant = model_config_products(c, quant_config);
    int64_t t = s->tokens, mlp_rows = ops->mlp_rows < t ? ops->mlp_rows : t;
    int is_quantized = ops->typed && quant != DTYPE_F32;
    int64_t quant_rows = round_up(t, QUANT_ROWS), gated_rows = round_up(mlp_rows, QUANT_ROWS);
    /* what quantized products write has room for their rows rounded up */
    int64_t out_rows = is_quantized ? quant_rows : t;
    return (struct activations){
        .max_tokens = t,
        .residual = tensor_shaped(NULL, DTYPE_F32, t, s->hidden),
        .pruned = tensor_shaped(NULL, DTYPE_F32, s->wanted, s->hidden),
        .normed = tensor_shaped(NULL, type, out_rows, s->hidden),
        .qkv = tensor_shaped(NULL, type, out_rows, s->q + 2 * s->kv),
        .context = tensor_shaped(NULL, type, t, s->q),
        .gate_up = tensor_shaped(NULL, type, is_quantized ? gated_rows : mlp_rows, 2 * s->mlp),
        .quantized = tensor_shaped(NULL, quant, is_quantized ? quant_rows : 0, s->hidden),
        .gated = tensor_shaped(NULL, quant, is_quantized ? gated_rows : 0, s->mlp),
        .score_hidden = tensor_shaped(NULL, DTYPE_F32, s->wanted, s->score_hidden),
        .logits = tensor_shaped(NULL, DTYPE_F32, s->pooled, s->labels),
        .lora = tensor_shaped(NULL, DTYPE_F32, lora->n_adapters > 0 ? t : 0, most_ranks(lora)),
    };
}

/* The KV cache's tensors, without memory. */
static struct kv_caches shape_kv_caches(const struct model_config *c,
    const struct cache_config *cache, uint32_t n_pp_ranks, const struct sizes *s)
{
    struct kv_caches k = {.n_slots = count_blocks(c, cache, n_pp_ranks, s) * KV_BLOCK_TOKENS};
    k.logits = tensor_shaped(NULL, DTYPE_F32, s->pooled > 0 ? k.n_slots : 0, s->labels);
    k.merged = tensor_shaped(NULL, DTYPE_F32, k.n_slots > 0 ? s->pooled : 0, s->labels);
    return k;
}

static struct tensor shape_kv_layer(const struct kv_caches *k, const struct sizes *s)
{
    return tensor_shaped(NULL, s->type, k->n_slots, 2 * s->kv);
}

/* What a batch pushes for the KV cache's sake: places of kept logits; where its keys, values and
 * logits are kept, at most two runs for a token (reuse.c); and the sequences' tables of blocks. */
static size_t reuse_bytes(const struct cache_config *cache, const struct sizes *s)
{
    size_t tokens = (size_t)s->batch, sequences = 2 * (size_t)cache->max_rows;
    if (sequences > tokens)
        sequences = tokens;
    return tokens * (2 * sizeof(uint32_t) + 3 * sizeof(struct kv_slots)) +
           sequences * (cache->max_len / KV_BLOCK_TOKENS + 1u) * sizeof(uint32_t) + 5 * ALLOC_BYTES;
}

/* Activations, values, rope tables, and the vectors that load_weights takes. */
void qwen2_device_needs(
    struct device_options *o, const struct qwen2_configs *configs, const struct ops *ops)
{
    const struct model_config *c = &configs->config;
    const struct cache_config *cache = &configs->cache_config;
    struct layer_range own = model_config_pp_layers(c, configs->pp_rank, configs->n_pp_ranks);
    uint32_t n_layers = own.end - own.first;
    struct sizes s = sizes_of(c, cache, configs->n_ranks, configs->n_pp_ranks,
        configs->pp_rank + 1 == configs->n_pp_ranks, ops);
    struct activations a =
        shape_activations(c, &s, ops, &configs->quant_config, &configs->lora_config);
    struct tensor all[] = {a.residual, a.pruned, a.normed, a.qkv, a.context, a.gate_up, a.quantized,
        a.gated, a.score_hidden, a.logits, a.lora,
        tensor_shaped(NULL, DTYPE_F32, s.pooled, s.labels)};
    int64_t floats = (int64_t)cache->max_len * c->head_dim;
    floats += n_layers * (4 * s.hidden + s.q + 2 * s.kv + 2 * s.mlp + 2 * c->head_dim);
    floats += 3 * s.hidden + 2 * s.labels + a.quantized.rows + a.gated.rows;
    o->arena_bytes = (size_t)floats * sizeof(float) + ALLOC_BYTES * (16 + 8 * (size_t)n_layers);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        o->arena_bytes += tensor_bytes(all[i]);
    struct kv_caches k = shape_kv_caches(c, cache, configs->n_pp_ranks, &s);
    o->arena_bytes += n_layers * (tensor_bytes(shape_kv_layer(&k, &s)) + ALLOC_BYTES) +
                      tensor_bytes(k.logits) + tensor_bytes(k.merged) + 2 * ALLOC_BYTES;
    o->arena_bytes += load_packed_bytes(c, n_layers);
    for (uint32_t i = 0; i < configs->lora_config.n_adapters; i++)
        o->arena_bytes += lora_arena_bytes(&configs->lora_config.adapters[i]);
    o->input_bytes = (size_t)s.batch * (10 * sizeof(int32_t) + sizeof(struct pool_span)) +
                     ((size_t)cache->max_rows + 1) * sizeof(uint32_t) + 8 * ALLOC_BYTES;
    if (cache->kv_cache_bytes > 0)
        o->input_bytes += reuse_bytes(cache, &s);
    o->output_bytes = (size_t)(s.pooled * s.labels) * sizeof(float);
    o->reduce_bytes = tensor_bytes(tensor_shaped(NULL, DTYPE_F32, s.tokens, s.hidden));
    o->head_dim = c->head_dim;
    o->quant = model_config_products(c, &configs->quant_config);
    int64_t widest = s.mlp > s.q ? s.mlp : s.q;
    widest = s.hidden > widest ? s.hidden : widest;
    int rounds = c->quantization.inputs.how != ROUND_NOT && o->quant == DTYPE_F32;
    o->rounded = tensor_shaped(NULL, s.type, rounds ? s.tokens : 0, widest);
    o->quant_rows = s.tokens;
    o->quant_in = s.q;
    o->quant_out = 2 * s.mlp > s.q + 2 * s.kv ? 2 * s.mlp : s.q + 2 * s.kv;
    o->quant_out = s.hidden > o->quant_out ? s.hidden : o->quant_out;
}

static int take(struct qwen2_reward_model *m, void *out, size_t bytes, struct err *e)
{
    void *at = m->ops->device->alloc(m->device, bytes);
    memcpy(out, &at, sizeof at);
    return at ? 0 : err_set(e, ASSAY_ENOMEM, "activations: no memory for %zu bytes", bytes);
}

static struct sizes own_sizes(const struct qwen2_reward_model *m)
{
    return sizes_of(
        &m->config, &m->cache_config, m->n_ranks, m->n_pp_ranks, qwen2_is_last_stage(m), m->ops);
}

static int take_activations(struct qwen2_reward_model *m, struct err *e)
{
    struct sizes s = own_sizes(m);
    struct activations *a = m->activations;
    *a = shape_activations(&m->config, &s, m->ops, &m->quant_config, &m->lora_config);
    struct tensor *all[] = {&a->residual, &a->pruned, &a->normed, &a->qkv, &a->context, &a->gate_up,
        &a->quantized, &a->gated, &a->score_hidden, &a->logits, &a->lora};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->rows > 0 && take(m, &all[i]->data, tensor_bytes(*all[i]), e) != 0)
            return ASSAY_ENOMEM;
    struct tensor *scaled[] = {&a->quantized, &a->gated};
    for (int i = 0; i < 2; i++)
        if (scaled[i]->rows > 0 &&
            take(m, &scaled[i]->scale, (size_t)scaled[i]->rows * sizeof(float), e) != 0)
            return ASSAY_ENOMEM;
    return take(m, &m->values, (size_t)(s.pooled * s.labels) * sizeof(float), e);
}

static int take_tensor(struct qwen2_reward_model *m, struct tensor *t, struct err *e)
{
    return take(m, &t->data, tensor_bytes(*t), e);
}

static int take_kv_caches(struct qwen2_reward_model *m, struct err *e)
{
    struct sizes s = own_sizes(m);
    struct kv_caches *k = &m->kv_caches;
    if (m->cache_config.kv_cache_bytes == 0)
        return 0;
    *k = shape_kv_caches(&m->config, &m->cache_config, m->n_pp_ranks, &s);
    if (k->n_slots == 0)
        return err_set(e, ASSAY_EBADREQ,
            "--kv-cache: expected room for %d tokens at least, found %llu bytes", KV_BLOCK_TOKENS,
            (unsigned long long)m->cache_config.kv_cache_bytes);
    k->layers = xcalloc(m->config.n_layers, sizeof *k->layers);
    m->kv_cache = kv_cache_new((uint32_t)(k->n_slots / KV_BLOCK_TOKENS));
    int rc = take_tensor(m, &k->logits, e);
    if (rc == 0)
        rc = take_tensor(m, &k->merged, e);
    for (uint32_t i = m->own.first; rc == 0 && i < m->own.end; i++) {
        k->layers[i] = shape_kv_layer(k, &s);
        rc = take_tensor(m, &k->layers[i], e);
    }
    return rc;
}

static int take_rope(struct qwen2_reward_model *m, struct err *e)
{
    int64_t n = m->cache_config.max_len, half = m->config.head_dim / 2;
    size_t bytes = (size_t)(n * half) * sizeof(float);
    m->rope.head_dim = m->config.head_dim;
    if (take(m, &m->rope.cos, bytes, e) || take(m, &m->rope.sin, bytes, e))
        return ASSAY_ENOMEM;
    float *host = xcalloc(2, bytes);
    rope_fill(&m->config.rope, m->config.head_dim, (uint32_t)n, host, host + n * half);
    m->ops->device->upload(m->device, m->rope.cos, host, bytes);
    m->ops->device->upload(m->device, m->rope.sin, host + n * half, bytes);
    free(host);
    return 0;
}

int qwen2_take_memory(struct qwen2_reward_model *m, struct err *e)
{
    int rc = take_activations(m, e);
    if (rc == 0)
        rc = take_kv_caches(m, e);
    return rc == 0 ? take_rope(m, e) : rc;
}
