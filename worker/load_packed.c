/* load_packed.c - matrices that a checkpoint stores in few bits (quantization.h).
 *
 * The numbers stay in the mapped file, or as they are in a device's memory; the product unpacks
 * them (cpu/kernels_packed.inc, ../cuda/unpack.cu). What belongs to the groups becomes a table in
 * the device's memory: scale and zero point as float32, for each group the rows of this rank's part
 * one after the other, whatever their types and order in the file. That is 8 bytes a group and row:
 * with groups of 128 columns, an eighth of what four bits a weight take.
 *
 * compressed-tensors, pack-quantized: `weight_packed` [rows, words of columns]; `weight_scale` and,
 * where not symmetric, `weight_zero_point` [rows, groups], the latter packed along the rows;
 * `weight_shape` [2]; with an order `weight_g_idx` [columns], each column's group.
 *
 * compressed-tensors, int-, float- and naive-quantized: `weight` [rows, columns] of bytes, four of
 * which are a word here; `weight_scale` and, where not symmetric, `weight_zero_point` [rows, 1],
 * [rows, groups], [blocks of rows, blocks of columns] or a single number.
 *
 * transformers' FP8: the same with `weight_scale_inv` (which is no inverse) of [blocks of rows,
 * blocks of columns], or a single number.
 *
 * GPTQ: `qweight` [words of columns, rows]; `scales` [groups, rows]; `qzeros` [groups, words of
 * rows], less 1 in the first format; `g_idx` [columns]. AWQ (gemm): `qweight` [columns, words of
 * rows], `scales` and `qzeros` likewise, no order; a word has eight rows, 0 2 4 6 1 3 5 7. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "worker/load.h"

#define WORD_BITS 32
#define WORD_BYTES 4

struct packed_matrix {
    struct place place; /* the whole matrix's */
    char name[PLACE_NAME_BYTES];
    struct weight_tensor words, scale, zeros, shape, order, input_scale, input_zero;
};

/* A rank's part of a matrix, and its tables while they are made. */
struct part {
    const struct packed_matrix *m;
    int64_t row, rows, column, cols, groups;
    struct packing packing;
};

/* ---- places ---- */

static void add_tensor(struct loader *l, int layer, const struct packed_matrix *m,
    const char *suffix, struct place place)
{
    char name[PLACE_NAME_BYTES];
    snprintf(name, sizeof name, "%.60s.%s", m->name, suffix);
    load_add_place(l, layer, name, place);
}

static int64_t words_of(const struct quantization *q, int64_t numbers)
{
    int64_t per_word = WORD_BITS / q->bits;
    return (numbers + per_word - 1) / per_word;
}

static void add_compressed(
    struct loader *l, int layer, struct packed_matrix *m, const struct quantization *q)
{
    int64_t rows = m->place.rows, cols = m->place.cols, groups = quantization_groups(q, cols);
    add_tensor(l, layer, m, "weight_packed",
        (struct place){rows, words_of(q, cols), .raw = &m->words, .stored = "I32"});
    add_tensor(l, layer, m, "weight_scale", (struct place){rows, groups, .raw = &m->scale});
    add_tensor(
        l, layer, m, "weight_shape", (struct place){.rows = 2, .raw = &m->shape, .stored = "I64"});
    if (q->has_zeros)
        add_tensor(l, layer, m, "weight_zero_point",
            (struct place){words_of(q, rows), groups, .raw = &m->zeros, .stored = "I32"});
    if (q->has_order)
        add_tensor(l, layer, m, "weight_g_idx",
            (struct place){.rows = cols, .raw = &m->order, .stored = "I32"});
}

static void add_plain(
    struct loader *l, int layer, struct packed_matrix *m, const struct quantization *q)
{
    int64_t rows = m->place.rows, cols = m->place.cols;
    struct place scale = {
        quantization_scale_rows(q, rows), quantization_groups(q, cols), .raw = &m->scale};
    if (q->group_rows == 0)
        scale = (struct place){.rows = 1, .is_scalar = 1, .raw = &m->scale};
    add_tensor(l, layer, m, "weight",
        (struct place){
            rows, cols, .raw = &m->words, .stored = q->numbers == PACKED_E4M3 ? "F8_E4M3" : "I8"});
    add_tensor(l, layer, m, q->scale_name, scale);
    scale.raw = &m->zeros;
    scale.stored = "I8";
    if (q->has_zeros)
        add_tensor(l, layer, m, "weight_zero_point", scale);
}

