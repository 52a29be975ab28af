/* load.c - qwen2_reward_model_load_weights: puts every tensor of the checkpoint in its place in the
 * model, cut for this rank.
 *
 * A place has the expected shape, the cut for this rank, and the destination: a matrix becomes a
 * view into the mapped file, a vector is converted into device memory. The config determines the
 * list of places; each tensor is looked up in it, and at the end every place must be filled. Then
 * the device gets all matrices at once (device_ops.prepare_weights), so that it can size its memory
 * before it copies any. On a pipeline stage the other stages' tensors have places too: a checkpoint
 * is as strictly checked as on one, but their bytes are not touched. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/directory.h"
#include "worker/layer_matrix.h"
#include "worker/load.h"

void load_add_place(struct loader *l, int layer, const char *name, struct place place)
{
    if (l->n == l->room) {
        l->room = l->room ? l->room * 2 : 64;
        l->places = xgrow(l->places, l->n, l->room, sizeof *l->places);
    }
    if (layer >= 0)
        snprintf(place.name, sizeof place.name, "layers.%d.%s", layer, name);
    else
        snprintf(place.name, sizeof place.name, "%s", name);
    place.is_elsewhere = l->elsewhere;
    l->places[l->n++] = place;
}

void *load_new_vector(struct loader *l, int64_t n, enum dtype type)
{
    return l->elsewhere ? NULL
                        : l->m->ops->device->alloc(l->m->device, (size_t)(n * dtype_bytes(type)));
}

/* Adds the place of a float32 vector that every rank has whole; returns its device memory. */
static float *add_vector(struct loader *l, int layer, const char *name, int64_t n)
{
    float *vector = load_new_vector(l, n, DTYPE_F32);
    load_add_place(l, layer, name, (struct place){.rows = n, .vector = vector});
    return vector;
}

/* If there are more ranks than kv heads, several have the same head. */
void load_cut(
    const struct qwen2_reward_model *m, enum cut cut, int64_t whole, int64_t *from, int64_t *n)
{
    int64_t ranks = m->n_ranks, dim = m->config.head_dim;
    *from = 0;
    *n = whole;
    if (cut == CUT_KV_ROWS) {
        *n = model_config_rank_kv_heads(&m->config, m->n_ranks) * dim;
        *from = (int64_t)m->rank * m->config.n_kv_heads / ranks * dim;
    } else if (cut != CUT_NONE) {
        *n = whole / ranks;
        *from = *n * m->rank;
    }
}

/* Adds the place of a part of a bias: n numbers for this rank, from `at` on of the bias's vector
 * (NULL: there was no memory). Returns how many. */
static int64_t add_bias_part(
    struct loader *l, int i, const char *name, struct place place, void *vector, int64_t at)
{
    int64_t from, n;
    place.vector_type = ops_activations(l->m->ops, l->m->config.activation_type);
    load_cut(l->m, place.cut, place.rows, &from, &n);
    if (vector)
        place.vector = (char *)vector + at * dtype_bytes(place.vector_type);
    load_add_place(l, i, name, place);
    return n;
}

/* The biases of parts that are one product are one vector, in the type of what it is added to. */
static void *new_bias(struct loader *l, int64_t n)
{
    return load_new_vector(l, n, ops_activations(l->m->ops, l->m->config.activation_type));
}

static void add_qkv_bias(struct loader *l, int i)
{
    const struct model_config *c = &l->m->config;
    int64_t dim = c->head_dim, n = 0,
            local =
                (c->n_heads / l->m->n_ranks + 2 * model_config_rank_kv_heads(c, l->m->n_ranks)) *
                dim;
    struct place q = {.rows = c->n_heads * dim, .cut = CUT_ROWS},
                 kv = {.rows = c->n_kv_heads * dim, .cut = CUT_KV_ROWS};
    void *bias = l->m->model.layers[i].qkv_proj.bias = new_bias(l, local);
    n += add_bias_part(l, i, "self_attn.q_proj.bias", q, bias, n);
    n += add_bias_part(l, i, "self_attn.k_proj.bias", kv, bias, n);
    add_bias_part(l, i, "self_attn.v_proj.bias", kv, bias, n);
}

/* Added after the sum over the ranks: each has it whole. */
static void *add_whole_bias(struct loader *l, int i, const char *name)
{
    int64_t h = l->m->config.hidden_size;
    void *bias = new_bias(l, h);
    add_bias_part(l, i, name, (struct place){.rows = h}, bias, 0);
    return bias;
}

