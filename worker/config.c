/* config.c - see config.h. Each group of fields has its reader. A missing field is an error, or has
 * the reference's default where the reference has one. */
#include "worker/config.h"

#include <stdio.h>
#include <string.h>

#include "worker/config_keys.h"
#include "worker/cpu/fmath.h"
#include "worker/directory.h"
#include "schema/json.h"
#include "schema/model_path.h"
#include "schema/regular.h"

#define CONFIG_MAX_BYTES (8u << 20)
#define TOKENIZER_MAX_BYTES (256u << 20)
#define STEP_TOKEN "<extra_0>" /* what Qwen's process reward models put after each step */

/* An architecture over any trunk takes the one of its model_type. */
static int read_trunk(struct model_config *c, const struct json_file *f, struct err *e)
{
    const char *type = "nothing";
    c->head = c->architecture->head;
    c->trunk = c->architecture->trunk;
    if (c->trunk)
        return 0;
    if (json_get_string(f, "model_type", &type, e) < 0)
        return ASSAY_EFORMAT;
    c->trunk = trunk_find(type);
    if (c->trunk)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "%s: model_type: expected qwen2, qwen3, llama or mistral for %s, found '%.40s'", f->file,
        c->architecture->name, type);
}

static int read_architecture(struct model_config *c, const struct json_file *f, struct err *e)
{
    const json_t *list = json_object_get(f->object, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name)
        return err_set(e, ASSAY_EFORMAT,
            "%s: architectures: expected a list with one name, found none", f->file);
    c->architecture = architecture_find(name);
    if (c->architecture) {
        int rc = read_trunk(c, f, e);
        return rc == 0 ? config_check_keys(c, f, e) : rc;
    }
    return err_set(e, ASSAY_EUNSUPPORTED, "%s: architectures: '%.80s' is not built%s; expected %s",
        f->file, name, architecture_why_not(name), architecture_expected);
}

static int read_u32(
    const struct json_file *f, const char *key, int64_t max, uint32_t *out, struct err *e)
{
    int64_t v = 0;
    int rc = json_need_int(f, key, 1, max, &v, e);
    *out = (uint32_t)v;
    return rc;
}

/* Null means as many as there are heads; a missing key means the trunk's own number. */
static int read_kv_heads(struct model_config *c, const struct json_file *f, struct err *e)
{
    static const char key[] = "num_key_value_heads";
    int64_t n = c->n_heads;
    if (json_get_int(f, key, 1, c->n_heads, &n, e) < 0)
        return ASSAY_EFORMAT;
    uint32_t own = c->trunk->n_kv_heads;
    if (!json_object_get(f->object, key) && own > 0) {
        if (c->n_heads < own)
            return err_set(
                e, ASSAY_EFORMAT, "%s: %s: expected an integer, found nothing", f->file, key);
        n = own;
    }
    c->n_kv_heads = (uint32_t)n;
    if (c->n_heads % c->n_kv_heads != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: expected num_attention_heads (%u) to be a multiple of num_key_value_heads (%u)",
            f->file, c->n_heads, c->n_kv_heads);
    return 0;
}

/* Null beside a number of the trunk's own has two readings: transformers fails, vLLM divides. */
static int read_head_dim(struct model_config *c, const struct json_file *f, struct err *e)
{
    int64_t dim = c->trunk->head_dim;
    if (json_get_int(f, "head_dim", 2, 1024, &dim, e) < 0 ||
        (dim > 0 && config_check_null(f, "head_dim", e) != 0))
        return ASSAY_EFORMAT;
    if (dim == 0 && c->hidden_size % c->n_heads != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: head_dim: expected hidden_size (%u) to be a multiple of heads (%u)", f->file,
            c->hidden_size, c->n_heads);
    if (dim == 0)
        dim = c->hidden_size / c->n_heads;
    if (dim < 2 || dim > 1024 || dim % 2 != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: head_dim: expected an even number up to 1024, found %lld", f->file,
            (long long)dim);
    c->head_dim = (uint32_t)dim;
    return 0;
}

