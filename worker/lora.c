/* lora.c - opens an adapter's directory: finds each tensor's place, and checks that exactly the
 * modules that adapter_config.json means are there, in their shapes (lora.h). */
#include "worker/lora.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/regular.h"
#include "worker/config.h"
#include "worker/directory.h"

#define WEIGHTS_FILE "adapter_model.safetensors"
#define WRAPPING "base_model.model."
#define ALLOC_BYTES 256 /* an allocation's rounding */

/* ---- where a tensor belongs ---- */

/* Reads "layers.N." at *name and moves it behind; returns N, or -1. */
static long take_layer(const char **name)
{
    char *end;
    if (strncmp(*name, "layers.", 7) != 0 || (*name)[7] < '0' || (*name)[7] > '9')
        return -1;
    long layer = strtol(*name + 7, &end, 10);
    if (*end != '.' || layer >= MODEL_MAX_LAYERS)
        return -1;
    *name = end + 1;
    return layer;
}

/* The place of a layer's tensor, or NULL. `name` is without wrapping and "model.". */
static struct weight_tensor *pair_place(
    struct lora_adapter *a, const struct model_config *c, const char *name)
{
    long layer = take_layer(&name);
    for (int i = 0; layer >= 0 && layer < (long)c->n_layers && i < N_LAYER_MATRICES; i++) {
        size_t n = strlen(layer_matrix_names[i]);
        struct lora_pair *pair = &a->pairs[layer * N_LAYER_MATRICES + i];
        if (strncmp(name, layer_matrix_names[i], n) != 0)
            continue;
        if (strcmp(name + n, ".lora_A.weight") == 0)
            return &pair->a;
        if (strcmp(name + n, ".lora_B.weight") == 0)
            return &pair->b;
    }
    return NULL;
}

static const char *const linear_head[LORA_HEAD_TENSORS] = {"weight", "bias", NULL, NULL};
static const char *const mlp_head[LORA_HEAD_TENSORS] = {"2.weight", "2.bias", "0.weight", "0.bias"};

/* What the head's tensors are called behind its name; NULL: it has no such one. */
static const char *head_part(const struct model_config *c, int k)
{
    if (c->head->kind == HEAD_MLP)
        return mlp_head[k];
    return k == LORA_BIAS && !c->head_bias ? NULL : linear_head[k];
}

static struct weight_tensor *head_place(
    struct lora_adapter *a, const struct model_config *c, const char *name)
{
    size_t n = strlen(c->head_name);
    if (!a->has_head || strncmp(name, c->head_name, n) != 0 || name[n] != '.')
        return NULL;
    for (int k = 0; k < LORA_HEAD_TENSORS; k++)
        if (head_part(c, k) && strcmp(name + n + 1, head_part(c, k)) == 0)
            return &a->head[k];
    return NULL;
}

static int refuse_tensor(const struct lora_adapter *a, const struct model_config *c,
    const struct weight_tensor *t, struct err *e)
{
    const char *why = "";
    if (strstr(t->name, "lora_magnitude"))
        why = ": of DoRA, which is not built";
    else if (strstr(t->name, "lora_embedding") || strstr(t->name, "embed_tokens"))
        why = ": of an adapted embedding, which is not built";
    else if (!a->has_head && strstr(t->name, c->head_name))
        why = ": of a head that modules_to_save does not name";
    else if (strstr(t->name, ".bias"))
        why = ": an adapted bias, which is not built";
    return err_set(e, ASSAY_EFORMAT,
        "%s: tensor '%.120s': unknown for an adapter of %s with %u layers: expected " WRAPPING
        "model.layers.N.{self_attn.{q,k,v,o}_proj,mlp.{gate,up,down}_proj}.lora_{A,B}.weight%s",
        t->file, t->name, c->architecture->name, c->n_layers, why);
}

static int take_tensor(struct lora_adapter *a, const struct model_config *c,
    const struct weight_tensor *t, struct err *e)
{
    const char *name = t->name;
    struct weight_tensor *place = NULL;
    if (strncmp(name, WRAPPING, strlen(WRAPPING)) == 0) {
        name += strlen(WRAPPING);
        place = head_place(a, c, name);
        if (!place && strncmp(name, "model.", 6) == 0)
            place = pair_place(a, c, name + 6);
    }
    if (!place)
        return refuse_tensor(a, c, t, e);
    if (t->dtype < 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: tensor '%.120s': dtype: expected F32, F16 or BF16, found %s", t->file, t->name,
            t->dtype_name);
    *place = *t;
    return 0;
}