static void add_mlp_bias(struct loader *l, int i)
{
    struct qwen2_layer *layer = &l->m->model.layers[i];
    int64_t mlp = l->m->config.intermediate_size;
    struct place half = {.rows = mlp, .cut = CUT_ROWS};
    void *bias = layer->gate_up_proj.bias = new_bias(l, 2 * mlp / l->m->n_ranks);
    int64_t n = add_bias_part(l, i, "mlp.gate_proj.bias", half, bias, 0);
    add_bias_part(l, i, "mlp.up_proj.bias", half, bias, n);
    layer->down_proj.bias = add_whole_bias(l, i, "mlp.down_proj.bias");
}

static void add_matrix(struct loader *l, int i, enum layer_matrix which, struct place place)
{
    char name[PLACE_NAME_BYTES];
    snprintf(name, sizeof name, "%s.weight", layer_matrix_names[which]);
    if (l->m->config.quantized[i] >> which & 1)
        load_add_packed(l, i, which, place);
    else
        load_add_place(l, i, name, place);
}

static void add_attention(struct loader *l, int i)
{
    const struct model_config *c = &l->m->config;
    struct qwen2_layer *layer = &l->m->model.layers[i];
    struct weight *qkv = layer->qkv_proj.parts, *o = layer->o_proj.parts;
    int64_t h = c->hidden_size, q = (int64_t)c->n_heads * c->head_dim,
            kv = (int64_t)c->n_kv_heads * c->head_dim;
    layer->qkv_proj.n_parts = 3;
    layer->o_proj.n_parts = 1;
    add_matrix(l, i, MATRIX_Q, (struct place){q, h, CUT_ROWS, .view = &qkv[0]});
    add_matrix(l, i, MATRIX_K, (struct place){kv, h, CUT_KV_ROWS, .view = &qkv[1]});
    add_matrix(l, i, MATRIX_V, (struct place){kv, h, CUT_KV_ROWS, .view = &qkv[2]});
    add_matrix(l, i, MATRIX_O, (struct place){h, q, CUT_COLUMNS, .view = o});
    if (c->qkv_bias)
        add_qkv_bias(l, i);
    if (c->o_bias)
        layer->o_proj.bias = add_whole_bias(l, i, "self_attn.o_proj.bias");
    if (c->trunk->qk_norm) {
        layer->q_norm = add_vector(l, i, "self_attn.q_norm.weight", c->head_dim);
        layer->k_norm = add_vector(l, i, "self_attn.k_norm.weight", c->head_dim);
    }
}

static void add_layer(struct loader *l, int i)
{
    struct qwen2_layer *layer = &l->m->model.layers[i];
    struct weight *gate_up = layer->gate_up_proj.parts, *down = layer->down_proj.parts;
    int64_t h = l->m->config.hidden_size, mlp = l->m->config.intermediate_size;
    layer->gate_up_proj.n_parts = 2;
    layer->down_proj.n_parts = 1;
    layer->input_layernorm = add_vector(l, i, "input_layernorm.weight", h);
    add_attention(l, i);
    layer->post_attention_layernorm = add_vector(l, i, "post_attention_layernorm.weight", h);
    add_matrix(l, i, MATRIX_GATE, (struct place){mlp, h, CUT_ROWS, .view = &gate_up[0]});
    add_matrix(l, i, MATRIX_UP, (struct place){mlp, h, CUT_ROWS, .view = &gate_up[1]});
    add_matrix(l, i, MATRIX_DOWN, (struct place){h, mlp, CUT_COLUMNS, .view = down});
    if (l->m->config.mlp_bias)
        add_mlp_bias(l, i);
}

static void add_places(struct loader *l)
{
    const struct model_config *c = &l->m->config;
    struct qwen2_model *model = &l->m->model;
    int is_first = qwen2_is_first_stage(l->m), is_last = qwen2_is_last_stage(l->m);
    struct place embedding = {
        c->vocab_size, c->hidden_size, CUT_NONE, .view = is_first ? &model->embed_tokens : NULL};
    l->elsewhere = !is_last;
    load_add_head(l, &embedding);
    model->norm = add_vector(l, -1, "norm.weight", c->hidden_size);
    l->elsewhere = !embedding.view && !embedding.picked;
    load_add_place(l, -1, "embed_tokens.weight", embedding);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        l->elsewhere = i < l->m->own.first || i >= l->m->own.end;
        add_layer(l, (int)i);
    }
    l->elsewhere = 0;
}

