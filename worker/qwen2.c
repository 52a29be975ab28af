/* qwen2.c - the forward pass, written once over the table of operations (qwen2.h), of the whole
 * model or of a pipeline stage.
 *
 * Activations in the arena, with T tokens in the batch and this rank's sizes; float32 on the CPU
 * and where marked f32, else of the activation type:
 *     residual  [T, hidden] f32           the stream that every block adds to
 *     pruned    [wanted, hidden] f32      the same, in the last layer after attention
 *     normed    [T, hidden]               its norm1 or norm2; then what o_proj or down_proj gives
 *     qkv       [T, (heads + 2 kv) dim]
 *     context   [T, heads dim]            the output of attention
 *     gate_up   [mlp_rows, 2 mlp]         some rows at a time: a long row needs no more
 *     quantized [T, hidden]               a norm of the residual, if the layers' matrices are
 *     gated     [mlp_rows, mlp]           quantized; else these two lie in normed and gate_up
 *     lora      [T, ranks of adapters] f32 what goes between the two matrices of an adapter
 *     score     [T, hidden / ranks] f32, and [P, n_labels] f32 of the P tokens that a batch pools
 *
 * The norm after a block adds the block's output to the residual: one pass over both. So `normed`
 * holds a block's output until the next norm reads it and overwrites it. Between two blocks these two are
 * all there is: `normed` and `residual` are the intermediate tensors {hidden_states, residual} that a
 * pipeline stage takes and gives, so a pipeline adds in the same order as one stage.
 *
 * With a KV cache, the keys and values of attn_metadata.slot_mapping are copied to their slots as
 * soon as they are there; attention finds those of block_tables in theirs.
 *
 * In the last layer only the wanted tokens (attn_metadata.out_rows) continue after attention: from
 * there tokens are independent, so the others need not be computed, and no bit changes. */
#include "worker/qwen2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/kv_cache.h"
#include "worker/load.h"
#include "worker/lora.h"
#include "worker/rope.h"

#define ALLOC_BYTES 256 /* room for an allocation's rounding */

struct activations {
    int64_t max_tokens;
    struct tensor residual, pruned, normed, qkv, context, gate_up, quantized, gated, score_hidden,
        logits, lora;
};

struct sizes {
    int64_t hidden, q, kv, mlp, score_hidden, labels;
    int64_t batch, tokens;  /* most tokens of a batch, and of a forward pass */
    int64_t pooled, wanted; /* of which a head scores; none but on the last pipeline stage */
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
    struct tensor layer = tensor_shaped(NULL, DTYPE_F32, KV_BLOCK_TOKENS, 2 * s->kv),
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
    uint32_t n_ranks, uint32_t n_pp_ranks, int is_last_stage)
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
    };
    s.tokens = count_tokens(c, cache, n_pp_ranks, &s);
    s.pooled = is_last_stage ? s.batch : 0;
    s.wanted = is_last_stage ? s.tokens : 0;
    return s;
}

static struct activations shape_activations(const struct model_config *c, const struct sizes *s,
    const struct ops *ops, const struct quant_config *quant_config, const struct lora_config *lora)
{
    enum dtype type = ops_activations(ops, c->activation_type),
               quant = quant_config_type(quant_config);
    int64_t t = s->tokens, mlp_rows = ops->mlp_rows < t ? ops->mlp_rows : t;
    int is_quantized = ops->typed && quant != DTYPE_F32;
    int64_t quant_rows = round_up(t, QUANT_ROWS), gated_rows = round_up(mlp_rows, QUANT_ROWS);
    return (struct activations){
        .max_tokens = t,
        .residual = tensor_shaped(NULL, DTYPE_F32, t, s->hidden),
        .pruned = tensor_shaped(NULL, DTYPE_F32, s->wanted, s->hidden),
        .normed = tensor_shaped(NULL, type, t, s->hidden),
        .qkv = tensor_shaped(NULL, type, t, s->q + 2 * s->kv),
        .context = tensor_shaped(NULL, type, t, s->q),
        .gate_up = tensor_shaped(NULL, type, mlp_rows, 2 * s->mlp),
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
    return tensor_shaped(NULL, DTYPE_F32, k->n_slots, 2 * s->kv);
}

static enum dtype own_type(struct weights *w, const struct quant_config *quant)
{
    enum dtype stored = weights_dtype(w);
    return stored == DTYPE_F32 && quant_config_type(quant) != DTYPE_F32 ? DTYPE_BF16 : stored;
}

/* What is not built for a checkpoint that is quantized itself. */
static int refuse_quantized(const struct model_config *c, const struct quant_config *quant,
    const struct ops *ops, struct err *e)
{
    if (ops->typed)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "quantization_config: %s is not built for GPUs; expected --device cpu, or a checkpoint "
            "that is not quantized",
            c->quantization.name);
    return err_set(e, ASSAY_EUNSUPPORTED,
        "--quant %s: the checkpoint is quantized already (%s); expected none", quant->method,
        c->quantization.name);
}

