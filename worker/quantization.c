/* quantization.c - see quantization.h. Every field of quantization_config is in a table: those that
 * are read, those that must have the value under which nothing changes, and those that change
 * nothing. */
#include "worker/quantization.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/config.h"
#include "worker/layer_matrix.h"
#include "worker/module_names.h"

#define LEAST_GROUP 8

/* ---- fields ---- */

/* A field and the values, as JSON, that are built; no value: it is read elsewhere or changes
 * nothing. Absent and null are always built here: a field that must be there is read by name. */
struct field {
    const char *key, *values; /* separated by spaces */
};

static int is_one_of(const char *found, const char *values)
{
    size_t n = strlen(found);
    for (const char *at = values; (at = strstr(at, found)); at += n)
        if ((at == values || at[-1] == ' ') && (at[n] == '\0' || at[n] == ' '))
            return 1;
    return 0;
}

static int check_field(
    const struct json_file *f, const char *key, const json_t *v, const char *values, struct err *e)
{
    if (!values || json_is_null(v))
        return 0;
    char *found = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    int rc =
        found && is_one_of(found, values)
            ? 0
            : err_set(e, ASSAY_EUNSUPPORTED, "%s: %s%s: is not built: expected %s, found %.80s",
                  f->file, f->where, key, values, found ? found : "what cannot be shown");
    free(found);
    return rc;
}

/* Checks every field of f against the table; `fields` ends with a key of NULL. */
static int check_fields(const struct json_file *f, const struct field *fields, struct err *e)
{
    void *at = json_object_iter((json_t *)f->object);
    for (; at; at = json_object_iter_next((json_t *)f->object, at)) {
        const char *key = json_object_iter_key(at);
        const struct field *known = fields;
        while (known->key && strcmp(known->key, key) != 0)
            known++;
        if (!known->key)
            return err_set(e, ASSAY_EUNSUPPORTED,
                "%s: %s%.60s: unknown: what it asks for is not built; expected no such key",
                f->file, f->where, key);
        int rc = check_field(f, key, json_object_iter_value(at), known->values, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The object at `key` of f, named so in errors. */
static int open_object(struct json_file *inner, const struct json_file *f, const char *key,
    const char *where, struct err *e)
{
    const json_t *v = json_object_get(f->object, key);
    *inner = (struct json_file){f->file, where, v};
    return json_is_object(v) ? 0
                             : err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected an object, found %s",
                                   f->file, f->where, key, v ? "something else" : "nothing");
}

static int need_string(
    const struct json_file *f, const char *key, const char **value, struct err *e)
{
    int rc = json_get_string(f, key, value, e);
    return rc == 0  ? err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected a name, found nothing", f->file,
                          f->where, key)
           : rc < 0 ? rc
                    : 0;
}

static int read_bits(
    struct quantization *q, const struct json_file *f, const char *key, struct err *e)
{
    int64_t bits = 0;
    int rc = json_need_int(f, key, 1, 64, &bits, e);
    q->bits = (int)bits;
    if (rc == 0 && bits != 4 && bits != 8)
        rc = err_set(e, ASSAY_EUNSUPPORTED, "%s: %s%s: expected 4 or 8, found %lld", f->file,
            f->where, key, (long long)bits);
    return rc;
}

/* -1 is the whole row. */
static int read_group_size(struct quantization *q, const struct json_file *f, struct err *e)
{
    int64_t size = -1;
    if (json_get_int(f, "group_size", -1, 1 << 20, &size, e) < 0)
        return ASSAY_EFORMAT;
    if (size != -1 && size < LEAST_GROUP)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %sgroup_size: expected -1 or at least %d, found %lld", f->file, f->where,
            LEAST_GROUP, (long long)size);
    q->group_size = size == -1 ? 0 : size;
    return 0;
}

/* ---- compressed-tensors ---- */

static const struct field compressed_fields[] = {{"quant_method", NULL}, {"config_groups", NULL},
    {"ignore", NULL}, {"format", "\"pack-quantized\""}, {"quantization_status", "\"compressed\""},
    {"kv_cache_scheme", "null"}, {"sparsity_config", "{}"}, {"transform_config", "{}"},
    {"moe_sparsity_config", "null"}, {"global_compression_ratio", NULL}, {"version", NULL},
    {"run_compressed", NULL}, {"dequantize", NULL}, {NULL, NULL}};

