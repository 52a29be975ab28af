/* describe.c - see describe.h. The check of names, shapes and dtypes is the loader itself, run on a
 * device with one short row's worth of activations. */
#include "worker/describe.h"

#include <jansson.h>

#include "schema/json.h"
#include "worker/qwen2.h"

static int check_weights(
    const struct model_config *config, struct weights *w, const char **dtype, struct err *e)
{
    struct cache_config cache = {1, 1, 1, "none"};
    struct quant_config quant = {"none"};
    struct lora_config lora = {0, NULL, NULL};
    struct qwen2_reward_model m = {0};
    struct device *d = NULL;
    struct device_options options = {.n_threads = 1, .isa = "portable"};
    qwen2_device_needs(&options, config, &cache, &cpu_ops, 1);
    int rc = cpu_ops.open(&d, &options, e);
    if (rc == 0)
        rc = qwen2_reward_model_init(&m, config, &cache, &quant, &lora, &cpu_ops, d, 0, 1, e);
    if (rc == 0)
        rc = qwen2_reward_model_load_weights(&m, w, e);
    *dtype = dtype_name(m.model.embed_tokens.dtype);
    qwen2_reward_model_release(&m);
    cpu_ops.close(&d);
    return rc;
}

/* Names of the labels in order, null where config.json gives none. */
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

static int print_description(const struct model_config *c, const char *digest, const char *dtype,
    uint32_t max_len, uint64_t weight_bytes, json_t *labels, FILE *out, struct err *e)
{
    json_t *line = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:o, s:s, s:s, s:i, s:i, s:i, "
                             "s:i, s:i, s:i, s:i, s:I}",
        "architecture", architecture_name(c->architecture), "digest", digest, "dtype", dtype,
        "vocab_size", (int)c->vocab_size, "max_len", (int)max_len, "max_position",
        (int)c->max_position, "n_labels", (int)c->n_labels, "labels", labels, "default_pool",
        pool_type_name(c->default_pool), "default_activation",
        activation_name(c->default_activation), "step_token", (int)c->step_token, "pad_token",
        (int)c->pad_token, "hidden_size", (int)c->hidden_size, "n_layers", (int)c->n_layers,
        "n_heads", (int)c->n_heads, "n_kv_heads", (int)c->n_kv_heads, "head_dim", (int)c->head_dim,
        "weight_bytes", (json_int_t)weight_bytes);
    int failed = !line || json_dumpf(line, out, JSON_COMPACT) != 0 || fputc('\n', out) == EOF ||
                 fflush(out) != 0;
    json_decref(line);
    return failed ? err_errno(e, ASSAY_EIO, "describe: cannot write") : 0;
}

int describe_model(const char *dir, uint32_t tp, uint32_t max_len, const char *digest_cache,
    FILE *out, struct err *e)
{
    struct model_config config;
    struct weights *w = NULL;
    const char *dtype = "";
    char digest[65] = "";
    int rc = model_config_load(&config, dir, e);
    if (rc == 0)
        rc = model_config_check_tp(&config, tp, e);
    if (rc == 0 && max_len > config.max_position)
        rc = err_set(e, ASSAY_EFORMAT,
            "--max-len: expected at most max_position_embeddings (%u), found %u",
            config.max_position, max_len);
    if (rc == 0)
        rc = weights_open(&w, dir, e);
    if (rc == 0)
        rc = check_weights(&config, w, &dtype, e);
    if (rc == 0)
        rc = checkpoint_digest(digest, dir, digest_cache, e);
    if (rc == 0)
        rc = print_description(&config, digest, dtype, max_len ? max_len : config.max_position,
            weights_bytes(w), label_names(dir, config.n_labels), out, e);
    weights_close(&w);
    return rc;
}
