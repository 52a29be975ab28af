/* quantization_compressed.c - quantization_config of compressed-tensors (quantization.h). */
#include <stdio.h>
#include <string.h>

#include "worker/config.h"
#include "worker/module_names.h"
#include "worker/quantization_fields.h"

#define FORMATS "\"pack-quantized\" \"int-quantized\" \"float-quantized\" \"naive-quantized\""

static const struct quantization_field compressed_fields[] = {{"quant_method", NULL},
    {"config_groups", NULL}, {"ignore", NULL}, {"format", FORMATS},
    {"quantization_status", "\"compressed\""}, {"kv_cache_scheme", "null"},
    {"sparsity_config", NULL}, {"transform_config", "{}"}, {"moe_sparsity_config", "null"},
    {"global_compression_ratio", NULL}, {"version", NULL}, {"run_compressed", NULL},
    {"dequantize", NULL}, {NULL, NULL}};

static const struct quantization_field group_fields[] = {{"targets", NULL}, {"weights", NULL},
    {"input_activations", NULL}, {"output_activations", "null"}, {"format", FORMATS}, {NULL, NULL}};

static const struct quantization_field weight_fields[] = {{"num_bits", NULL},
    {"type", "\"int\" \"float\""}, {"symmetric", "true false"},
    {"strategy", "\"group\" \"channel\" \"tensor\" \"block\""}, {"group_size", NULL},
    {"dynamic", "false"}, {"actorder", "false true \"group\" \"dynamic\" \"weight\" \"static\""},
    {"block_structure", NULL}, {"observer", NULL}, {"observer_kwargs", NULL}, {"scale_dtype", NULL},
    {"zp_dtype", NULL}, {NULL, NULL}};

static const struct quantization_field input_fields[] = {{"num_bits", NULL},
    {"type", "\"int\" \"float\""}, {"symmetric", "true false"},
    {"strategy", "\"tensor\" \"token\" \"group\""}, {"group_size", NULL}, {"dynamic", "true false"},
    {"actorder", "false"}, {"block_structure", "null"}, {"observer", NULL},
    {"observer_kwargs", NULL}, {"scale_dtype", NULL}, {"zp_dtype", NULL}, {NULL, NULL}};

/* Of weights and inputs. */
static const char *const not_null[] = {"num_bits", "type", "symmetric", "dynamic", NULL};

/* By "group" (or "dynamic", or true) a column's group is in g_idx; by "weight" (or "static") it is
 * as without an order. */
static int is_grouped_order(const json_t *order)
{
    const char *name = json_string_value(order);
    return json_is_true(order) ||
           (name && (strcmp(name, "group") == 0 || strcmp(name, "dynamic") == 0));
}

/* "int" or "float", as the format's name has it too where that names one. Both have 8 bits where a
 * weight is a byte. */
static int read_type(
    struct quantization *q, const struct json_file *f, const char *format, struct err *e)
{
    const char *type = "int";
    if (json_get_string(f, "type", &type, e) < 0)
        return ASSAY_EFORMAT;
    int is_float = strcmp(type, "float") == 0, is_packed = strcmp(format, "pack-quantized") == 0;
    const char *expected = strcmp(format, "float-quantized") == 0   ? "float"
                           : strcmp(format, "naive-quantized") == 0 ? type
                                                                    : "int";
    if (strcmp(type, expected) != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: %stype: expected \"%s\" with the format '%s', found \"%s\"", f->file, f->where,
            expected, format, type);
    if (!is_packed && q->bits != 8)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %snum_bits: expected 8 with the format '%s', found %d", f->file, f->where, format,
            q->bits);
    q->scale_name = "weight_scale";
    q->format = is_packed ? FORMAT_PACK_QUANTIZED : FORMAT_PLAIN;
    q->numbers = is_float ? PACKED_E4M3 : is_packed ? PACKED_UNSIGNED : PACKED_SIGNED;
    snprintf(q->name, sizeof q->name, is_float ? "%.20s-fp8" : "%.20s-int%d", format, q->bits);
    return 0;
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
            "%s: %sactorder: expected none with the strategy '%s', found one", f->file, f->where,
            strategy);
    return err_set(e, ASSAY_EFORMAT,
        "%s: %sgroup_size: expected %s with the strategy '%s', found %lld", f->file, f->where,
        is_group ? "a size" : "none", strategy, (long long)(q->group_size ? q->group_size : -1));
}

