/* describe.c - see describe.h. The loader itself checks names, shapes and dtypes: it runs on the
 * CPU's device, with room for one token. On the CPU the mode is known then. On another device a
 * model of the same shape scores a row, so that the device chooses its algorithms, which are part
 * of the mode, before the first job is taken. */
#include "worker/describe.h"

#include <jansson.h>
#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/json.h"
#include "schema/log.h"
#include "worker/lora.h"
#include "worker/qwen2.h"
#include "worker/score.h"

/* What is known about a checkpoint. */
struct description {
    struct model_config config;
    const char *dtype;
    char digest[65];
    struct identity identity;
    char mode[MODEL_MODE_BYTES];
    int shares_prefixes; /* ops.h */
    struct lora_config adapters;
};

/* Opens a model with room for one token on a device with these options. */
static int try_model(struct description *about, struct weights *w,
    const struct qwen2_configs *configs, const struct ops *ops, struct device_options options,
    struct err *e)
{
    struct qwen2_reward_model m = {0};
    struct device *d = NULL;
    float *values = xcalloc(configs->config.n_labels, sizeof *values);
    qwen2_device_needs(&options, configs, ops);
    int rc = ops->device->open(&d, &options, e);
    if (rc == 0)
        rc = qwen2_reward_model_init(&m, configs, ops, d, e);
    if (rc == 0)
        rc = qwen2_reward_model_load_weights(&m, w, e);
    if (rc == 0)
        rc = lora_load(&m, e);
    if (rc == 0 && ops->typed)
        rc = score_canary(&m, NULL, 1, values, e);
    if (rc == 0)
        qwen2_reward_model_mode(&m, about->mode, sizeof about->mode);
    about->dtype = m.config.quantization.format ? about->config.quantization.name
                                                : dtype_name(m.model.embed_tokens.dtype);
    qwen2_reward_model_release(&m);
    ops->device->close(&d);
    free(values);
    return rc;
}

static int check_weights(
    struct description *about, const struct describe_options *o, struct weights *w, struct err *e)
{
    struct device_options cpu = {.n_threads = 1, .isa = "portable", .shapes_only = 1};
    struct device_options gpu = {.gpu = o->gpu, .cache_dir = o->cache_dir, .shapes_only = 1};
    struct quant_config quant = {o->quant};
    struct qwen2_configs configs = {.config = about->config,
        .cache_config = {1, 1, 1, o->kv_cache_bytes},
        .quant_config = {"none"},
        .lora_config = about->adapters,
        .n_ranks = o->tp,
        .n_pp_ranks = 1};
    int rc = quant_config_check(&quant, e);
    if (rc == 0 && o->ops->typed)
        rc = try_model(about, w, &configs, &cpu_ops, cpu, e);
    const char *dtype = about->dtype;
    configs.quant_config = quant;
    if (rc == 0)
        rc = model_choose_type(&configs.config, o->dtype, &quant, w, o->ops, e);
    if (rc == 0 && o->ops->typed) { /* a device may have room for no more than a stage */
        configs.n_pp_ranks = o->pp;
        configs.pp_rank = o->pp - 1;
    }
    if (rc == 0)
        rc = try_model(about, w, &configs, o->ops, o->ops->typed ? gpu : cpu, e);
    about->dtype = o->ops->typed ? dtype : about->dtype;
    return rc;
}

/* The labels' names in order; null where config.json gives none. */
static json_t *label_names(const char *dir, uint32_t n)
{
    json_t *root = json_read_file(dir, "config.json", 8u << 20, NULL), *names = json_array();
    const json_t *map = json_object_get(root, "id2label");
    for (uint32_t i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        json_t *name = json_object_get(map, key);
        if (!json_is_string(name)) {
            json_decref(names);
            json_decref(root);
            return json_null();
        }
        json_array_append(names, name);
    }
    json_decref(root);
    return names;
}

/* Never NULL. */
static json_t *adapters_of(const struct lora_config *c)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < c->n_adapters; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:b}", "name", c->adapters[i].name, "digest",
                      c->adapters[i].digest, "has_head", c->adapters[i].has_head));
    return list;
}