int model_choose_type(struct model_config *c, const char *dtype, const struct quant_config *quant,
    struct weights *w, const struct ops *ops, struct err *e)
{
    int is_auto = strcmp(dtype, "auto") == 0, is_bf16 = strcmp(dtype, "bf16") == 0;
    if (!is_auto && !is_bf16 && strcmp(dtype, "f32") != 0)
        return err_set(
            e, ASSAY_EUNSUPPORTED, "--dtype: expected auto, f32 or bf16, found '%.40s'", dtype);
    if (!is_auto && ops->typed)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--dtype %s: a GPU computes in the checkpoint's own type; expected auto, or --device "
            "cpu",
            dtype);
    if (is_bf16 && quant_config_type(quant) != DTYPE_F32)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--dtype bf16 with --quant %s: expected one of them: products are of bfloat16 or of "
            "what --quant says",
            quant->method);
    if (c->quantization.format != FORMAT_NONE &&
        (ops->typed || quant_config_type(quant) != DTYPE_F32))
        return refuse_quantized(c, quant, ops, e);
    c->activation_type = ops->typed ? own_type(w, quant) : is_bf16 ? DTYPE_BF16 : DTYPE_F32;
    return 0;
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
        configs->pp_rank + 1 == configs->n_pp_ranks);
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
    o->input_bytes = (size_t)s.batch * (8 * sizeof(int32_t) + sizeof(struct pool_span)) +
                     ((size_t)cache->max_rows + 1) * sizeof(uint32_t) + 8 * ALLOC_BYTES;
    if (cache->kv_cache_bytes > 0) /* places of kept logits */
        o->input_bytes += 2 * ((size_t)s.batch * sizeof(uint32_t) + ALLOC_BYTES);
    o->output_bytes = (size_t)(s.pooled * s.labels) * sizeof(float);
    o->reduce_bytes = tensor_bytes(tensor_shaped(NULL, DTYPE_F32, s.tokens, s.hidden));
    o->head_dim = c->head_dim;
    o->quant = quant_config_type(&configs->quant_config);
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
        &m->config, &m->cache_config, m->n_ranks, m->n_pp_ranks, qwen2_is_last_stage(m));
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

static int check_adapters(const struct lora_config *c, const struct ops *ops, struct err *e)
{
    if (c->n_adapters == 0 || ops->linear_add)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "lora_config: adapter '%.80s': adapters are not built for %s: expected none, or --device "
        "cpu",
        c->adapters[0].name, ops->name);
}

static int check_kv_cache(const struct cache_config *c, const struct ops *ops, struct err *e)
{
    if (c->kv_cache_bytes == 0 || ops->keep)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "cache_config: a KV cache is not built for %s: expected no --kv-cache, or --device cpu",
        ops->name);
}

static int check_configs(const struct qwen2_configs *c, const struct ops *ops, struct err *e)
{
    int rc = cache_config_check(&c->cache_config, e);
    if (rc == 0)
        rc = quant_config_check(&c->quant_config, e);
    if (rc == 0)
        rc = check_adapters(&c->lora_config, ops, e);
    if (rc == 0)
        rc = check_kv_cache(&c->cache_config, ops, e);
    if (rc == 0)
        rc = model_config_check_tp(&c->config, c->n_ranks, e);
    if (rc == 0)
        rc = model_config_check_pp(&c->config, c->n_pp_ranks, e);
    if (rc == 0 && ops->typed)
        rc = model_config_check_quant(&c->config, &c->quant_config, c->n_ranks, e);
    return rc;
}