/* What the strategies 'tensor' and 'block' add; others may not name blocks. */
static int read_block(
    struct quantization *q, const struct json_file *f, const char *strategy, struct err *e)
{
    const json_t *v = json_object_get(f->object, "block_structure");
    int is_block = strcmp(strategy, "block") == 0;
    q->group_rows = strcmp(strategy, "tensor") != 0;
    if (!is_block && (!v || json_is_null(v)))
        return 0;
    if (!is_block)
        return err_set(e, ASSAY_EFORMAT,
            "%s: %sblock_structure: expected none with the strategy '%s', found one", f->file,
            f->where, strategy);
    return quantization_read_block(q, f, "block_structure", e);
}

/* Packed formats have scales for each row; an order and float have their own bounds. */
static int check_built(
    const struct quantization *q, const struct json_file *f, const char *strategy, struct err *e)
{
    int is_plain = q->format == FORMAT_PLAIN;
    if (!is_plain && strcmp(strategy, "group") != 0 && strcmp(strategy, "channel") != 0)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %sstrategy: is not built: expected \"group\" or \"channel\" with the format "
            "'pack-quantized', found \"%s\"",
            f->file, f->where, strategy);
    if (is_plain && q->has_order)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %sactorder: is not built where weights are bytes: expected none, found one",
            f->file, f->where);
    if (q->numbers == PACKED_E4M3 && q->has_zeros)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %ssymmetric: is not built with the type \"float\": expected true, found false",
            f->file, f->where);
    return 0;
}

static int read_weights(
    struct quantization *q, const struct json_file *f, const char *format, struct err *e)
{
    const char *strategy = "";
    int symmetric = 1, rc = quantization_check_fields(f, weight_fields, e);
    if (rc == 0)
        rc = quantization_refuse_nulls(f, not_null, e);
    if (rc == 0)
        rc = quantization_read_bits(q, f, "num_bits", e);
    if (rc == 0)
        rc = read_type(q, f, format, e);
    if (rc == 0)
        rc = quantization_read_group_size(q, f, e);
    if (rc == 0)
        rc = quantization_need_string(f, "strategy", &strategy, e);
    if (rc == 0 && json_get_bool(f, "symmetric", &symmetric, e) < 0)
        rc = ASSAY_EFORMAT;
    q->has_zeros = !symmetric;
    q->has_order = is_grouped_order(json_object_get(f->object, "actorder"));
    if (rc == 0)
        rc = check_built(q, f, strategy, e);
    if (rc == 0)
        rc = check_strategy(q, f, strategy, e);
    return rc == 0 ? read_block(q, f, strategy, e) : rc;
}

/* A zero point of each row is an integer from -128 to 127, as it is without the field. */
static int is_zero_built(const struct json_file *f, const struct rounding *r)
{
    const json_t *v = json_object_get(f->object, "zp_dtype");
    const char *type = json_is_string(v) ? json_string_value(v) : "";
    return r->how != ROUND_BY_ROW || !v || json_is_null(v) || strcmp(type, "torch.int8") == 0 ||
           strcmp(type, "torch.int32") == 0;
}

/* Whether rounding by these is built: to 8 bits; where dynamic by token or in groups. */
static int is_rounding_built(const struct json_file *f, const struct rounding *r, int symmetric)
{
    const char *strategy = json_string_value(json_object_get(f->object, "strategy"));
    const char *expected = r->how == ROUND_BY_SCALE ? "tensor" : r->group > 0 ? "group" : "token";
    return strategy && strcmp(strategy, expected) == 0 &&
           (r->group == 0 || r->how != ROUND_BY_SCALE) &&
           json_integer_value(json_object_get(f->object, "num_bits")) == 8 &&
           (symmetric || r->numbers != PACKED_E4M3) && is_zero_built(f, r) &&
           !json_is_string(json_object_get(f->object, "scale_dtype"));
}

/* Columns that share a scale: with the strategy 'group' a number of them, else none. */
static int read_input_group(
    struct rounding *r, const struct json_file *f, const char *strategy, struct err *e)
{
    struct quantization size = {.group_size = 0};
    int is_group = strcmp(strategy, "group") == 0, rc = quantization_read_group_size(&size, f, e);
    r->group = size.group_size;
    if (rc == 0 && is_group != (r->group > 0))
        rc = err_set(e, ASSAY_EFORMAT,
            "%s: %sgroup_size: expected %s with the strategy '%.20s', found %lld", f->file,
            f->where, is_group ? "a size" : "none", strategy,
            (long long)(r->group > 0 ? r->group : -1));
    return rc;
}