static const struct field group_fields[] = {{"targets", NULL}, {"weights", NULL},
    {"input_activations", "null"}, {"output_activations", "null"}, {"format", "\"pack-quantized\""},
    {NULL, NULL}};

static const struct field weight_fields[] = {{"num_bits", NULL}, {"type", "\"int\""},
    {"symmetric", "true false"}, {"strategy", "\"group\" \"channel\""}, {"group_size", NULL},
    {"dynamic", "false"}, {"actorder", "false true \"group\" \"dynamic\" \"weight\" \"static\""},
    {"block_structure", "null"}, {"observer", NULL}, {"observer_kwargs", NULL},
    {"scale_dtype", NULL}, {"zp_dtype", NULL}, {NULL, NULL}};

/* By "group" (or "dynamic", or true) a column's group is in g_idx; by "weight" (or "static") it is
 * as without an order. */
static int is_grouped_order(const json_t *order)
{
    const char *name = json_string_value(order);
    return json_is_true(order) ||
           (name && (strcmp(name, "group") == 0 || strcmp(name, "dynamic") == 0));
}

/* Group size and strategy must agree. */
static int check_strategy(
    const struct quantization *q, const struct json_file *f, const char *strategy, struct err *e)
{
    int is_group = strcmp(strategy, "group") == 0;
    if (is_group == (q->group_size > 0) && (is_group || !q->has_order))
        return 0;
    if (!is_group && q->has_order)
        return err_set(e, ASSAY_EFORMAT,
            "%s: %sactorder: expected none with the strategy 'channel', found one", f->file,
            f->where);
    return err_set(e, ASSAY_EFORMAT,
        "%s: %sgroup_size: expected %s with the strategy '%s', found %lld", f->file, f->where,
        is_group ? "a size" : "none", strategy, (long long)(q->group_size ? q->group_size : -1));
}

static int read_weights(struct quantization *q, const struct json_file *f, struct err *e)
{
    const char *strategy = "";
    int symmetric = 1, rc = check_fields(f, weight_fields, e);
    if (rc == 0)
        rc = read_bits(q, f, "num_bits", e);
    if (rc == 0)
        rc = read_group_size(q, f, e);
    if (rc == 0)
        rc = need_string(f, "strategy", &strategy, e);
    if (rc == 0 && json_get_bool(f, "symmetric", &symmetric, e) < 0)
        rc = ASSAY_EFORMAT;
    q->has_zeros = !symmetric;
    q->has_order = is_grouped_order(json_object_get(f->object, "actorder"));
    return rc == 0 ? check_strategy(q, f, strategy, e) : rc;
}

/* The one group, as an object named in errors. */
static int open_group(struct json_file *group, const struct json_file *f, struct err *e)
{
    struct json_file groups;
    int rc = open_object(&groups, f, "config_groups", "quantization_config.config_groups.", e);
    if (rc != 0)
        return rc;
    if (json_object_size(groups.object) != 1)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %sconfig_groups: more than one is not built: expected 1, found %zu", f->file,
            f->where, json_object_size(groups.object));
    const char *name = json_object_iter_key(json_object_iter((json_t *)groups.object));
    return open_object(group, &groups, name, "quantization_config.config_groups.*.", e);
}

/* What the targets name and `ignore` does not is quantized; what is not built for that is refused. */
static int read_targets(
    struct model_config *c, const struct json_file *f, const struct json_file *group, struct err *e)
{
    struct modules targets = {.head = 0}, ignored = {.head = 0};
    if (!json_object_get(group->object, "targets"))
        return err_set(e, ASSAY_EFORMAT, "%s: %stargets: expected a list, found nothing",
            group->file, group->where);
    int rc = modules_named(&targets, c, group, "targets", e);
    if (rc == 0)
        rc = modules_named(&ignored, c, f, "ignore", e);
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->quantized[i] = targets.matrices[i] & (uint8_t)~ignored.matrices[i];
    if (rc == 0 && targets.head && !ignored.head)
        rc = err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %signore: a quantized head is not built: expected '%s' among them", f->file,
            f->where, c->head_name);
    if (rc == 0 && targets.embedding && !ignored.embedding)
        rc = err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %stargets: a quantized embedding is not built: expected Linear alone", f->file,
            group->where);
    return rc;
}