static int read_sizes(struct model_config *c, const struct json_file *f, struct err *e)
{
    int64_t positions = c->trunk->max_position;
    int rc = read_u32(f, "hidden_size", 65536, &c->hidden_size, e);
    if (rc == 0)
        rc = read_u32(f, "intermediate_size", 1 << 20, &c->intermediate_size, e);
    if (rc == 0)
        rc = read_u32(f, "num_hidden_layers", MODEL_MAX_LAYERS, &c->n_layers, e);
    if (rc == 0)
        rc = read_u32(f, "num_attention_heads", 1024, &c->n_heads, e);
    if (rc == 0)
        rc = read_u32(f, "vocab_size", 1 << 24, &c->vocab_size, e);
    if (rc == 0)
        rc = json_get_int(f, "max_position_embeddings", 1, 1 << 24, &positions, e);
    c->max_position = (uint32_t)positions;
    if (rc >= 0)
        rc = read_kv_heads(c, f, e);
    return rc == 0 ? read_head_dim(c, f, e) : rc;
}

static int read_flags(struct model_config *c, const struct json_file *f, struct err *e)
{
    const char *activation = "silu";
    const struct trunk *trunk = c->trunk;
    double eps = 1e-6; /* the default of all the reference's classes */
    int bias = 0, mlp_bias = 0, rc;
    if ((rc = json_get_real(f, "rms_norm_eps", 0, 1, &eps, e)) < 0)
        return rc;
    c->rms_norm_eps = (float)eps;
    if (json_get_bool(f, "tie_word_embeddings", &c->tie_word_embeddings, e) < 0 ||
        json_get_bool(f, "attention_bias", &bias, e) < 0 ||
        json_get_bool(f, "mlp_bias", &mlp_bias, e) < 0 ||
        json_get_string(f, "hidden_act", &activation, e) < 0)
        return ASSAY_EFORMAT;
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        return err_set(e, ASSAY_EUNSUPPORTED, "%s: hidden_act: expected silu, found '%.40s'",
            f->file, activation);
    if ((bias && !trunk->qkv_bias && !trunk->attention_bias) || (mlp_bias && !trunk->mlp_bias))
        return err_set(e, ASSAY_EUNSUPPORTED, "%s: %s: %s has none; expected false, found true",
            f->file, mlp_bias ? "mlp_bias" : "attention_bias", c->architecture->name);
    c->qkv_bias = trunk->qkv_bias || bias;
    c->o_bias = trunk->attention_bias && bias;
    c->mlp_bias = mlp_bias;
    return 0;
}

/* ---- rope ---- */