/* A number each: how inputs are rounded, where they are. */
static void add_inputs(
    struct loader *l, int layer, struct packed_matrix *m, const struct quantization *q)
{
    struct place scale = {.rows = 1, .is_scalar = 1, .raw = &m->input_scale}, zero = scale;
    zero.raw = &m->input_zero;
    zero.stored = "I8";
    if (q->input_scale_name)
        add_tensor(l, layer, m, q->input_scale_name, scale);
    if (q->input_zero_name)
        add_tensor(l, layer, m, q->input_zero_name, zero);
}

/* GPTQ's, and AWQ's, which has no g_idx. */
static void add_gptq(
    struct loader *l, int layer, struct packed_matrix *m, const struct quantization *q)
{
    int64_t rows = m->place.rows, cols = m->place.cols, groups = quantization_groups(q, cols);
    struct place words = {words_of(q, cols), rows, .raw = &m->words, .stored = "I32"};
    if (q->format == FORMAT_AWQ) {
        words.rows = cols;
        words.cols = words_of(q, rows);
    }
    add_tensor(l, layer, m, "qweight", words);
    add_tensor(l, layer, m, "scales", (struct place){groups, rows, .raw = &m->scale});
    add_tensor(l, layer, m, "qzeros",
        (struct place){groups, words_of(q, rows), .raw = &m->zeros, .stored = "I32"});
    if (q->format == FORMAT_GPTQ)
        add_tensor(l, layer, m, "g_idx",
            (struct place){
                .rows = cols, .raw = &m->order, .stored = "I32", .is_optional = !q->has_order});
}

void load_add_packed(struct loader *l, int layer, enum layer_matrix which, struct place place)
{
    const struct quantization *q = &l->m->config.quantization;
    if (!l->packed)
        l->packed = xcalloc((size_t)l->m->config.n_layers * N_LAYER_MATRICES, sizeof *l->packed);
    struct packed_matrix *m = &l->packed[l->n_packed++];
    m->place = place;
    m->place.is_elsewhere = l->elsewhere;
    snprintf(m->name, sizeof m->name, "%s", layer_matrix_names[which]);
    if (q->format == FORMAT_PACK_QUANTIZED)
        add_compressed(l, layer, m, q);
    else if (q->format == FORMAT_PLAIN)
        add_plain(l, layer, m, q);
    else
        add_gptq(l, layer, m, q);
    add_inputs(l, layer, m, q);
}

/* ---- tables ---- */

static void *to_device(struct loader *l, const void *host, size_t bytes)
{
    const struct device_ops *ops = l->m->ops->device;
    void *to = ops->alloc(l->m->device, bytes);
    if (to)
        ops->upload(l->m->device, to, host, bytes);
    return to;
}

/* Where the scale of a row in a group is in its tensor. */
static int64_t scale_at(
    const struct part *p, const struct quantization *q, int64_t group, int64_t row)
{
    if (q->format == FORMAT_GPTQ || q->format == FORMAT_AWQ)
        return group * p->m->place.rows + p->row + row;
    return (q->group_rows > 0 ? (p->row + row) / q->group_rows : 0) * p->groups + group;
}

static float scale_of(
    const struct part *p, const struct quantization *q, int64_t group, int64_t row)
{
    const struct weight_tensor *t = &p->m->scale;
    float scale;
    int64_t at = scale_at(p, q, group, row);
    dtype_convert(&scale, DTYPE_F32, (const char *)t->data + at * dtype_bytes((enum dtype)t->dtype),
        (enum dtype)t->dtype, 1);
    return scale;
}