static int read_compressed(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct quantization *q = &c->quantization;
    struct json_file group, weights;
    const char *format = "", *status = "";
    int rc = check_fields(f, compressed_fields, e);
    if (rc == 0)
        rc = need_string(f, "format", &format, e);
    if (rc == 0)
        rc = need_string(f, "quantization_status", &status, e);
    if (rc == 0)
        rc = open_group(&group, f, e);
    if (rc == 0)
        rc = check_fields(&group, group_fields, e);
    if (rc == 0)
        rc = open_object(
            &weights, &group, "weights", "quantization_config.config_groups.*.weights.", e);
    if (rc == 0)
        rc = read_weights(q, &weights, e);
    q->format = FORMAT_PACK_QUANTIZED;
    snprintf(q->name, sizeof q->name, "pack-quantized-int%d", q->bits);
    return rc == 0 ? read_targets(c, f, &group, e) : rc;
}

/* ---- GPTQ ---- */

static const struct field gptq_fields[] = {{"quant_method", NULL}, {"bits", NULL},
    {"group_size", NULL}, {"desc_act", "true false"}, {"sym", "true false"},
    {"format", "\"gptq\" \"gptq_v2\""}, {"checkpoint_format", "\"gptq\" \"gptq_v2\""},
    {"pack_dtype", "\"int32\""}, {"dynamic", "{}"}, {"lm_head", "false"},
    {"is_marlin_format", "false"}, {"block_name_to_quantize", "\"model.layers\""},
    {"modules_in_block_to_quantize", NULL},
    /* how the checkpoint was made, or is run elsewhere */
    {"act_group_aware", NULL}, {"backend", NULL}, {"batch_size", NULL},
    {"cache_block_outputs", NULL}, {"damp_auto_increment", NULL}, {"damp_percent", NULL},
    {"dataset", NULL}, {"disable_exllama", NULL}, {"exllama_config", NULL},
    {"max_input_length", NULL}, {"meta", NULL}, {"model_file_base_name", NULL},
    {"model_name_or_path", NULL}, {"model_seqlen", NULL},
    {"module_name_preceding_first_block", NULL}, {"mse", NULL}, {"pad_token_id", NULL},
    {"quantizer", NULL}, {"static_groups", NULL}, {"tokenizer", NULL}, {"true_sequential", NULL},
    {"use_cuda_fp16", NULL}, {"use_exllama", NULL}, {NULL, NULL}};

/* Adds the matrix that a name means to *found. */
static int add_named(uint8_t *found, const json_t *name, const struct json_file *f, struct err *e)
{
    const char *text = json_string_value(name);
    for (int k = 0; text && k < N_LAYER_MATRICES; k++)
        if (strcmp(text, layer_matrix_names[k]) == 0) {
            *found |= (uint8_t)(1 << k);
            return 0;
        }
    return err_set(e, ASSAY_EFORMAT,
        "%s: %smodules_in_block_to_quantize: expected lists of a layer's matrices, such as "
        "'self_attn.q_proj', found '%.60s'",
        f->file, f->where, text ? text : "no string");
}

/* A list of lists of names, or null: all. */
static int read_block(struct model_config *c, const struct json_file *f, struct err *e)
{
    const json_t *lists = json_object_get(f->object, "modules_in_block_to_quantize");
    uint8_t found = 0, all = (1 << N_LAYER_MATRICES) - 1;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < json_array_size(lists); i++) {
        const json_t *list = json_array_get(lists, i);
        if (!json_is_array(list))
            rc = add_named(&found, list, f, e);
        for (size_t k = 0; rc == 0 && k < json_array_size(list); k++)
            rc = add_named(&found, json_array_get(list, k), f, e);
    }
    if (rc == 0 && lists && !json_is_null(lists) && !json_is_array(lists))
        rc = add_named(&found, lists, f, e);
    memset(c->quantized, json_array_size(lists) > 0 ? found : all, c->n_layers);
    return rc;
}