/* ---- filling ---- */

/* A language model's own head is used only where it is what scores. */
static int is_ignored(const struct model_config *c, const char *name)
{
    static const char end[] = "rotary_emb.inv_freq";
    size_t n = strlen(name);
    return (c->head->kind != HEAD_TOKENS && strncmp(name, "lm_head.", 8) == 0) ||
           (n >= sizeof end - 1 && strcmp(name + n - (sizeof end - 1), end) == 0);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct place *)a)->name, ((const struct place *)b)->name);
}

struct place *load_find_place(struct loader *l, const char *name)
{
    struct place wanted = {.rows = 0};
    if (strncmp(name, "model.", 6) == 0)
        name += 6;
    if (snprintf(wanted.name, sizeof wanted.name, "%s", name) >= PLACE_NAME_BYTES)
        return NULL;
    return bsearch(&wanted, l->places, l->n, sizeof wanted, by_name);
}

static void shape_text(char *text, size_t size, const struct weight_tensor *t)
{
    size_t n = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->n_dims && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    if (n < size)
        snprintf(text + n, size - n, "]");
}

static void expected_text(char *text, size_t size, const struct place *p)
{
    if (p->cols > 0)
        snprintf(text, size, "[%lld, %lld]", (long long)p->rows, (long long)p->cols);
    else
        snprintf(text, size, "[%lld]", (long long)p->rows);
}

static int is_number(const struct weight_tensor *t)
{
    int i = 0;
    while (i < t->n_dims && t->shape[i] == 1)
        i++;
    return i == t->n_dims && t->n_dims <= 2;
}

static int check_tensor(
    const struct loader *l, const struct place *p, const struct weight_tensor *t, struct err *e)
{
    int n_dims = p->cols > 0 ? 2 : 1;
    char expected[64], found[128];
    if (p->from)
        return err_set(e, ASSAY_EFORMAT,
            "%s: tensor '%.80s': found twice, the other time as '%.80s' in %s", t->file, t->name,
            p->from, p->from_file);
    if (p->stored ? strcmp(p->stored, t->dtype_name) != 0 : t->dtype < 0)
        return err_set(e, ASSAY_EFORMAT, "%s: tensor '%.120s': dtype: expected %s, found %s%s",
            t->file, t->name, p->stored ? p->stored : "F32, F16 or BF16", t->dtype_name,
            p->stored || l->m->config.quantization.format != FORMAT_NONE
                ? ""
                : "; config.json has no quantization_config that says how to read it");
    if (p->is_scalar && is_number(t))
        return 0;
    if (t->n_dims == n_dims && t->shape[0] == p->rows && (n_dims == 1 || t->shape[1] == p->cols))
        return 0;
    shape_text(found, sizeof found, t);
    expected_text(expected, sizeof expected, p);
    return err_set(e, ASSAY_EFORMAT, "%s: tensor '%.120s': shape: expected %s, found %s%s", t->file,
        t->name, expected, found,
        p->is_labels ? " (config.json's num_labels or id2label says how many labels, 2 where it "
                       "has neither)"
                     : "");
}

static void set_view(const struct loader *l, const struct place *p, const struct weight_tensor *t)
{
    int64_t bytes = dtype_bytes((enum dtype)t->dtype), row = 0, rows = p->rows, column = 0,
            cols = p->cols;
    if (p->cut == CUT_COLUMNS)
        load_cut(l->m, p->cut, p->cols, &column, &cols);
    else
        load_cut(l->m, p->cut, p->rows, &row, &rows);
    *p->view = (struct weight){(const char *)t->data + (row * p->cols + column) * bytes,
        (enum dtype)t->dtype, rows, cols, p->cols, NULL, DTYPE_F32, NULL};
}

static int set_vector(
    struct loader *l, const struct place *p, const struct weight_tensor *t, struct err *e)
{
    int64_t from, n, bytes = dtype_bytes(p->vector_type);
    load_cut(l->m, p->cut, p->rows, &from, &n);
    if (!p->vector)
        return err_set(e, ASSAY_ENOMEM, "weights: no memory for '%s'", p->name);
    void *host = xcalloc((size_t)n, (size_t)bytes);
    dtype_convert(host, p->vector_type,
        (const char *)t->data + from * dtype_bytes((enum dtype)t->dtype), (enum dtype)t->dtype, n);
    l->m->ops->device->upload(l->m->device, p->vector, host, (size_t)(n * bytes));
    free(host);
    return 0;
}

