/* quantization.c - see quantization.h. The methods whose configs are short are read here. */
#include "worker/quantization.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/config.h"
#include "worker/layer_matrix.h"
#include "worker/module_names.h"
#include "worker/quantization_fields.h"
#include "worker/weights.h"

#define LEAST_GROUP 8
#define FP8_LEAST 1e-12f /* inputs are divided by their scale, but never by less */

/* ---- fields ---- */

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
int quantization_check_fields(
    const struct json_file *f, const struct quantization_field *fields, struct err *e)
{
    void *at = json_object_iter((json_t *)f->object);
    for (; at; at = json_object_iter_next((json_t *)f->object, at)) {
        const char *key = json_object_iter_key(at);
        const struct quantization_field *known = fields;
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

int quantization_refuse_nulls(const struct json_file *f, const char *const *keys, struct err *e)
{
    for (; *keys; keys++)
        if (json_is_null(json_object_get(f->object, *keys)))
            return err_set(e, ASSAY_EFORMAT,
                "%s: %s%s: expected a value, or no such key for the default, found null", f->file,
                f->where, *keys);
    return 0;
}

/* The object at `key` of f, named so in errors. */
int quantization_open(struct json_file *inner, const struct json_file *f, const char *key,
    const char *where, struct err *e)
{
    const json_t *v = json_object_get(f->object, key);
    *inner = (struct json_file){f->file, where, v};
    return json_is_object(v) ? 0
                             : err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected an object, found %s",
                                   f->file, f->where, key, v ? "something else" : "nothing");
}

int quantization_need_string(
    const struct json_file *f, const char *key, const char **value, struct err *e)
{
    int rc = json_get_string(f, key, value, e);
    return rc == 0  ? err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected a name, found nothing", f->file,
                          f->where, key)
           : rc < 0 ? rc
                    : 0;
}

int quantization_read_bits(
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
int quantization_read_group_size(struct quantization *q, const struct json_file *f, struct err *e)
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

/* Whether the list or the text at `key` gives two numbers. */
static int find_block(const json_t *v, json_int_t size[2])
{
    const char *text = json_string_value(v);
    char after;
    if (text)
        return sscanf(text, "%7" JSON_INTEGER_FORMAT "x%7" JSON_INTEGER_FORMAT "%c", &size[0],
                   &size[1], &after) == 2;
    for (size_t i = 0; i < 2; i++)
        size[i] = json_integer_value(json_array_get(v, i));
    return json_array_size(v) == 2;
}

int quantization_read_block(
    struct quantization *q, const struct json_file *f, const char *key, struct err *e)
{
    json_int_t size[2] = {0, 0};
    if (!find_block(json_object_get(f->object, key), size) || size[0] < 1 || size[0] > 1 << 20 ||
        size[1] < LEAST_GROUP || size[1] > 1 << 20)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %s%s: expected rows and columns, such as [128, 128], of at least 1 and %d",
            f->file, f->where, key, LEAST_GROUP);
    q->group_rows = size[0];
    q->group_size = size[1];
    return 0;
}

/* ---- GPTQ ---- */