int qwen2_reward_model_init(struct qwen2_reward_model *m, const struct qwen2_configs *c,
    const struct ops *ops, struct device *device, struct err *e)
{
    *m = (struct qwen2_reward_model){.config = c->config,
        .cache_config = c->cache_config,
        .quant_config = c->quant_config,
        .lora_config = c->lora_config,
        .ops = ops,
        .device = device,
        .rank = c->rank,
        .n_ranks = c->n_ranks,
        .pp_rank = c->pp_rank,
        .n_pp_ranks = c->n_pp_ranks};
    int rc = check_configs(c, ops, e);
    if (rc != 0)
        return rc;
    m->own = model_config_pp_layers(&c->config, c->pp_rank, c->n_pp_ranks);
    m->activations = xcalloc(1, sizeof *m->activations);
    m->model.layers = xcalloc(c->config.n_layers, sizeof *m->model.layers);
    for (uint32_t i = 0; i < c->config.n_layers; i++)
        m->model.layers[i].window = c->config.layer_slides[i] ? c->config.sliding_window : 0;
    rc = take_activations(m, e);
    if (rc == 0)
        rc = take_kv_caches(m, e);
    return rc == 0 ? take_rope(m, e) : rc;
}

void qwen2_reward_model_release(struct qwen2_reward_model *m)
{
    free(m->model.layers);
    free(m->activations);
    free(m->kv_caches.layers);
    kv_cache_free(&m->kv_cache);
    free(m->score.rows);
    lora_release(m);
    m->score.rows = NULL;
    m->kv_caches.layers = NULL;
    m->model.layers = NULL;
    m->activations = NULL;
}

uint32_t qwen2_reward_model_max_tokens(const struct qwen2_reward_model *m)
{
    return (uint32_t)m->activations->max_tokens;
}

void qwen2_reward_model_mode(const struct qwen2_reward_model *m, char *text, size_t bytes)
{
    char device[160];
    m->ops->device->identity(m->device, device, sizeof device);
    const char *weights = m->config.weights_decided;
    const char *inputs = m->config.quantization.chosen;
    snprintf(text, bytes, "device=%s dtype=%s quant=%s tp=%u pp=1%s%s%s%s%s%s", device,
        dtype_name(m->config.activation_type),
        m->config.quantization.format ? m->config.quantization.name : m->quant_config.method,
        m->n_ranks, inputs ? " activations=" : "", inputs ? inputs : "", weights ? " weights=" : "",
        weights ? weights : "", m->config.tokens.n > 0 ? " head=" : "", m->config.tokens.text);
}

uint64_t qwen2_reward_model_kv_bytes(const struct qwen2_reward_model *m)
{
    const struct kv_caches *k = &m->kv_caches;
    if (!m->kv_cache)
        return 0;
    uint64_t slot =
        (m->own.end - m->own.first) * tensor_bytes(tensor_rows(k->layers[m->own.first], 0, 1));
    slot += k->logits.rows > 0 ? tensor_bytes(tensor_rows(k->logits, 0, 1)) : 0;
    return (uint64_t)kv_cache_used(m->kv_cache) * KV_BLOCK_TOKENS * slot;
}

/* ---- forward ---- */

/* A view of the arena's tensor `t` with fewer rows, and perhaps fewer columns. */
static struct tensor rows_for(struct tensor t, int64_t rows, int64_t cols)
{
    t.rows = rows;
    t.cols = cols;
    return t;
}

/* A batch on the device. */
struct batch_inputs {
    const int32_t *positions;
    const uint32_t *out_rows; /* NULL: all are wanted */
    const struct attn_metadata *meta;
    const struct lora_mapping *lora;
    const struct kv_caches *kv_caches;
};

/* A residual stream, the last block's output, which is still to be added to it, and the norm of the
 * sum, which may overwrite block. */
struct stream {
    struct tensor x, block, normed;
    int has_block;
};

/* x += block; then the norm of x. */
static struct tensor add_norm(struct qwen2_reward_model *m, struct stream *s, const float *weight)
{
    m->ops->rms_norm(m->device, s->normed, s->x, s->has_block ? &s->block : NULL, weight,
        m->config.rms_norm_eps);
    s->has_block = 0;
    return s->normed;
}

/* The rows of a product that go through adapters. */
static struct lora_rows adapted(
    const struct qwen2_reward_model *m, const struct lora_span *spans, uint32_t n)
{
    return (struct lora_rows){spans, n, 0, m->activations->lora};
}