/* Where AWQ puts number i of eight. */
static int64_t awq_place(int64_t i)
{
    static const uint8_t places[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return i / 8 * 8 + places[i % 8];
}

/* A word's numbers are zero points of neighbouring rows; the words of compressed-tensors are
 * [words of rows, groups], the others' [groups, words of rows]. */
static uint32_t stored_zero(
    const struct part *p, const struct quantization *q, int64_t group, int64_t row)
{
    const struct weight_tensor *t = &p->m->zeros;
    int64_t per_word = WORD_BITS / q->bits, i = p->row + row;
    if (!q->has_zeros)
        return 1u << (q->bits - 1);
    if (q->format == FORMAT_AWQ)
        i = awq_place(i);
    int64_t at = q->format == FORMAT_PACK_QUANTIZED ? i / per_word * p->groups + group
                                                    : group * t->shape[1] + i / per_word;
    uint32_t word;
    memcpy(&word, (const char *)t->data + at * WORD_BYTES, sizeof word);
    return word >> i % per_word * q->bits & ((1u << q->bits) - 1);
}

/* Of bytes, as unpacking takes them: signed ones as 128 more. */
static float plain_zero(
    const struct part *p, const struct quantization *q, int64_t group, int64_t row)
{
    const int8_t *zeros = p->m->zeros.data;
    int zero = q->has_zeros ? zeros[scale_at(p, q, group, row)] : 0;
    return q->numbers == PACKED_SIGNED ? (float)(zero + 128) : 0;
}

/* In GPTQ's first format the largest number may be one more, or 0 that went below: then the zero
 * points beside it may be wrong too, and its libraries read it otherwise. */
static int find_zero(const struct part *p, const struct quantization *q, int64_t group, int64_t row,
    float *zero, struct err *e)
{
    if (q->format == FORMAT_PLAIN) {
        *zero = plain_zero(p, q, group, row);
        return 0;
    }
    uint32_t stored = stored_zero(p, q, group, row);
    *zero = (float)(stored + (uint32_t)q->zero_offset);
    if (q->zero_offset == 0 || stored < (1u << q->bits) - 1)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: tensor '%.120s': expected zero points below %u, found %u for group %lld and row %lld: "
        "in this format (gptq) it may stand for %u or for 0; save it again as gptq_v2",
        p->m->zeros.file, p->m->zeros.name, stored, stored, (long long)group,
        (long long)(p->row + row), stored + 1);
}

static int no_memory(const struct part *p, struct err *e)
{
    return err_set(e, ASSAY_ENOMEM, "weights: no memory for the scales of '%s'", p->m->scale.name);
}

static int make_tables(struct loader *l, struct part *p, struct err *e)
{
    const struct quantization *q = &l->m->config.quantization;
    int64_t stride = p->packing.group_stride = round_up(p->rows, PACKING_ROWS);
    size_t bytes = (size_t)(p->groups * stride) * sizeof(float);
    float *scale = xcalloc(1, bytes), *zero = xcalloc(1, bytes);
    int rc = 0;
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t g = 0; rc == 0 && g < p->groups; g++) {
            scale[g * stride + row] = scale_of(p, q, g, row);
            rc = find_zero(p, q, g, row, &zero[g * stride + row], e);
        }
    if (rc == 0 && (!(p->packing.scale = to_device(l, scale, bytes)) ||
                       !(p->packing.zero = to_device(l, zero, bytes))))
        rc = no_memory(p, e);
    free(scale);
    free(zero);
    return rc;
}

/* Whether the columns are of the groups that they would be of without an order. */
static int is_plain_order(const struct part *p, const int32_t *order)
{
    int64_t k = 0;
    while (k < p->cols && order[k] == (p->packing.first + k) / p->packing.group_size)
        k++;
    return k == p->cols;
}

static int check_order(const struct part *p, const int32_t *order, struct err *e)
{
    const struct weight_tensor *t = &p->m->order;
    for (int64_t k = 0; k < p->cols; k++)
        if (order[k] < 0 || order[k] >= p->groups)
            return err_set(e, ASSAY_EFORMAT,
                "%s: tensor '%.120s': expected groups below %lld, found %d for column %lld",
                t->file, t->name, (long long)p->groups, order[k], (long long)(p->column + k));
    return 0;
}

