/* lora_load.c - copies adapters to the device, cut for this rank (lora.h).
 *
 * A module that is split by output features has A whole and its rows of B; one that is split by
 * input features has its columns of A, and B whole: what the ranks add is summed with the base's
 * partial products. The scale is multiplied into B. A pipeline stage copies what its own layers
 * have, the last one the head. */
#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/load.h"
#include "worker/lora.h"

/* A part of a tensor: rows [row, row + rows), columns [col, col + cols). */
struct part {
    const struct weight_tensor *t;
    int64_t row, rows, col, cols;
    double scale;
};

/* Floats from row to row of what `copy` makes: a head of an adapter is a product like the base's,
 * whose rows a device may want at multiples of 16 bytes. */
static int64_t stride_of(const struct part *p)
{
    return p->t->n_dims > 1 ? lora_stride(p->cols) : 1;
}

static float *copy(struct qwen2_reward_model *m, const struct part *p, struct err *e)
{
    const struct device_ops *d = m->ops->device;
    int64_t width = p->t->n_dims > 1 ? p->t->shape[1] : 1, stride = stride_of(p),
            element = dtype_bytes((enum dtype)p->t->dtype);
    size_t n = (size_t)(p->rows * stride), bytes = n * sizeof(float);
    float *to = d->alloc(m->device, bytes), *host = xcalloc(n, sizeof *host);
    if (!to)
        err_set(e, ASSAY_ENOMEM, "%s: no memory for its tensors", p->t->file);
    for (int64_t i = 0; to && i < p->rows; i++)
        dtype_convert(host + i * stride, DTYPE_F32,
            (const char *)p->t->data + ((p->row + i) * width + p->col) * element,
            (enum dtype)p->t->dtype, p->cols);
    for (size_t i = 0; p->scale != 1 && i < n; i++)
        host[i] = (float)(host[i] * p->scale);
    if (to)
        d->upload(m->device, to, host, bytes);
    free(host);
    return to;
}

static int copy_matrix(
    struct qwen2_reward_model *m, struct weight *out, const struct part *p, struct err *e)
{
    const float *data = copy(m, p, e);
    *out = (struct weight){data, DTYPE_F32, p->rows, p->cols, stride_of(p), NULL, DTYPE_F32, NULL};
    return data ? 0 : ASSAY_ENOMEM;
}

/* ---- modules ---- */

static const enum cut cuts[N_LAYER_MATRICES] = {
    CUT_ROWS, CUT_KV_ROWS, CUT_KV_ROWS, CUT_COLUMNS, CUT_ROWS, CUT_ROWS, CUT_COLUMNS};

static struct parallel_linear *product_of(struct qwen2_layer *layer, int module)
{
    return module <= MATRIX_V    ? &layer->qkv_proj
           : module == MATRIX_O  ? &layer->o_proj
           : module <= MATRIX_UP ? &layer->gate_up_proj
                                 : &layer->down_proj;
}

/* The module's part of its product: how far into the outputs it begins. */
static int64_t begins_at(const struct qwen2_reward_model *m, int module)
{
    const struct model_config *c = &m->config;
    int64_t q = (int64_t)c->n_heads / m->n_ranks * c->head_dim,
            kv = (int64_t)model_config_rank_kv_heads(c, m->n_ranks) * c->head_dim;
    return module == MATRIX_K    ? q
           : module == MATRIX_V  ? q + kv
           : module == MATRIX_UP ? c->intermediate_size / m->n_ranks
                                 : 0;
}