/* Keeps what is to be kept of a layer's keys and values, and shows attention what is kept. */
static void use_kv_cache(struct qwen2_reward_model *m, struct tensor cache, struct tensor kv,
    const struct attn_metadata *meta, struct attention_input *in)
{
    m->ops->keep(m->device, cache, kv, meta->slot_mapping, meta->n_slot_mapping);
    in->cached_k = tensor_columns(cache, 0, kv.cols / 2);
    in->cached_v = tensor_columns(cache, kv.cols / 2, kv.cols / 2);
}

/* Attention of one block over all tokens: from x's norm to the context, before o_proj. */
static struct tensor attend(struct qwen2_reward_model *m, const struct qwen2_layer *layer,
    struct stream *stream, const struct batch_inputs *in_batch)
{
    const struct ops *ops = m->ops;
    const int32_t *positions = in_batch->positions;
    const struct attn_metadata *meta = in_batch->meta;
    const struct lora_rows lora = adapted(m, in_batch->lora->tokens, in_batch->lora->n_tokens);
    const struct model_config *c = &m->config;
    struct sizes s = own_sizes(m);
    uint32_t heads = (uint32_t)(s.q / c->head_dim), kv_heads = (uint32_t)(s.kv / c->head_dim);
    struct tensor qkv = rows_for(m->activations->qkv, stream->x.rows, s.q + 2 * s.kv);
    struct attention_input in = {.q = tensor_columns(qkv, 0, s.q),
        .k = tensor_columns(qkv, s.q, s.kv),
        .v = tensor_columns(qkv, s.q + s.kv, s.kv)};
    struct tensor context = rows_for(m->activations->context, stream->x.rows, s.q);
    struct attention_shape shape = {
        heads, kv_heads, c->head_dim, 1.0f / __builtin_sqrtf((float)c->head_dim), layer->window};
    struct tensor normed = add_norm(m, stream, layer->input_layernorm);
    column_parallel_linear(ops, m->device, &layer->qkv_proj, normed, qkv, &lora);
    if (c->trunk->qk_norm) {
        ops->head_norm(m->device, in.q, heads, layer->q_norm, c->rms_norm_eps);
        ops->head_norm(m->device, in.k, kv_heads, layer->k_norm, c->rms_norm_eps);
    }
    ops->rope(m->device, tensor_columns(qkv, 0, s.q + s.kv), heads + kv_heads, &m->rope, positions);
    if (in_batch->kv_caches)
        use_kv_cache(m, in_batch->kv_caches->layers[layer - m->model.layers],
            tensor_columns(qkv, s.q, 2 * s.kv), meta, &in);
    ops->attention(m->device, context, &in, &shape, meta);
    return context;
}

/* block = down(silu(gate(normed)) * up(normed)), mlp_rows rows at a time; block may be normed */
static void mlp(struct qwen2_reward_model *m, const struct qwen2_layer *layer, struct tensor block,
    struct tensor normed, struct lora_rows lora)
{
    const struct ops *ops = m->ops;
    int64_t n = m->config.intermediate_size / m->n_ranks, step = m->activations->gate_up.rows;
    for (int64_t row = 0; row < normed.rows; row += step) {
        int64_t rows = normed.rows - row < step ? normed.rows - row : step;
        lora.from = row;
        struct tensor gate_up = rows_for(m->activations->gate_up, rows, 2 * n);
        struct tensor gate = tensor_columns(gate_up, 0, n), up = tensor_columns(gate_up, n, n);
        struct tensor gated =
            m->activations->gated.rows > 0 ? rows_for(m->activations->gated, rows, n) : gate;
        column_parallel_linear(
            ops, m->device, &layer->gate_up_proj, tensor_rows(normed, row, rows), gate_up, &lora);
        ops->silu_mul(m->device, gated, gate, up);
        row_parallel_linear(
            ops, m->device, &layer->down_proj, gated, tensor_rows(block, row, rows), &lora);
    }
}

/* Keeps only the wanted rows of x and context; x moves to `pruned`, context to `qkv`, which is free
 * by now. */