static void pick_rows(const struct place *p, const struct weight_tensor *t)
{
    int64_t bytes = p->cols * dtype_bytes((enum dtype)t->dtype);
    for (uint32_t i = 0; i < p->n_picks; i++)
        dtype_convert(p->picked + i * p->cols, DTYPE_F32,
            (const char *)t->data + p->picks[i] * bytes, (enum dtype)t->dtype, p->cols);
}

#define QUANTIZED                                                                                  \
    ": of a quantized matrix, which config.json's quantization_config does not name as one"

/* Explains where names like this come from, as ": ..", or "". */
static const char *why_unknown(const char *name)
{
    static const struct {
        const char *part, *why;
    } known[] = {
        {".lora_", ": of an adapter; merge it into its base (peft: merge_and_unload)"},
        {"base_model.model.", ": of an adapter's wrapping; merge it (peft: merge_and_unload)"},
        {"module.", ": saved from inside a wrapper; save the model itself"},
        {"_orig_mod.", ": saved from a compiled model; save the model itself"},
        {"_fsdp_wrapped_module.", ": saved from inside FSDP; save the model itself"},
        {".qweight", QUANTIZED},
        {".qzeros", QUANTIZED},
        {".g_idx", QUANTIZED},
        {".scales", QUANTIZED},
        {".weight_", QUANTIZED},
        {"_scale", QUANTIZED},
        {".absmax", QUANTIZED},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strstr(name, known[i].part))
            return known[i].why;
    return "";
}

/* Of a head that is not the architecture's. */
static int is_another_head(const char *name)
{
    static const char *const heads[] = {"v_head.", "value_head.", "classifier.", "score."};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        if (strstr(name, heads[i]))
            return 1;
    return 0;
}

/* GPTQ's writers give each matrix a bias, of zeros where the model has none. transformers passes
 * over those that the model has not. */
static int is_bias_of_matrix(const char *name)
{
    const char *end = strstr(name, ".bias");
    for (int k = 0; end && !end[5] && k < N_LAYER_MATRICES; k++) {
        size_t n = strlen(layer_matrix_names[k]);
        if ((size_t)(end - name) > n && strncmp(end - n, layer_matrix_names[k], n) == 0)
            return 1;
    }
    return 0;
}

static int is_of_zeros(const struct weight_tensor *t)
{
    const unsigned char *data = t->data;
    uint64_t i = 0;
    while (i < t->bytes && data[i] == 0)
        i++;
    return i == t->bytes;
}

static int refuse_unknown(const struct loader *l, const struct weight_tensor *t, struct err *e)
{
    const struct model_config *c = &l->m->config;
    const char *why = why_unknown(t->name);
    if (c->quantization.format != FORMAT_NONE && is_bias_of_matrix(t->name))
        why = ": a bias of a quantized matrix that has none in the architecture; one of zeros is "
              "passed over, expected that";
    if (!*why && is_another_head(t->name))
        return err_set(e, ASSAY_EFORMAT,
            "%s: tensor '%.120s': unknown for %s: another head; expected its own, '%s', alone%s",
            t->file, t->name, c->architecture->name, c->head_name,
            strstr(t->name, "v_head.")
                ? " (TRL's value head: beside a language model in " VALUE_HEAD_FILE ")"
                : "");
    return err_set(e, ASSAY_EFORMAT, "%s: tensor '%.120s': unknown for %s with %u layers%s",
        t->file, t->name, c->architecture->name, c->n_layers, why);
}

static int take_tensor(struct loader *l, const struct weight_tensor *t, struct err *e)
{
    if (is_ignored(&l->m->config, t->name))
        return 0;
    struct place *p = load_find_place(l, t->name);
    if (!p && l->m->config.quantization.format == FORMAT_GPTQ && is_bias_of_matrix(t->name) &&
        is_of_zeros(t))
        return 0;
    if (!p)
        return refuse_unknown(l, t, e);
    int rc = check_tensor(l, p, t, e);
    if (rc != 0)
        return rc;
    p->from = t->name;
    p->from_file = t->file;
    if (p->is_elsewhere)
        return 0;
    if (p->picked)
        pick_rows(p, t);
    if (p->view)
        set_view(l, p, t);
    if (p->raw)
        *p->raw = *t;
    return p->view || p->picked || p->raw ? 0 : set_vector(l, p, t, e);
}