static int print_description(const struct description *about, uint32_t max_len,
    uint64_t weight_bytes, json_t *labels, FILE *out, struct err *e)
{
    const struct model_config *c = &about->config;
    json_t *line = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:o, s:s, s:s, s:i, s:i, s:i, "
                             "s:i, s:i, s:i, s:i, s:i, s:I, s:s, s:b, s:s, s:s, s:s, s:o}",
        "architecture", c->architecture->name, "digest", about->digest, "dtype", about->dtype,
        "vocab_size", (int)c->vocab_size, "max_len", (int)max_len, "max_position",
        (int)c->max_position, "n_labels", (int)c->n_labels, "labels", labels, "default_pool",
        pool_type_name(c->pool.type), "default_activation", activation_name(c->pool.activation),
        "step_token", (int)c->pool.step_token, "pad_token", (int)c->pad_token, "pad_rule",
        (int)c->head->pad_rule, "hidden_size", (int)c->hidden_size, "n_layers", (int)c->n_layers,
        "n_heads", (int)c->n_heads, "n_kv_heads", (int)c->n_kv_heads, "head_dim", (int)c->head_dim,
        "weight_bytes", (json_int_t)weight_bytes, "mode", about->mode, "shares_prefixes",
        about->shares_prefixes, "identity", about->identity.hex, "config_activation",
        activation_name((int)c->config_activation), "no_config_activation", c->no_config_activation,
        "adapters", adapters_of(&about->adapters));
    int failed = !line || json_dumpf(line, out, JSON_COMPACT) != 0 || fputc('\n', out) == EOF ||
                 fflush(out) != 0;
    json_decref(line);
    return failed ? err_errno(e, ASSAY_EIO, "describe: cannot write") : 0;
}

/* Computes the digest and checks that everything read so far came from the files that it names. */
static int digest_all(struct description *about, const struct describe_options *o,
    struct weights *w, const struct identity *first, struct err *e)
{
    int rc = checkpoint_digest(about->digest, &about->identity, o->dir, o->digest_cache, e);
    if (rc == 0)
        rc = weights_check_names(w, e);
    return rc == 0 ? checkpoint_check_identity(o->dir, first->hex, "they were read", e) : rc;
}

int describe_model(const struct describe_options *o, FILE *out, struct err *e)
{
    struct description about = {.dtype = "", .shares_prefixes = o->ops->shares_prefixes};
    const struct model_config *c = &about.config;
    struct weights *w = NULL;
    struct identity first;
    json_t *labels = NULL;
    struct err why = {0};
    checkpoint_identity(&first, o->dir, &why);
    int rc = model_config_load(&about.config, o->dir, o->head,
        e); /* its message for a bad path is better than checkpoint_identity's */
    if (rc == 0 && (rc = why.code) != 0)
        *e = why;
    if (rc == 0)
        rc = model_config_check_tp(c, o->tp, e);
    if (rc == 0)
        rc = model_config_check_pp(c, o->pp, e);
    if (rc == 0 && o->max_len > c->max_position)
        rc = err_set(e, ASSAY_EFORMAT,
            "--max-len: expected at most max_position_embeddings (%u), found %u", c->max_position,
            o->max_len);
    if (rc == 0)
        rc = weights_open_chosen(&w, o->dir, o->weights, e);
    if (rc == 0)
        about.config.weights_decided = weights_decided(w);
    if (rc == 0)
        rc = quantization_settle(&about.config.quantization, w, e);
    if (rc == 0)
        rc = quantization_choose(&about.config.quantization, o->activations, e);
    if (rc == 0)
        rc = lora_open_all(&about.adapters, o->loras, NULL, o->n_loras, c, e);
    if (rc == 0)
        rc = check_weights(&about, o, w, e);
    if (rc == 0) {
        labels = c->head->n_labels == 0 ? label_names(o->dir, c->n_labels) : json_null();
        rc = digest_all(&about, o, w, &first, e);
    }
    if (rc == 0)
        rc = print_description(&about, o->max_len ? o->max_len : c->max_position, weights_bytes(w),
            json_incref(labels), out, e);
    json_decref(labels);
    lora_close_all(&about.adapters);
    weights_close(&w);
    return rc;
}