static void prune(struct qwen2_reward_model *m, struct tensor *x, struct tensor *context,
    const uint32_t *out_rows, int64_t n)
{
    struct tensor kept = rows_for(m->activations->pruned, n, x->cols);
    struct tensor kept_context = rows_for(m->activations->qkv, n, context->cols);
    m->ops->gather(m->device, kept, *x, out_rows);
    m->ops->gather(m->device, kept_context, *context, out_rows);
    *x = kept;
    *context = kept_context;
}

/* The last row that begins at this token or before it. */
static uint32_t row_with(const struct attn_metadata *meta, uint32_t token)
{
    uint32_t low = 0, high = meta->n_rows;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (meta->cu_seqlens[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Checks that each prefix lies in one earlier row, which has no prefix itself. */
static int check_prefixes(
    const struct qwen2_reward_model *m, const struct attn_metadata *meta, struct err *e)
{
    const struct attn_prefix *prefixes = meta->prefix_segments;
    if (prefixes && !m->ops->shares_prefixes)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "attn_metadata.prefix_segments: %s does not have them: expected NULL", m->ops->name);
    for (uint32_t r = 0; prefixes && r < meta->n_rows; r++) {
        struct attn_prefix p = prefixes[r];
        uint32_t owner = row_with(meta, p.first), end = meta->cu_seqlens[owner + 1];
        if (p.n > 0 &&
            (owner >= r || prefixes[owner].n > 0 || p.first >= end || p.n > end - p.first))
            return err_set(e, ASSAY_EFORMAT,
                "attn_metadata.prefix_segments: row %u: expected tokens of one row before it, "
                "found %u from %u on",
                r, p.n, p.first);
    }
    return 0;
}

static int has_shape(
    const struct qwen2_reward_model *m, struct tensor t, enum dtype type, uint32_t n)
{
    return t.dtype == type && t.rows == n && t.cols == m->config.hidden_size;
}

/* A stage takes them from the one before; the first has none. */
static int check_intermediate_tensors(const struct qwen2_reward_model *m,
    const struct intermediate_tensors *t, uint32_t n_tokens, struct err *e)
{
    if (qwen2_is_first_stage(m) != !t)
        return err_set(e, ASSAY_EBADREQ,
            "intermediate_tensors: pipeline stage %u: expected %s, found %s", m->pp_rank,
            t ? "NULL, since no stage is before it" : "those of the stage before it",
            t ? "some" : "none");
    if (!t || (has_shape(m, t->residual, DTYPE_F32, n_tokens) &&
                  has_shape(m, t->hidden_states, m->activations->normed.dtype, n_tokens)))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "intermediate_tensors: expected [%u, %u], found hidden_states [%lld, %lld] and residual "
        "[%lld, %lld]",
        n_tokens, m->config.hidden_size, (long long)t->hidden_states.rows,
        (long long)t->hidden_states.cols, (long long)t->residual.rows, (long long)t->residual.cols);
}

static int check_inputs(
    const struct qwen2_reward_model *m, const struct forward_inputs *in, struct err *e)
{
    const struct attn_metadata *meta = in->attn_metadata;
    const int32_t *ids = in->input_ids;
    uint32_t n = meta->cu_seqlens[meta->n_rows];
    if (in->kv_caches && !m->ops->keep)
        return err_set(
            e, ASSAY_EUNSUPPORTED, "kv_caches is not built for %s: expected NULL", m->ops->name);
    if (!in->kv_caches && (meta->block_tables || meta->n_slot_mapping > 0))
        return err_set(e, ASSAY_EBADREQ,
            "attn_metadata: block_tables and slot_mapping: expected kv_caches with them, found "
            "none");
    if (check_intermediate_tensors(m, in->intermediate_tensors, n, e) != 0 ||
        check_prefixes(m, meta, e) != 0)
        return e->code;
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

/* Runs one block; its output stays in s->block. */
static void run_layer(
    struct qwen2_reward_model *m, uint32_t i, struct stream *s, const struct batch_inputs *in)
{
    const struct qwen2_layer *layer = &m->model.layers[i];
    struct tensor context = attend(m, layer, s, in);
    struct lora_rows lora = adapted(m, in->lora->tokens, in->lora->n_tokens);
    if (in->out_rows && i + 1 == m->config.n_layers) {
        prune(m, &s->x, &context, in->out_rows, in->meta->n_out_rows);
        s->block.rows = s->normed.rows = in->meta->n_out_rows;
        lora = adapted(m, in->lora->wanted, in->lora->n_wanted);
    }
    row_parallel_linear(m->ops, m->device, &layer->o_proj, context, s->block, &lora);
    s->has_block = 1;
    mlp(m, layer, s->block, add_norm(m, s, layer->post_attention_layernorm), lora);
    s->has_block = 1;
}

struct intermediate_tensors qwen2_reward_model_make_empty_intermediate_tensors(
    struct qwen2_reward_model *m, uint32_t n_tokens)
{
    int64_t hidden = m->config.hidden_size;
    return (struct intermediate_tensors){rows_for(m->activations->normed, n_tokens, hidden),
        rows_for(m->activations->residual, n_tokens, hidden)};
}

/* The stream that the first layer of this stage takes. */
static struct stream begin_stream(struct qwen2_reward_model *m, const struct forward_inputs *in)
{
    const struct intermediate_tensors *given = in->intermediate_tensors;
    uint32_t n = in->attn_metadata->cu_seqlens[in->attn_metadata->n_rows];
    struct intermediate_tensors t =
        given ? *given : qwen2_reward_model_make_empty_intermediate_tensors(m, n);
    struct stream s = {.x = t.residual, .block = t.hidden_states, .has_block = given != NULL};
    s.normed = m->activations->quantized.rows > 0
                   ? rows_for(m->activations->quantized, n, m->config.hidden_size)
                   : s.block;
    if (!given)
        m->ops->embed(m->device, s.x, &m->model.embed_tokens,
            m->ops->device->push(m->device, in->input_ids, n * sizeof *in->input_ids));
    return s;
}

int qwen2_reward_model_forward(struct qwen2_reward_model *m, const struct forward_inputs *in,
    struct intermediate_tensors *out, struct err *e)
{
    const struct ops *ops = m->ops;
    const struct attn_metadata *meta = in->attn_metadata;
    int rc = check_inputs(m, in, e);
    if (rc != 0)
        return rc;
    size_t n_tokens = meta->cu_seqlens[meta->n_rows];
    ops->device->begin(m->device);
    struct stream s = begin_stream(m, in);
    const int32_t *positions =
        ops->device->push(m->device, in->positions, n_tokens * sizeof *positions);
    const uint32_t *out_rows = meta->out_rows ? ops->device->push(m->device, meta->out_rows,
                                                    meta->n_out_rows * sizeof *out_rows)
                                              : NULL;
    ops->plan_attention(m->device, meta);
    for (uint32_t i = m->own.first; i < m->own.end; i++)
        run_layer(m, i, &s,
            &(struct batch_inputs){positions, out_rows, meta, &in->lora_mapping, in->kv_caches});
    *out = (struct intermediate_tensors){s.block, s.x};
    if (qwen2_is_last_stage(m)) {
        ops->rms_norm(m->device, s.x, s.x, &s.block, m->model.norm, m->config.rms_norm_eps);
        *out = (struct intermediate_tensors){.hidden_states = s.x};
    }
    return 0;
}

static void run_head(struct qwen2_reward_model *m, const struct reward_head *head, struct tensor h,
    struct tensor logits)
{
    const struct ops *ops = m->ops;
    if (!head->mlp) {
        column_parallel_linear(ops, m->device, &head->second, h, logits, NULL);
        return;
    }
    struct tensor hidden =
        rows_for(m->activations->score_hidden, h.rows, m->config.hidden_size / m->n_ranks);
    hidden =
        relu(ops, m->device, column_parallel_linear(ops, m->device, &head->first, h, hidden, NULL));
    row_parallel_linear(ops, m->device, &head->second, hidden, logits, NULL);
}

struct tensor qwen2_reward_model_score(
    struct qwen2_reward_model *m, struct tensor h, const struct lora_mapping *mapping)
{
    struct tensor logits = rows_for(m->activations->logits, h.rows, m->config.n_labels);
    run_head(m, &m->score, h, logits);
    for (uint32_t i = 0; mapping && i < mapping->n_wanted; i++) {
        const struct lora_span *s = &mapping->wanted[i];
        if (m->heads[s->adapter - 1].second.n_parts > 0)
            run_head(m, &m->heads[s->adapter - 1], tensor_rows(h, s->first, s->n),
                tensor_rows(logits, s->first, s->n));
    }
    return logits;
}
