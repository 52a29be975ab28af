/* qwen2.c - the forward pass, written once over the table of operations (qwen2.h), of the whole
 * model or of a pipeline stage.
 *
 * The norm after a block adds the block's output to the residual: one pass over both. So `normed`
 * holds a block's output until the next norm reads it and overwrites it. Between two blocks these
 * two are all there is: `normed` and `residual` are the intermediate tensors {hidden_states,
 * residual} that a pipeline stage takes and gives, so a pipeline adds in the same order as one
 * stage.
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
#include "worker/layer_matrix.h"
#include "worker/lora.h"
#include "worker/qwen2_memory.h"

/* A quantized checkpoint's own type is that of its embedding, as it was before. */
static enum dtype own_type(
    struct weights *w, const struct model_config *c, const struct quant_config *quant)
{
    enum dtype stored =
        c->quantization.format == FORMAT_NONE ? weights_dtype(w) : weights_embedding_dtype(w);
    return stored == DTYPE_F32 && quant_config_type(quant) != DTYPE_F32 ? DTYPE_BF16 : stored;
}

/* Inputs that are rounded to FP8 by token, times FP8 with a scale for each row, is a product that
 * GPUs have. */
static int is_fp8_product(const struct model_config *c)
{
    const struct quantization *q = &c->quantization;
    uint8_t all = (1 << N_LAYER_MATRICES) - 1;
    for (uint32_t i = 0; i < c->n_layers; i++)
        all &= c->quantized[i];
    return q->inputs.how == ROUND_BY_MAGNITUDE && q->inputs.numbers == PACKED_E4M3 &&
           q->inputs.group == 0 && q->inputs.least == 0 && q->format == FORMAT_PLAIN &&
           q->numbers == PACKED_E4M3 && q->group_size == 0 && q->group_rows <= 1 &&
           all == (1 << N_LAYER_MATRICES) - 1;
}

/* A checkpoint that is quantized itself has no --quant. Where GPUs have its products, they take
 * inputs and matrices as they are stored. */
static int choose_quantized(
    struct model_config *c, const struct quant_config *quant, const struct ops *ops, struct err *e)
{
    if (quant_config_type(quant) != DTYPE_F32)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--quant %s: the checkpoint is quantized already (%s); expected none", quant->method,
            c->quantization.name);
    if (ops->typed && is_fp8_product(c))
        c->quantization.products = DTYPE_F8;
    return 0;
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
    c->quantization.products = DTYPE_F32;
    if (c->quantization.format != FORMAT_NONE && choose_quantized(c, quant, ops, e) != 0)
        return e->code;
    c->activation_type = ops->typed ? own_type(w, c, quant) : is_bf16 ? DTYPE_BF16 : DTYPE_F32;
    return 0;
}

static int check_configs(const struct qwen2_configs *c, const struct ops *ops, struct err *e)
{
    int rc = cache_config_check(&c->cache_config, e);
    if (rc == 0)
        rc = quant_config_check(&c->quant_config, e);
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
    return qwen2_take_memory(m, e);
}

void qwen2_reward_model_release(struct qwen2_reward_model *m)
{
    free(m->model.layers);
    free(m->activations);
    free(m->kv_caches.layers);
    kv_cache_free(&m->kv_cache);
    free(m->score.rows);
    free(m->packings);
    m->packings = NULL;
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
    const struct kv_slots *slots; /* meta->slot_mapping on the device */
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
    const struct batch_inputs *batch, struct attention_input *in)
{
    m->ops->keep(m->device, cache, kv, batch->slots, batch->meta->n_slot_mapping);
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
    int64_t q = (int64_t)c->n_heads / m->n_ranks * c->head_dim,
            kv = (int64_t)model_config_rank_kv_heads(c, m->n_ranks) * c->head_dim;
    uint32_t heads = (uint32_t)(q / c->head_dim), kv_heads = (uint32_t)(kv / c->head_dim);
    struct tensor qkv = rows_for(m->activations->qkv, stream->x.rows, q + 2 * kv);
    struct attention_input in = {.q = tensor_columns(qkv, 0, q),
        .k = tensor_columns(qkv, q, kv),
        .v = tensor_columns(qkv, q + kv, kv)};
    struct tensor context = rows_for(m->activations->context, stream->x.rows, q);
    struct attention_shape shape = {
        heads, kv_heads, c->head_dim, 1.0f / __builtin_sqrtf((float)c->head_dim), layer->window};
    struct tensor normed = add_norm(m, stream, layer->input_layernorm);
    column_parallel_linear(ops, m->device, &layer->qkv_proj, normed, qkv, &lora);
    if (c->trunk->qk_norm) {
        ops->head_norm(m->device, in.q, heads, layer->q_norm, c->rms_norm_eps);
        ops->head_norm(m->device, in.k, kv_heads, layer->k_norm, c->rms_norm_eps);
    }
    ops->rope(m->device, tensor_columns(qkv, 0, q + kv), heads + kv_heads, &m->rope, positions);
    if (in_batch->kv_caches)
        use_kv_cache(m, in_batch->kv_caches->layers[layer - m->model.layers],
            tensor_columns(qkv, q, 2 * kv), in_batch, &in);
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

static struct batch_inputs push_inputs(
    struct qwen2_reward_model *m, const struct forward_inputs *in)
{
    const struct device_ops *device = m->ops->device;
    const struct attn_metadata *meta = in->attn_metadata;
    struct batch_inputs b = {.meta = meta, .lora = &in->lora_mapping, .kv_caches = in->kv_caches};
    size_t n_tokens = meta->cu_seqlens[meta->n_rows];
    b.positions = device->push(m->device, in->positions, n_tokens * sizeof *b.positions);
    if (meta->out_rows)
        b.out_rows = device->push(m->device, meta->out_rows, meta->n_out_rows * sizeof *b.out_rows);
    if (meta->n_slot_mapping > 0)
        b.slots =
            device->push(m->device, meta->slot_mapping, meta->n_slot_mapping * sizeof *b.slots);
    return b;
}

int qwen2_reward_model_forward(struct qwen2_reward_model *m, const struct forward_inputs *in,
    struct intermediate_tensors *out, struct err *e)
{
    const struct ops *ops = m->ops;
    int rc = check_inputs(m, in, e);
    if (rc != 0)
        return rc;
    ops->device->begin(m->device);
    struct stream s = begin_stream(m, in);
    struct batch_inputs batch = push_inputs(m, in);
    ops->plan_attention(m->device, batch.meta);
    for (uint32_t i = m->own.first; i < m->own.end; i++)
        run_layer(m, i, &s, &batch);
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

/* The shapes and biases are those of run_head: there the bias of an MLP is added apart. */
void qwen2_reward_model_choose_head(struct qwen2_reward_model *m)
{
    const struct model_config *c = &m->config;
    int64_t hidden = c->hidden_size, own = hidden / m->n_ranks;
    if (qwen2_is_last_stage(m))
        return;
    if (c->head->kind != HEAD_MLP) {
        m->ops->choose_linear(
            m->device, DTYPE_F32, c->n_labels, hidden, c->head_bias || c->std > 0);
        return;
    }
    m->ops->choose_linear(m->device, DTYPE_F32, own, hidden, 0);
    m->ops->choose_linear(m->device, DTYPE_F32, c->n_labels, own, 0);
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