static int load_pair(struct qwen2_reward_model *m, const struct lora_pair *pair, int module,
    struct lora_shard *to, struct err *e)
{
    int64_t rank = pair->a.shape[0], out = pair->b.shape[0], in = pair->a.shape[1], row = 0,
            col = 0;
    int k = to->n++;
    if (cuts[module] == CUT_COLUMNS)
        load_cut(m, cuts[module], in, &col, &in);
    else
        load_cut(m, cuts[module], out, &row, &out);
    to->at[k] = begins_at(m, module);
    int rc = copy_matrix(m, &to->a[k], &(struct part){&pair->a, 0, rank, col, in, 1}, e);
    return rc == 0 ? copy_matrix(
                         m, &to->b[k], &(struct part){&pair->b, row, out, 0, rank, pair->scale}, e)
                   : rc;
}

/* ---- the head ---- */

static int load_vector(
    struct qwen2_reward_model *m, void **out, const struct part *p, struct err *e)
{
    *out = copy(m, p, e);
    return *out ? 0 : ASSAY_ENOMEM;
}

static int load_head(struct qwen2_reward_model *m, const struct lora_adapter *a,
    struct reward_head *head, struct err *e)
{
    const struct weight_tensor *t = a->head;
    int64_t h = m->config.hidden_size, n = m->config.n_labels, from = 0, own = h;
    *head = (struct reward_head){.mlp = m->score.mlp};
    head->second.n_parts = 1;
    if (head->mlp)
        load_cut(m, CUT_ROWS, h, &from, &own);
    int rc =
        copy_matrix(m, head->second.parts, &(struct part){&t[LORA_WEIGHT], 0, n, from, own, 1}, e);
    if (rc == 0 && t[LORA_BIAS].name)
        rc = load_vector(m, &head->second.bias, &(struct part){&t[LORA_BIAS], 0, n, 0, 1, 1}, e);
    if (rc != 0 || !head->mlp)
        return rc;
    head->first.n_parts = head->first.skip_bias_add = 1;
    rc = copy_matrix(m, head->first.parts, &(struct part){&t[LORA_FIRST], from, own, 0, h, 1}, e);
    return rc == 0 ? load_vector(m, &head->first.bias,
                         &(struct part){&t[LORA_FIRST_BIAS], from, own, 0, 1, 1}, e)
                   : rc;
}

/* ---- all ---- */

static int load_adapter(struct qwen2_reward_model *m, uint32_t k, struct err *e)
{
    const struct lora_adapter *a = &m->lora_config.adapters[k];
    int rc = 0;
    for (uint32_t i = m->own.first; i < m->own.end; i++)
        for (int module = 0; rc == 0 && module < N_LAYER_MATRICES; module++) {
            const struct lora_pair *pair = &a->pairs[i * N_LAYER_MATRICES + (uint32_t)module];
            if (pair->a.name)
                rc = load_pair(
                    m, pair, module, &product_of(&m->model.layers[i], module)->lora[k], e);
        }
    if (rc == 0 && a->has_head && qwen2_is_last_stage(m))
        rc = load_head(m, a, &m->heads[k], e);
    return rc == 0 ? lora_check(a, e) : rc;
}

int lora_load(struct qwen2_reward_model *m, struct err *e)
{
    uint32_t n = m->lora_config.n_adapters, n_products = 4 * m->config.n_layers;
    int rc = 0;
    if (n == 0)
        return 0;
    m->heads = xcalloc(n, sizeof *m->heads);
    m->shards = xcalloc((size_t)n_products * n, sizeof *m->shards);
    for (uint32_t i = 0; i < m->config.n_layers; i++) {
        struct qwen2_layer *layer = &m->model.layers[i];
        struct parallel_linear *products[] = {
            &layer->qkv_proj, &layer->o_proj, &layer->gate_up_proj, &layer->down_proj};
        for (uint32_t p = 0; p < 4; p++)
            products[p]->lora = m->shards + (size_t)(4 * i + p) * n;
    }
    for (uint32_t k = 0; rc == 0 && k < n; k++)
        rc = load_adapter(m, k, e);
    return rc;
}

void lora_release(struct qwen2_reward_model *m)
{
    free(m->heads);
    free(m->shards);
    m->heads = NULL;
    m->shards = NULL;
}