/* ---- what must be there ---- */

static int check_shape(
    const struct weight_tensor *t, int64_t rows, int64_t cols, const char *why, struct err *e)
{
    int n_dims = cols > 0 ? 2 : 1;
    if (t->n_dims == n_dims && t->shape[0] == rows && (cols == 0 || t->shape[1] == cols))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: tensor '%.120s': shape: expected [%lld%s%lld] (%s), found [%lld%s%lld]%s", t->file,
        t->name, (long long)rows, cols ? ", " : "; ", (long long)cols, why,
        t->n_dims > 0 ? (long long)t->shape[0] : 0, t->n_dims > 1 ? ", " : "; ",
        t->n_dims > 1 ? (long long)t->shape[1] : 0, t->n_dims > 2 ? " and more" : "");
}

/* [out, in] of a module's matrix. */
static void module_shape(const struct model_config *c, int module, int64_t *out, int64_t *in)
{
    int64_t h = c->hidden_size, mlp = c->intermediate_size, q = (int64_t)c->n_heads * c->head_dim,
            kv = (int64_t)c->n_kv_heads * c->head_dim;
    const int64_t outs[] = {q, kv, kv, h, mlp, mlp, h}, ins[] = {h, h, h, q, h, h, mlp};
    *out = outs[module];
    *in = ins[module];
}

static int check_pair(struct lora_adapter *a, const struct lora_file *f,
    const struct model_config *c, uint32_t layer, int module, struct err *e)
{
    char name[64];
    struct lora_module_config want;
    struct lora_pair *pair = &a->pairs[layer * N_LAYER_MATRICES + (uint32_t)module];
    int64_t out, in;
    snprintf(name, sizeof name, "model.layers.%u.%s", layer, layer_matrix_names[module]);
    int rc = lora_file_module(f, name, &want, e);
    if (rc != 0)
        return rc;
    const char *missing = !pair->a.name ? "lora_A" : !pair->b.name ? "lora_B" : NULL;
    if (!want.is_target && (pair->a.name || pair->b.name))
        return err_set(e, ASSAY_EFORMAT,
            "%s/" WEIGHTS_FILE ": tensor '" WRAPPING "%s.%s.weight': expected none, as "
            "target_modules of adapter_config.json does not mean this module",
            a->dir, name, pair->a.name ? "lora_A" : "lora_B");
    if (!want.is_target)
        return 0;
    if (missing)
        return err_set(e, ASSAY_EFORMAT,
            "%s/" WEIGHTS_FILE ": tensor '" WRAPPING
            "%s.%s.weight': expected it, as target_modules "
            "of adapter_config.json means this module, found missing",
            a->dir, name, missing);
    module_shape(c, module, &out, &in);
    pair->scale = want.scale;
    rc = check_shape(&pair->a, want.rank, in, "rank and the base's input", e);
    return rc == 0 ? check_shape(&pair->b, out, want.rank, "the base's output and rank", e) : rc;
}