static int rope_type_of(const char *name)
{
    static const char *const names[] = {"default", "linear", "llama3", "yarn"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

static int need_real(const struct json_file *f, const char *key, double min, double max,
    double *value, struct err *e)
{
    int found = json_get_real(f, key, min, max, value, e);
    if (found == 0)
        return err_set(
            e, ASSAY_EFORMAT, "%s: %s%s: expected a number, found nothing", f->file, f->where, key);
    return found < 0 ? found : 0;
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * fmath_log(factor) + 1;
}

static int read_yarn(struct rope_config *r, const struct json_file *f, struct err *e)
{
    double mscale = 0, mscale_all = 0;
    int given = json_get_real(f, "attention_factor", 1e-6, 1e6, &r->attention_factor, e);
    if (given < 0 || json_get_real(f, "mscale", 0, 1e6, &mscale, e) < 0 ||
        json_get_real(f, "mscale_all_dim", 0, 1e6, &mscale_all, e) < 0 ||
        json_get_real(f, "beta_fast", 1e-6, 1e6, &r->beta_fast, e) < 0 ||
        json_get_real(f, "beta_slow", 1e-6, 1e6, &r->beta_slow, e) < 0 ||
        json_get_bool(f, "truncate", &r->truncate, e) < 0)
        return ASSAY_EFORMAT;
    if (!given && mscale > 0 && mscale_all > 0)
        r->attention_factor = yarn_mscale(r->factor, mscale) / yarn_mscale(r->factor, mscale_all);
    else if (!given)
        r->attention_factor = yarn_mscale(r->factor, 1);
    return 0;
}

/* Looks among the scaling's parameters, or beside them, where Phi's configs have it. */
static int read_original_position(
    struct model_config *c, const struct json_file *outer, const struct json_file *f, struct err *e)
{
    static const char key[] = "original_max_position_embeddings";
    int64_t inside = c->max_position, beside = 0;
    int found = json_get_int(f, key, 1, 1 << 24, &inside, e),
        found_beside = found < 0 ? found : json_get_int(outer, key, 1, 1 << 24, &beside, e);
    if (found_beside < 0)
        return found_beside;
    if (found && found_beside && inside != beside)
        return err_set(e, ASSAY_EFORMAT, "%s: %s (%lld) contradicts %s%s (%lld); keep one", f->file,
            key, (long long)beside, f->where, key, (long long)inside);
    if (!found && !found_beside && c->rope.type == ROPE_LLAMA3)
        return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected an integer, found nothing", f->file,
            f->where, key);
    c->rope.original_max_position = (uint32_t)(found_beside ? beside : inside);
    return 0;
}

static int read_scaling(
    struct model_config *c, const struct json_file *outer, const struct json_file *f, struct err *e)
{
    struct rope_config *r = &c->rope;
    int rc;
    if (r->type == ROPE_DEFAULT)
        return 0;
    if ((rc = need_real(f, "factor", 1, 1e6, &r->factor, e)) != 0)
        return rc;
    if (r->type != ROPE_LINEAR && (rc = read_original_position(c, outer, f, e)) != 0)
        return rc;
    if (r->type == ROPE_YARN && r->theta <= 1)
        return err_set(
            e, ASSAY_EFORMAT, "%s: rope_theta: expected above 1 for yarn, found 1", f->file);
    if (r->type == ROPE_YARN)
        return read_yarn(r, f, e);
    if (r->type == ROPE_LLAMA3 &&
        (rc = need_real(f, "low_freq_factor", 1e-6, 1e6, &r->low_freq_factor, e)) == 0)
        rc = need_real(f, "high_freq_factor", 1e-6, 1e6, &r->high_freq_factor, e);
    return rc < 0 ? rc : 0;
}

/* Old spelling: rope_theta beside rope_scaling {type or rope_type ..}. New: rope_parameters
 * {rope_type, rope_theta ..}. */
static int read_rope(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct rope_config *r = &c->rope;
    *r = (struct rope_config){
        .factor = 1, .attention_factor = 1, .beta_fast = 32, .beta_slow = 1, .truncate = 1};
    struct json_file inner;
    const char *type = "default";
    double beside = 10000; /* the default of all the reference's classes */
    int has_inner = config_rope_object(f, &inner, e), rc = has_inner, given;
    if (rc > 0)
        rc = json_get_real(&inner, "rope_theta", 1, 1e12, &r->theta, e);
    given = rc < 0 ? rc : json_get_real(f, "rope_theta", 1, 1e12, &beside, e);
    if (given < 0)
        return given;
    if ((has_inner && config_check_null(&inner, "rope_theta", e) != 0) ||
        (rc == 0 && config_check_null(f, "rope_theta", e) != 0))
        return ASSAY_EFORMAT;
    if (rc > 0 && given && r->theta != beside)
        return err_set(e, ASSAY_EFORMAT,
            "%s: rope_theta (%g) contradicts %srope_theta (%g); keep one", f->file, beside,
            inner.where, r->theta);
    if (rc == 0)
        r->theta = beside;
    if (has_inner && (rc = json_get_string(&inner, "rope_type", &type, e)) == 0)
        rc = json_get_string(&inner, "type", &type, e);
    if (rc < 0)
        return rc;
    int found = rope_type_of(type);
    if (found < 0)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %srope_type: expected default, linear, llama3 or yarn, found '%.40s'", f->file,
            inner.where, type);
    r->type = (enum rope_type)found;
    return has_inner ? read_scaling(c, f, &inner, e) : 0;
}