static int read_rounding(struct quantization *q, const struct json_file *f, struct err *e)
{
    const char *type = "int", *strategy = "tensor";
    int is_dynamic = 0, symmetric = 1;
    if (json_get_bool(f, "dynamic", &is_dynamic, e) < 0 ||
        json_get_bool(f, "symmetric", &symmetric, e) < 0 ||
        json_get_string(f, "strategy", &strategy, e) < 0 ||
        json_get_string(f, "type", &type, e) < 0)
        return ASSAY_EFORMAT;
    struct rounding r = {.how = !is_dynamic ? ROUND_BY_SCALE
                                : symmetric ? ROUND_BY_MAGNITUDE
                                            : ROUND_BY_ROW,
        .numbers = strcmp(type, "float") == 0 ? PACKED_E4M3 : PACKED_SIGNED};
    int rc = read_input_group(&r, f, strategy, e);
    if (rc != 0)
        return rc;
    if (is_rounding_built(f, &r, symmetric))
        q->of_config = r;
    if (is_dynamic)
        return 0;
    q->input_scale_name = "input_scale";
    q->input_zero_name = symmetric ? NULL : "input_zero_point";
    return strcmp(strategy, "tensor") == 0
               ? 0
               : err_set(e, ASSAY_EUNSUPPORTED,
                     "%s: %sstrategy: expected \"tensor\" where dynamic is false, found \"%s\"",
                     f->file, f->where, strategy);
}

/* What quantizes the inputs when they are known has no tensors; else a number for all. */
static int read_inputs(struct quantization *q, const struct json_file *group, struct err *e)
{
    struct json_file f;
    const json_t *v = json_object_get(group->object, "input_activations");
    if (!v || json_is_null(v))
        return 0;
    q->has_inputs = 1;
    int rc = quantization_open(&f, group, "input_activations",
        "quantization_config.config_groups.*.input_activations.", e);
    if (rc == 0)
        rc = quantization_check_fields(&f, input_fields, e);
    if (rc == 0)
        rc = quantization_refuse_nulls(&f, not_null, e);
    return rc == 0 ? read_rounding(q, &f, e) : rc;
}

/* The one group, as an object named in errors. */
static int open_group(struct json_file *group, const struct json_file *f, struct err *e)
{
    struct json_file groups;
    int rc =
        quantization_open(&groups, f, "config_groups", "quantization_config.config_groups.", e);
    if (rc != 0)
        return rc;
    if (json_object_size(groups.object) != 1)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: %sconfig_groups: more than one is not built: expected 1, found %zu", f->file,
            f->where, json_object_size(groups.object));
    const char *name = json_object_iter_key(json_object_iter((json_t *)groups.object));
    return quantization_open(group, &groups, name, "quantization_config.config_groups.*.", e);
}

static int check_group_format(const struct json_file *group, const char *format, struct err *e)
{
    const char *own = format;
    if (json_get_string(group, "format", &own, e) < 0)
        return ASSAY_EFORMAT;
    if (strcmp(own, format) == 0)
        return 0;
    return err_set(e, ASSAY_EFORMAT, "%s: %sformat: expected '%s', as the file's, found '%s'",
        group->file, group->where, format, own);
}

/* What the targets name and `ignore` does not is quantized; what is not built for that is
 * refused. */
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

/* Weights of the format "dense" are stored whole; what they were pruned to changes nothing. */
static int check_sparsity(const struct json_file *f, struct err *e)
{
    const json_t *v = json_object_get(f->object, "sparsity_config");
    const char *format = json_string_value(json_object_get(v, "format"));
    if (!v || json_is_null(v) || (json_is_object(v) && json_object_size(v) == 0) ||
        (format && strcmp(format, "dense") == 0))
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "%s: %ssparsity_config: sparse weights are not built: expected the format \"dense\", found "
        "%s",
        f->file, f->where, format ? format : "none");
}

int quantization_read_compressed(struct model_config *c, const struct json_file *f, struct err *e)
{
    struct quantization *q = &c->quantization;
    struct json_file group, weights;
    const char *format = "", *status = "";
    int rc = quantization_check_fields(f, compressed_fields, e);
    if (rc == 0)
        rc = check_sparsity(f, e);
    if (rc == 0)
        rc = quantization_need_string(f, "format", &format, e);
    if (rc == 0)
        rc = quantization_need_string(f, "quantization_status", &status, e);
    if (rc == 0)
        rc = open_group(&group, f, e);
    if (rc == 0)
        rc = quantization_check_fields(&group, group_fields, e);
    if (rc == 0)
        rc = check_group_format(&group, format, e);
    if (rc == 0)
        rc = quantization_open(
            &weights, &group, "weights", "quantization_config.config_groups.*.weights.", e);
    if (rc == 0)
        rc = read_weights(q, &weights, format, e);
    if (rc == 0)
        rc = read_inputs(q, &group, e);
    return rc == 0 ? read_targets(c, f, &group, e) : rc;
}