static const struct quantization_field gptq_fields[] = {{"quant_method", NULL}, {"bits", NULL},
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
    int rc = quantization_check_fields(f, gptq_fields, e);
    if (rc == 0)
        rc = quantization_read_bits(q, f, "bits", e);
    if (rc == 0)
        rc = quantization_read_group_size(q, f, e);
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

static const struct quantization_field awq_fields[] = {{"quant_method", NULL}, {"bits", "4"},
    {"group_size", NULL}, {"zero_point", "true"}, {"version", "\"gemm\" \"GEMM\""},
    {"format", "\"gemm\""}, {"desc_act", "false"}, {"sym", "false"}, {"lm_head", "false"},
    {"dynamic", "{}"}, {"pack_dtype", "\"int32\""},
    {"backend", "\"auto\" \"autoawq\" \"legacy_awq\""}, {"modules_to_not_convert", NULL},
    /* how the checkpoint was made, or is run elsewhere */
    {"do_fuse", NULL}, {"exllama_config", NULL}, {"fuse_max_seq_len", NULL}, {"meta", NULL},
    {"modules_to_fuse", NULL}, {NULL, NULL}};

/* Null would be as false to some libraries: no zero points. */
static const char *const awq_not_null[] = {"zero_point", NULL};

static int read_awq(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct quantization *q = &c->quantization;
    struct modules kept = {.head = 0};
    int rc = quantization_check_fields(f, awq_fields, e);
    if (rc == 0)
        rc = quantization_refuse_nulls(f, awq_not_null, e);
    if (rc == 0)
        rc = quantization_read_bits(q, f, "bits", e);
    if (rc == 0)
        rc = quantization_read_group_size(q, f, e);
    if (rc == 0)
        rc = modules_kept_alike(&kept, c, f, "modules_to_not_convert", e);
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->quantized[i] = (uint8_t)(~kept.matrices[i] & ((1 << N_LAYER_MATRICES) - 1));
    q->has_zeros = 1;
    q->format = FORMAT_AWQ;
    snprintf(q->name, sizeof q->name, "awq-int%d", q->bits);
    return rc;
}

/* ---- transformers' FP8 ---- */

static const struct quantization_field fp8_fields[] = {{"quant_method", NULL},
    {"activation_scheme", "\"dynamic\" \"static\""}, {"weight_block_size", NULL},
    {"modules_to_not_convert", NULL}, {"ignored_layers", NULL}, {"modules_to_convert", "[]"},
    {"fmt", "\"e4m3\""}, {"scale_fmt", "\"float\""}, {"expert_dtype", NULL}, {"dequantize", NULL},
    {NULL, NULL}};

static const char *const fp8_not_null[] = {"activation_scheme", "scale_fmt", NULL};

/* Without the key blocks are of 128 x 128; null is one scale for a matrix. */
static int read_fp8_block(struct quantization *q, const struct json_file *f, struct err *e)
{
    const json_t *v = json_object_get(f->object, "weight_block_size");
    q->group_size = q->group_rows = v ? 0 : 128;
    q->is_undecided = !v;
    return v && !json_is_null(v) ? quantization_read_block(q, f, "weight_block_size", e) : 0;
}

/* `ignored_layers` stands in for the other list where that is missing. */
static int read_fp8_kept(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct modules kept = {.head = 0};
    const json_t *v = json_object_get(f->object, "modules_to_not_convert");
    int rc = modules_kept(
        &kept, c, f, v && !json_is_null(v) ? "modules_to_not_convert" : "ignored_layers", e);
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->quantized[i] = (uint8_t)(~kept.matrices[i] & ((1 << N_LAYER_MATRICES) - 1));
    return rc;
}

/* Inputs have a scale for each token and as many columns as a block of weights has, or the file's
 * one for all. */
static int read_fp8(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct quantization *q = &c->quantization;
    const char *scheme = "dynamic";
    *q = (struct quantization){.format = FORMAT_PLAIN,
        .numbers = PACKED_E4M3,
        .bits = 8,
        .scale_name = "weight_scale_inv",
        .has_inputs = 1};
    int rc = quantization_check_fields(f, fp8_fields, e);
    if (rc == 0)
        rc = quantization_refuse_nulls(f, fp8_not_null, e);
    if (rc == 0 && json_get_string(f, "activation_scheme", &scheme, e) < 0)
        rc = ASSAY_EFORMAT;
    if (rc == 0)
        rc = read_fp8_block(q, f, e);
    q->of_config = (struct rounding){.how = ROUND_BY_MAGNITUDE,
        .numbers = PACKED_E4M3,
        .group = q->group_size,
        .least = FP8_LEAST};
    if (strcmp(scheme, "static") == 0) {
        q->of_config = (struct rounding){.how = ROUND_BY_SCALE, .numbers = PACKED_E4M3};
        q->input_scale_name = "activation_scale";
    }
    snprintf(q->name, sizeof q->name, "fp8-%s", q->group_rows > 0 ? "blocks" : "tensor");
    return rc == 0 ? read_fp8_kept(c, f, e) : rc;
}

/* ---- AutoFP8 ---- */

/* Older files than transformers' FP8, with the same name of the method: a scale for each matrix
 * and, where activations have one of the file, input_scale. Its dynamic scale is of all rows of a
 * batch together, by which a score would depend on the others: it is not built. */
static void set_autofp8(struct quantization *q)
{
    int is_static = q->input_scale_name != NULL;
    q->scale_name = "weight_scale";
    q->group_size = q->group_rows = 0;
    q->input_scale_name = is_static ? "input_scale" : NULL;
    q->of_config =
        (struct rounding){.how = is_static ? ROUND_BY_SCALE : ROUND_NOT, .numbers = PACKED_E4M3};
    snprintf(q->name, sizeof q->name, "autofp8");
}

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

int quantization_settle(struct quantization *q, struct weights *w, struct err *e)
{
    struct weight_tensor t;
    const char *old = NULL, *other = NULL;
    if (!q->is_undecided)
        return 0;
    weights_rewind(w);
    while (weights_next(w, &t)) {
        old = ends_with(t.name, "_proj.weight_scale") ? t.name : old;
        other = ends_with(t.name, "_proj.weight_scale_inv") ? t.name : other;
    }
    weights_rewind(w);
    if (old && other)
        return err_set(e, ASSAY_EFORMAT,
            "config.json: quantization_config (fp8) without weight_block_size: expected scales "
            "called weight_scale (AutoFP8) or weight_scale_inv (transformers), found '%.100s' and "
            "'%.100s'",
            old, other);
    if (old)
        set_autofp8(q);
    q->is_undecided = 0;
    return 0;
}

/* ---- --activations ---- */

int quantization_choose(struct quantization *q, const char *option, struct err *e)
{
    int is_stored = strcmp(option, "as-stored") == 0;
    if (strcmp(option, "auto") != 0 && strcmp(option, "weights-only") != 0 && !is_stored)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--activations: expected auto, as-stored or weights-only, found '%.40s'", option);
    if (!q->has_inputs)
        return 0;
    if (is_stored && q->dequantizing_field)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "config.json: quantization_config.%s says that activations are left as they are: "
            "expected --activations weights-only, found as-stored",
            q->dequantizing_field);
    if (is_stored && q->of_config.how == ROUND_NOT)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "config.json: quantization_config (%s): activations that are quantized so are not "
            "built; expected --activations weights-only, which leaves them as they are, as "
            "transformers does with dequantize=True",
            q->name);
    if (strcmp(option, "auto") == 0)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "config.json: quantization_config (%s) says that activations are quantized too: "
            "--activations weights-only leaves them as they are, as transformers does with "
            "dequantize=True%s",
            q->name,
            q->of_config.how == ROUND_NOT ? "; rounding them is not built"
                                          : "; --activations as-stored rounds them");
    q->inputs = is_stored ? q->of_config : (struct rounding){.how = ROUND_NOT};
    q->chosen = is_stored ? "as-stored" : "weights-only";
    return 0;
}