/* Takes this rank's columns of g_idx, if they say anything. */
static int take_order(struct loader *l, struct part *p, struct err *e)
{
    const struct weight_tensor *t = &p->m->order;
    size_t bytes = (size_t)p->cols * sizeof(int32_t);
    int32_t *order = xcalloc(1, bytes);
    memcpy(order, (const char *)t->data + p->column * (int64_t)sizeof *order, bytes);
    int rc = check_order(p, order, e), plain = is_plain_order(p, order);
    if (rc == 0 && !plain && !l->m->config.quantization.has_order)
        rc = err_set(e, ASSAY_EFORMAT,
            "%s: tensor '%.120s': an order of the columns contradicts desc_act, which is false",
            t->file, t->name);
    if (rc == 0 && !plain && !(p->packing.group_of = to_device(l, order, bytes)))
        rc = no_memory(p, e);
    free(order);
    return rc;
}

/* ---- inputs ---- */

/* A scale that is no positive number would make every input NaN. */
static int take_scale(struct part *p, struct rounding *r, struct err *e)
{
    const struct weight_tensor *t = &p->m->input_scale;
    dtype_convert(&r->scale, DTYPE_F32, t->data, (enum dtype)t->dtype, 1);
    r->zero = p->m->input_zero.data ? (float)*(const int8_t *)p->m->input_zero.data : 0;
    if (r->scale > 0 && r->scale <= 0x1.fffffep127f)
        return 0;
    return err_set(e, ASSAY_EFORMAT, "%s: tensor '%.120s': expected a positive scale, found %g",
        t->file, t->name, (double)r->scale);
}

/* Whether this rank has every group of columns whole or not at all. */
static int has_whole_groups(const struct part *p, int64_t group)
{
    int64_t end = p->column + p->cols;
    return p->column % group == 0 && (end % group == 0 || end == p->m->place.cols);
}

/* Where a rank has a part of the inputs, a scale for each row is of all the ranks' parts; groups
 * must not be cut. */
static int check_inputs(const struct loader *l, struct part *p, struct err *e)
{
    struct rounding *r = &p->packing.inputs;
    int is_cut = p->cols < p->m->place.cols;
    r->is_split = is_cut && r->group == 0;
    if (r->is_split && l->m->config.quantization.products == DTYPE_F8)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "tp %u does not fit '%.120s': a rank has a part of each input, which it would round to "
            "FP8 by itself; expected tp 1, or --activations weights-only",
            l->m->n_ranks, p->m->words.name);
    if (is_cut && r->group > 0 && !has_whole_groups(p, r->group))
        return err_set(e, ASSAY_EUNSUPPORTED,
            "tp %u does not fit '%.120s': its inputs are rounded in groups of %lld columns: "
            "expected each rank's to begin at such a group, found %lld; or --activations "
            "weights-only",
            l->m->n_ranks, p->m->words.name, (long long)r->group,
            (long long)(p->column > 0 ? p->column : p->cols));
    return 0;
}

static int take_inputs(const struct loader *l, struct part *p, struct err *e)
{
    struct rounding *r = &p->packing.inputs;
    *r = l->m->config.quantization.inputs;
    return r->how == ROUND_NOT        ? 0
           : r->how == ROUND_BY_SCALE ? take_scale(p, r, e)
                                      : check_inputs(l, p, e);
}

/* ---- views ---- */

static int check_shape(const struct packed_matrix *m, struct err *e)
{
    int64_t shape[2];
    const struct weight_tensor *t = &m->shape;
    if (!t->data)
        return 0;
    memcpy(shape, t->data, sizeof shape);
    if (shape[0] == m->place.rows && shape[1] == m->place.cols)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: tensor '%.120s': expected the numbers %lld and %lld, found %lld and %lld", t->file,
        t->name, (long long)m->place.rows, (long long)m->place.cols, (long long)shape[0],
        (long long)shape[1]);
}