/* Two keys name the format; without them it is the first. */
static int read_gptq_format(struct quantization *q, const struct json_file *f, struct err *e)
{
    const char *format = NULL, *old = NULL;
    if (json_get_string(f, "format", &format, e) < 0 ||
        json_get_string(f, "checkpoint_format", &old, e) < 0)
        return ASSAY_EFORMAT;
    if (format && old && strcmp(format, old) != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: %sformat '%s' contradicts %scheckpoint_format '%s'; keep one", f->file, f->where,
            format, f->where, old);
    format = format ? format : old;
    q->zero_offset = !format || strcmp(format, "gptq") == 0;
    return 0;
}

static int read_gptq(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct quantization *q = &c->quantization;
    int rc = check_fields(f, gptq_fields, e);
    if (rc == 0)
        rc = read_bits(q, f, "bits", e);
    if (rc == 0)
        rc = read_group_size(q, f, e);
    if (rc == 0)
        rc = read_gptq_format(q, f, e);
    if (rc == 0 && json_get_bool(f, "desc_act", &q->has_order, e) < 0)
        rc = ASSAY_EFORMAT;
    q->has_zeros = 1;
    q->format = FORMAT_GPTQ;
    snprintf(q->name, sizeof q->name, "gptq-int%d", q->bits);
    return rc == 0 ? read_block(c, f, e) : rc;
}

/* ---- AWQ ---- */

static const struct field awq_fields[] = {{"quant_method", NULL}, {"bits", "4"},
    {"group_size", NULL}, {"zero_point", "true"}, {"version", "\"gemm\" \"GEMM\""},
    {"format", "\"gemm\""}, {"desc_act", "false"}, {"sym", "false"}, {"lm_head", "false"},
    {"dynamic", "{}"}, {"pack_dtype", "\"int32\""},
    {"backend", "\"auto\" \"autoawq\" \"legacy_awq\""}, {"modules_to_not_convert", NULL},
    /* how the checkpoint was made, or is run elsewhere */
    {"do_fuse", NULL}, {"exllama_config", NULL}, {"fuse_max_seq_len", NULL}, {"meta", NULL},
    {"modules_to_fuse", NULL}, {NULL, NULL}};

static int read_awq(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct quantization *q = &c->quantization;
    struct modules kept = {.head = 0};
    int rc = check_fields(f, awq_fields, e);
    if (rc == 0)
        rc = read_bits(q, f, "bits", e);
    if (rc == 0)
        rc = read_group_size(q, f, e);
    if (rc == 0)
        rc = modules_kept(&kept, c, f, "modules_to_not_convert", e);
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->quantized[i] = (uint8_t)(~kept.matrices[i] & ((1 << N_LAYER_MATRICES) - 1));
    q->has_zeros = 1;
    q->format = FORMAT_AWQ;
    snprintf(q->name, sizeof q->name, "awq-int%d", q->bits);
    return rc;
}

/* ---- methods ---- */

static const struct method {
    const char *name;
    int (*read)(struct model_config *c, const struct json_file *f, struct err *e);
} methods[] = {{"compressed-tensors", read_compressed}, {"gptq", read_gptq}, {"awq", read_awq}};

int model_config_read_quantization(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct json_file inner;
    const char *method = "unknown";
    const json_t *v = json_object_get(f->object, "quantization_config");
    if (!v || json_is_null(v))
        return 0;
    if (open_object(&inner, f, "quantization_config", "quantization_config.", e) != 0 ||
        json_get_string(&inner, "quant_method", &method, e) < 0)
        return ASSAY_EFORMAT;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(method, methods[i].name) == 0)
            return methods[i].read(c, &inner, e);
    return err_set(e, ASSAY_EUNSUPPORTED,
        "%s: quantization_config.quant_method: '%.40s' is not built; expected compressed-tensors, "
        "gptq or awq, or a checkpoint of float32, float16 or bfloat16: take the one that it was "
        "made from, or "
        "load it in transformers, model.dequantize(), then save_pretrained",
        f->file, method);
}
