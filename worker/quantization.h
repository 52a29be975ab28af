/* quantization.h - what config.json's quantization_config says about a checkpoint whose layers are
 * stored in few bits: compressed-tensors, transformers' FP8, GPTQ and AWQ. A weight's value is
 *     (stored - zero point) * scale
 * in float32, with a scale and a zero point for each row's group of columns, or for a block of rows
 * and columns.
 *
 * A config may also say that the inputs of the layers' products are quantized when they are
 * computed. `--activations` chooses whether they are.
 *
 * Embedding, norms and head are never quantized: a config that says otherwise is refused, as is
 * every field that is not known or whose value would change the numbers. */
#ifndef ASSAY_QUANTIZATION_H
#define ASSAY_QUANTIZATION_H

#include <stdint.h>

#include "schema/err.h"
#include "worker/tensor.h"

enum quantization_format {
    FORMAT_NONE,
    FORMAT_PACK_QUANTIZED,
    FORMAT_PLAIN, /* a byte a weight: compressed-tensors' int-, float- and naive-quantized, FP8 */
    FORMAT_GPTQ,
    FORMAT_AWQ
};

struct quantization {
    enum quantization_format format;
    char name[32]; /* "pack-quantized-int4": part of a score's mode */
    enum packed_numbers numbers;
    int bits;               /* 4 or 8 */
    int64_t group_size;     /* columns that share a scale; 0: the whole row */
    int64_t group_rows;     /* FORMAT_PLAIN: rows that share it; 0: all */
    int has_zeros;          /* there are zero points in the file; else each is the middle */
    int has_order;          /* there is a g_idx: which group each column is of */
    const char *scale_name; /* FORMAT_PLAIN: the tensor's, after the matrix's */
    /* Tensors of the inputs' quantization, a number each; NULL: there are none */
    const char *input_scale_name, *input_zero_name;
    int has_inputs;                 /* the config says that they are quantized */
    const char *dequantizing_field; /* by which they are not, all the same; NULL: there is none */
    struct rounding of_config;      /* how, without scale and zero; ROUND_NOT: that is not built */
    struct rounding inputs;         /* of_config, where that was chosen */
    const char *chosen;             /* what --activations decided, where it had to */
    /* The tensors' names decide between two formats of the method (quantization_settle). */
    int is_undecided;
    int zero_offset; /* is added to each stored zero point: 1 in GPTQ's first format */
    /* F8: the device multiplies the stored numbers by inputs that it rounded (`inputs`); F32: it
     * multiplies values. Set by model_choose_type. */
    enum dtype products;
};

struct model_config;
struct json_file;
struct weights;

/* Sets c->quantization and c->quantized from f, which is config.json. The head must have been read.
 * ASSAY_EUNSUPPORTED or ASSAY_EFORMAT by file, field, found and expected. */
int model_config_read_quantization(
    struct model_config *c, const struct json_file *f, struct err *e);

/* Decides what config.json leaves to the tensors: fp8 without weight_block_size is AutoFP8's where
 * scales are called weight_scale. ASSAY_EFORMAT where both names are there. Before
 * quantization_choose. Rewinds. */
int quantization_settle(struct quantization *q, struct weights *w, struct err *e);

/* Sets q->chosen and q->inputs by --activations: "auto", "as-stored" or "weights-only".
 * ASSAY_EUNSUPPORTED where the config says that activations are quantized and the option does not
 * decide, or what it asks for is not built. */
int quantization_choose(struct quantization *q, const char *option, struct err *e);

static inline int64_t quantization_groups(const struct quantization *q, int64_t cols)
{
    return q->group_size > 0 ? (cols + q->group_size - 1) / q->group_size : 1;
}

/* FORMAT_PLAIN: the rows of the table of scales. */
static inline int64_t quantization_scale_rows(const struct quantization *q, int64_t rows)
{
    return q->group_rows > 0 ? (rows + q->group_rows - 1) / q->group_rows : 1;
}

#endif