/* ---- sliding window ---- */

/* Why a layer that slides contradicts the rest of the file. */
static const char *why_no_window(const struct model_config *c)
{
    if (c->trunk->window == WINDOW_NEVER)
        return "is not built for this architecture; expected full_attention";
    if (c->trunk->window == WINDOW_ALWAYS)
        return "contradicts sliding_window, which is null; expected full_attention";
    return "contradicts use_sliding_window and sliding_window: expected true and a size";
}

/* Reads layer_types, if the file has it: which layers slide. "attention" is an old name for
 * full. */
static int read_layer_types(
    struct model_config *c, const struct json_file *f, const json_t *types, struct err *e)
{
    if (!json_is_array(types) || json_array_size(types) != c->n_layers)
        return err_set(e, ASSAY_EFORMAT, "%s: layer_types: expected a list of %u, found %zu",
            f->file, c->n_layers, json_array_size(types));
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || (strcmp(type, "sliding_attention") != 0 &&
                         strcmp(type, "full_attention") != 0 && strcmp(type, "attention") != 0))
            return err_set(e, ASSAY_EUNSUPPORTED,
                "%s: layer_types[%u]: expected full_attention or sliding_attention, found '%.40s'",
                f->file, i, type ? type : "no string");
        c->layer_slides[i] = strcmp(type, "sliding_attention") == 0;
        if (c->layer_slides[i] && c->sliding_window == 0)
            return err_set(e, ASSAY_EFORMAT, "%s: layer_types[%u]: sliding_attention %s", f->file,
                i, why_no_window(c));
        if (!c->layer_slides[i] && c->trunk->window == WINDOW_ALWAYS && c->sliding_window > 0)
            return err_set(e, ASSAY_EFORMAT,
                "%s: layer_types[%u]: %s contradicts sliding_window: every layer of %s has the "
                "window",
                f->file, i, type, c->architecture->name);
    }
    return 0;
}

/* Returns whether layers may slide, or a negative code. Where it is not a switch, it must not
 * contradict the size. */
static int read_window_switch(
    const struct model_config *c, const struct json_file *f, struct err *e)
{
    enum window_rule rule = c->trunk->window;
    int use = rule == WINDOW_ALWAYS;
    if (rule == WINDOW_NEVER)
        return 0;
    if (json_get_bool(f, "use_sliding_window", &use, e) < 0)
        return ASSAY_EFORMAT;
    if (rule == WINDOW_ALWAYS && !use &&
        !json_is_null(json_object_get(f->object, "sliding_window")))
        return err_set(e, ASSAY_EFORMAT,
            "%s: use_sliding_window: false contradicts sliding_window: the reference's %s has the "
            "window, vLLM's has none; expected sliding_window null, or no use_sliding_window",
            f->file, c->architecture->name);
    return use;
}

/* A window of null means none, whatever use_sliding_window says. */
static int read_window_size(struct model_config *c, const struct json_file *f, struct err *e)
{
    int64_t window = json_object_get(f->object, "sliding_window") ? 0 : 4096; /* the default */
    int rc = read_window_switch(c, f, e);
    if (rc <= 0)
        return rc;
    rc = json_get_int(f, "sliding_window", 1, 1 << 24, &window, e);
    c->sliding_window = (uint32_t)window;
    return rc < 0 ? rc : 0;
}