static int is_of_head(const struct model_config *c, const char *name)
{
    size_t n = strlen(c->head_name);
    return strncmp(name, c->head_name, n) == 0 && name[n] == '.';
}

/* Where a missing tensor should be: in the only file, the value head's, or somewhere in the
 * directory. */
static void where_missing(char *text, size_t size, const struct loader *l, const struct place *p)
{
    const struct model_config *c = &l->m->config;
    const char *slash = l->has_files ? strrchr(l->file, '/') : NULL;
    int is_value = c->head == &head_of_value && is_of_head(c, p->name);
    if (slash)
        snprintf(text, size, "%.*s%s", (int)(slash - l->file), l->file,
            is_value ? "/" VALUE_HEAD_FILE : "");
    else
        snprintf(text, size, "%s", l->file ? l->file : "checkpoint");
}

static int check_filled(const struct loader *l, struct err *e)
{
    char expected[64], where[4200];
    for (size_t i = 0; i < l->n; i++) {
        const struct place *p = &l->places[i];
        if (p->from || p->is_optional)
            continue;
        expected_text(expected, sizeof expected, p);
        where_missing(where, sizeof where, l, p);
        return err_set(e, ASSAY_EFORMAT, "%s: tensor '%s': expected shape %s, found missing%s",
            where, p->name, expected,
            is_of_head(&l->m->config, p->name)
                ? ": a checkpoint without the head that its architecture names, which transformers "
                  "would make up at random"
                : "");
    }
    return 0;
}

/* ---- to the device ---- */

static void add_stack(
    struct weight_stack *stacks, size_t *n, struct parallel_linear *l, enum dtype dtype)
{
    if (l->n_parts > 0)
        stacks[(*n)++] = (struct weight_stack){l->parts, l->n_parts, dtype};
}

/* The embedding keeps its stored type; the layers get the activations' type or are quantized; the
 * head is float32. */
static int prepare_matrices(struct qwen2_reward_model *m, struct err *e)
{
    enum dtype quant = model_config_products(&m->config, &m->quant_config),
               type = quant == DTYPE_F32 ? m->config.activation_type : quant;
    struct weight_stack *stacks = xcalloc(3 + 4 * (size_t)m->config.n_layers, sizeof *stacks);
    size_t n = 0;
    if (qwen2_is_first_stage(m))
        stacks[n++] = (struct weight_stack){&m->model.embed_tokens, 1, m->model.embed_tokens.dtype};
    for (uint32_t i = m->own.first; i < m->own.end; i++) {
        struct qwen2_layer *layer = &m->model.layers[i];
        add_stack(stacks, &n, &layer->qkv_proj, type);
        add_stack(stacks, &n, &layer->o_proj, type);
        add_stack(stacks, &n, &layer->gate_up_proj, type);
        add_stack(stacks, &n, &layer->down_proj, type);
    }
    if (qwen2_is_last_stage(m)) {
        add_stack(stacks, &n, &m->score.first, DTYPE_F32);
        add_stack(stacks, &n, &m->score.second, DTYPE_F32);
    }
    int rc = m->ops->device->prepare_weights(m->device, stacks, n, e);
    free(stacks);
    return rc;
}

int qwen2_reward_model_load_weights(struct qwen2_reward_model *m, struct weights *w, struct err *e)
{
    struct loader l = {.m = m};
    struct weight_tensor t;
    int rc = 0;
    add_places(&l);
    qsort(l.places, l.n, sizeof *l.places, by_name);
    weights_rewind(w);
    while (rc == 0 && weights_next(w, &t)) {
        l.has_files |= l.file && strcmp(l.file, t.file) != 0;
        l.file = t.file;
        rc = take_tensor(&l, &t, e);
    }
    if (rc == 0)
        rc = check_filled(&l, e);
    if (rc == 0)
        rc = load_finish_head(&l, e);
    if (rc == 0)
        rc = load_finish_packed(&l, e);
    free(l.places);
    free(l.packed);
    if (rc == 0)
        rc = prepare_matrices(m, e);
    weights_drop(w);
    return rc;
}