/* ---- methods ---- */

static const struct method {
    const char *name;
    int (*read)(struct model_config *c, const struct json_file *f, struct err *e);
} methods[] = {{"compressed-tensors", quantization_read_compressed}, {"gptq", read_gptq},
    {"awq", read_awq}, {"fp8", read_fp8}};

/* Fields by which transformers computes with the weights' values, and leaves inputs as they are. */
static const char *dequantizing_field(const struct json_file *f)
{
    const json_t *dequantize = json_object_get(f->object, "dequantize"),
                 *packed = json_object_get(f->object, "run_compressed");
    if (dequantize && !json_is_false(dequantize) && !json_is_null(dequantize))
        return "dequantize";
    return packed && !json_is_true(packed) && !json_is_null(packed) ? "run_compressed" : NULL;
}

static int read_by(struct model_config *c,
    int (*read)(struct model_config *c, const struct json_file *f, struct err *e),
    const struct json_file *f, struct err *e)
{
    int rc = read(c, f, e);
    if (rc == 0)
        c->quantization.dequantizing_field = dequantizing_field(f);
    return rc;
}

int model_config_read_quantization(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct json_file inner;
    const char *method = "unknown";
    const json_t *v = json_object_get(f->object, "quantization_config");
    if (!v || json_is_null(v))
        return 0;
    if (quantization_open(&inner, f, "quantization_config", "quantization_config.", e) != 0 ||
        json_get_string(&inner, "quant_method", &method, e) < 0)
        return ASSAY_EFORMAT;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(method, methods[i].name) == 0)
            return read_by(c, methods[i].read, &inner, e);
    return err_set(e, ASSAY_EUNSUPPORTED,
        "%s: quantization_config.quant_method: '%.40s' is not built; expected compressed-tensors, "
        "gptq, awq or fp8, or a checkpoint of float32, float16 or bfloat16: take the one that it "
        "was "
        "made from, or "
        "load it in transformers, model.dequantize(), then save_pretrained",
        f->file, method);
}