/* Reads max_window_layers: from which layer on they slide. */
static int read_full_layers(
    const struct model_config *c, const struct json_file *f, int64_t *n, struct err *e)
{
    *n = 0;
    if (c->sliding_window == 0 || c->trunk->window == WINDOW_ALWAYS)
        return 0;
    *n = 28; /* the reference's default */
    int rc = config_check_null(f, "max_window_layers", e);
    return rc == 0 ? json_get_int(f, "max_window_layers", 0, 1 << 20, n, e) : rc;
}

static int read_window(struct model_config *c, const struct json_file *f, struct err *e)
{
    int64_t full_layers;
    int rc = read_window_size(c, f, e);
    const json_t *types = json_object_get(f->object, "layer_types");
    if (rc == 0 && types && !json_is_null(types))
        return read_layer_types(c, f, types, e);
    if (rc == 0)
        rc = read_full_layers(c, f, &full_layers, e);
    for (uint32_t i = 0; rc >= 0 && i < c->n_layers; i++)
        c->layer_slides[i] = c->sliding_window > 0 && i >= full_layers;
    return rc < 0 ? rc : 0;
}

/* ---- the rest ---- */

/* Finds the step token's id among tokenizer.json's added tokens, if there is such a file. */
static int read_step_token(struct model_config *c, const char *dir, struct err *e)
{
    char path[4096];
    json_t *added;
    size_t i;
    if (snprintf(path, sizeof path, "%s/tokenizer.json", dir) >= (int)sizeof path ||
        !regular_exists(path))
        return 0;
    json_t *root = json_read_file(dir, "tokenizer.json", TOKENIZER_MAX_BYTES, e);
    if (!root)
        return e ? e->code : ASSAY_EFORMAT;
    json_array_foreach(json_object_get(root, "added_tokens"), i, added)
    {
        const char *content = json_string_value(json_object_get(added, "content"));
        json_int_t id = json_integer_value(json_object_get(added, "id"));
        if (content && strcmp(content, STEP_TOKEN) == 0 && id >= 0 &&
            id < (json_int_t)c->vocab_size)
            c->pool.step_token = (int32_t)id;
    }
    json_decref(root);
    return 0;
}

/* The reference uses the token's row of the embedding as padding, and fails if there is no such
 * row. */
static int read_pad_token(struct model_config *c, const struct json_file *f, struct err *e)
{
    int64_t pad = -1;
    if (json_get_int(f, "pad_token_id", -1, 1 << 24, &pad, e) < 0)
        return ASSAY_EFORMAT;
    if (pad >= (int64_t)c->vocab_size)
        return err_set(e, ASSAY_EFORMAT,
            "%s: pad_token_id: expected a token below vocab_size (%u), -1 or null, found %lld",
            f->file, c->vocab_size, (long long)pad);
    c->pad_token = (int32_t)pad;
    return 0;
}

int model_config_load(struct model_config *c, const char *dir, const char *head, struct err *e)
{
    *c = (struct model_config){.pool.step_token = POOL_NO_STEP_TOKEN};
    char name[4096];
    snprintf(name, sizeof name, "%.4000s/config.json", dir);
    int rc = model_path_check(dir, e);
    if (rc == 0 && !regular_exists(name))
        rc = directory_no_config(dir, e);
    json_t *root = rc == 0 ? json_read_file(dir, "config.json", CONFIG_MAX_BYTES, e) : NULL;
    if (!root)
        return ASSAY_EFORMAT;
    struct json_file f = {name, "", root};
    int (*const readers[])(struct model_config *, const struct json_file *, struct err *) = {
        read_architecture, read_sizes, read_flags, read_rope, read_window, read_pad_token};
    for (size_t i = 0; rc == 0 && i < sizeof readers / sizeof readers[0]; i++)
        rc = readers[i](c, &f, e);
    if (rc == 0)
        rc = model_config_read_head(c, &f, dir, head, e);
    if (rc == 0)
        rc = model_config_read_quantization(c, &f, e);
    if (rc == 0)
        model_config_read_activation(c, &f, dir);
    if (rc == 0)
        rc = read_step_token(c, dir, e);
    json_decref(root);
    return rc;
}