/* Rows of bytes must be whole words, and a rank's part must begin with a word. */
static int check_part(const struct loader *l, const struct part *p, struct err *e)
{
    int64_t per_word = WORD_BITS / l->m->config.quantization.bits,
            first = p->packing.order == PACKED_AWQ ? p->row : p->column;
    if (l->m->config.quantization.format == FORMAT_PLAIN && p->m->place.cols % per_word != 0)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: tensor '%.120s': is not built: expected columns that are a multiple of %lld, "
            "found %lld",
            p->m->words.file, p->m->words.name, (long long)per_word, (long long)p->m->place.cols);
    if (first % per_word == 0)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "tp %u does not fit '%.120s': expected each rank's %s to begin at a multiple of %lld, "
        "found %lld",
        l->m->n_ranks, p->m->words.name, p->packing.order == PACKED_AWQ ? "rows" : "columns",
        (long long)per_word, (long long)first);
}

static void set_view(struct loader *l, const struct part *p)
{
    int64_t per_word = WORD_BITS / p->packing.bits, stride = p->m->words.shape[1], at;
    if (l->m->config.quantization.format == FORMAT_PLAIN)
        stride /= per_word;
    struct packing *packing = &l->m->packings[p->m - l->packed];
    *packing = p->packing;
    if (p->packing.order == PACKED_ROWS)
        at = p->row * stride + p->column / per_word;
    else if (p->packing.order == PACKED_COLUMNS)
        at = p->column / per_word * stride + p->row;
    else
        at = p->column * stride + p->row / per_word;
    *p->m->place.view = (struct weight){(const char *)p->m->words.data + at * WORD_BYTES,
        DTYPE_PACKED, p->rows, p->cols, stride, NULL, DTYPE_F32, packing};
}

static enum packing_order order_of(enum quantization_format format)
{
    return format == FORMAT_GPTQ ? PACKED_COLUMNS : format == FORMAT_AWQ ? PACKED_AWQ : PACKED_ROWS;
}

static int finish_matrix(struct loader *l, const struct packed_matrix *m, struct err *e)
{
    const struct quantization *q = &l->m->config.quantization;
    struct part p = {.m = m,
        .rows = m->place.rows,
        .cols = m->place.cols,
        .groups = quantization_groups(q, m->place.cols)};
    if (m->place.cut == CUT_COLUMNS)
        load_cut(l->m, m->place.cut, m->place.cols, &p.column, &p.cols);
    else
        load_cut(l->m, m->place.cut, m->place.rows, &p.row, &p.rows);
    p.packing = (struct packing){.order = order_of(q->format),
        .numbers = q->numbers,
        .bits = q->bits,
        .group_size = q->group_size > 0 ? q->group_size : m->place.cols,
        .first = p.column};
    int rc = check_shape(m, e);
    if (rc == 0)
        rc = check_part(l, &p, e);
    if (rc == 0)
        rc = take_inputs(l, &p, e);
    if (rc == 0)
        rc = make_tables(l, &p, e);
    if (rc == 0 && m->order.data)
        rc = take_order(l, &p, e);
    if (rc == 0)
        set_view(l, &p);
    return rc;
}

int load_finish_packed(struct loader *l, struct err *e)
{
    int rc = 0;
    if (l->n_packed > 0)
        l->m->packings = xcalloc(l->n_packed, sizeof *l->m->packings);
    for (size_t i = 0; rc == 0 && i < l->n_packed; i++)
        if (!l->packed[i].place.is_elsewhere)
            rc = finish_matrix(l, &l->packed[i], e);
    return rc;
}

/* ---- what it takes ---- */

#define ALLOC_BYTES 256 /* room for an allocation's rounding */

static int64_t table_bytes(const struct quantization *q, int64_t rows, int64_t cols)
{
    return 2 * quantization_groups(q, cols) * round_up(rows, PACKING_ROWS) *
               (int64_t)sizeof(float) +
           cols * (int64_t)sizeof(int32_t) + 3 * ALLOC_BYTES;
}

size_t load_packed_bytes(const struct model_config *c, uint32_t n_layers)
{
    const struct quantization *q = &c->quantization;
    int64_t h = c->hidden_size, mlp = c->intermediate_size, dim = c->head_dim,
            layer = table_bytes(q, c->n_heads * dim, h) +
                    2 * table_bytes(q, c->n_kv_heads * dim, h) +
                    table_bytes(q, h, c->n_heads * dim) + 2 * table_bytes(q, mlp, h) +
                    table_bytes(q, h, mlp);
    return q->format == FORMAT_NONE ? 0 : (size_t)(layer * n_layers);
}