static int check_head(const struct lora_adapter *a, const struct model_config *c, struct err *e)
{
    int64_t h = c->hidden_size, n = c->n_labels;
    const int64_t shapes[LORA_HEAD_TENSORS][2] = {{n, h}, {n, 0}, {h, h}, {h, 0}};
    for (int k = 0; a->has_head && k < LORA_HEAD_TENSORS; k++) {
        const char *part = head_part(c, k);
        if (!part)
            continue;
        if (!a->head[k].name)
            return err_set(e, ASSAY_EFORMAT,
                "%s/" WEIGHTS_FILE ": tensor '" WRAPPING "%s.%s': expected it, as modules_to_save "
                "of adapter_config.json names the head, found missing",
                a->dir, c->head_name, part);
        int rc = check_shape(&a->head[k], shapes[k][0], shapes[k][1], "as the base's head", e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The modules that have one input are one product. */
static uint32_t most_ranks(const struct lora_adapter *a, uint32_t n_layers)
{
    static const int groups[][3] = {{MATRIX_Q, MATRIX_K, MATRIX_V}, {MATRIX_O, -1, -1},
        {MATRIX_GATE, MATRIX_UP, -1}, {MATRIX_DOWN, -1, -1}};
    uint32_t most = 0;
    for (uint32_t i = 0; i < n_layers; i++)
        for (int g = 0; g < 4; g++) {
            uint32_t sum = 0;
            for (int k = 0; k < 3 && groups[g][k] >= 0; k++)
                sum += (uint32_t)a->pairs[i * N_LAYER_MATRICES + (uint32_t)groups[g][k]].a.shape[0];
            most = sum > most ? sum : most;
        }
    return most;
}

static int check_all(
    struct lora_adapter *a, const struct lora_file *f, const struct model_config *c, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; i < c->n_layers; i++)
        for (int module = 0; rc == 0 && module < N_LAYER_MATRICES; module++)
            rc = check_pair(a, f, c, i, module, e);
    if (rc == 0)
        rc = check_head(a, c, e);
    a->most_ranks = rc == 0 ? most_ranks(a, c->n_layers) : 0;
    if (rc == 0 && a->most_ranks == 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s/adapter_config.json: target_modules: expected linear modules of the layers "
            "(q_proj, "
            "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj), found none of them",
            a->dir);
    return rc;
}

/* LLaMA-Factory saves a head of its own beside an adapter, and reads it from there. */
static int refuse_value_head(const char *dir, struct err *e)
{
    static const char *const names[] = {VALUE_HEAD_FILE, "value_head.bin"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (regular_is_in(dir, names[i]))
            return err_set(e, ASSAY_EFORMAT,
                "%s/%s: a head beside an adapter, which is not built; expected the adapter merged "
                "into the model, with the head beside that, or the file elsewhere if the base's "
                "head is meant",
                dir, names[i]);
    return 0;
}

int lora_open(struct lora_adapter *a, const char *dir, const struct model_config *c, struct err *e)
{
    struct lora_file *f = NULL;
    struct weight_tensor t;
    *a = (struct lora_adapter){.dir = dir};
    a->pairs = xcalloc((size_t)c->n_layers * N_LAYER_MATRICES, sizeof *a->pairs);
    int rc = adapter_digest(a->digest, dir, e);
    if (rc == 0)
        rc = refuse_value_head(dir, e);
    if (rc == 0)
        rc = lora_file_read(&f, dir, c, e);
    if (rc == 0)
        rc = weights_open_file(&a->weights, dir, WEIGHTS_FILE, e);
    a->has_head = rc == 0 && lora_file_has_head(f);
    while (rc == 0 && weights_next(a->weights, &t))
        rc = take_tensor(a, c, &t, e);
    if (rc == 0)
        rc = check_all(a, f, c, e);
    lora_file_free(&f);
    return rc == 0 ? lora_check(a, e) : rc; /* all was read between two digests */
}

void lora_close(struct lora_adapter *a)
{
    weights_close(&a->weights);
    free(a->pairs);
    a->pairs = NULL;
}

int lora_check(const struct lora_adapter *a, struct err *e)
{
    char now[65];
    int rc = weights_check_names(a->weights, e);
    if (rc == 0)
        rc = adapter_digest(now, a->dir, e);
    if (rc == 0 && strcmp(now, a->digest) != 0)
        rc = err_set(e, ASSAY_EFORMAT,
            "%s: the adapter's files changed while they were read; restart when they are complete",
            a->dir);
    return rc;
}

size_t lora_arena_bytes(const struct lora_adapter *a)
{
    struct weight_tensor t;
    size_t bytes = 0;
    weights_rewind(a->weights);
    while (weights_next(a->weights, &t))
        bytes +=
            (size_t)(t.shape[0] * (t.n_dims > 1 ? lora_stride(t.shape[1]) : 1)) * sizeof(float) +
            ALLOC_BYTES;
    return bytes;
}

int lora_open_all(struct lora_config *out, const char *const *list, const char *const *digests,
    uint32_t n, const struct model_config *c, struct err *e)
{
    struct lora_adapter *all = xcalloc(n, sizeof *all);
    int rc = 0;
    *out = (struct lora_config){.adapters = all};
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        size_t bytes = adapters_name_of(list[i]);
        out->n_adapters++;
        rc = lora_open(&all[i], list[i] + bytes + 1, c, e);
        memcpy(all[i].name, list[i], bytes);
        if (rc == 0 && digests && strcmp(digests[i], all[i].digest) != 0)
            rc = err_set(e, ASSAY_EFORMAT,
                "the adapter '%s' in %.200s was changed under the running broker: expected digest "
                "%.12s.., found %.12s..; put the old files back, or restart the broker to serve "
                "the "
                "new ones",
                all[i].name, all[i].dir, digests[i], all[i].digest);
    }
    return rc;
}

void lora_close_all(struct lora_config *c)
{
    struct lora_adapter *all = (struct lora_adapter *)c->adapters;
    for (uint32_t i = 0; i < c->n_adapters; i++)
        lora_close(&all[i]);
    free(all);
    *c = (struct lora_config){0};
}
