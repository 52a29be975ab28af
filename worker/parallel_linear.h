/* parallel_linear.h - linear layers split over the ranks of a group, and the relu that takes their
 * output.
 *
 * column_parallel_linear: each rank holds some of the output features (rows of the weight and of
 * the bias). row_parallel_linear: each rank holds some of the input features (columns); one
 * all-reduce sums the ranks' partial products, and the bias is added once, after it. Both return
 * (output, bias). A layer with skip_bias_add returns its bias for the next operation to add (relu
 * does); otherwise the bias is already added and the returned bias is NULL. */
#ifndef ASSAY_PARALLEL_LINEAR_H
#define ASSAY_PARALLEL_LINEAR_H

#include "worker/ops.h"

#define LINEAR_MAX_PARTS 3

struct linear_pair {
    struct tensor output;
    const void *bias; /* deferred, or NULL; of output's dtype */
};

/* What an adapter (lora.h) adds to a layer's output: b (a x), in some places of it; the scale is in
 * b. All are float32. */
struct lora_shard {
    struct weight a[LINEAR_MAX_PARTS], b[LINEAR_MAX_PARTS];
    int64_t at[LINEAR_MAX_PARTS]; /* the output's column that b's first row gives */
    int n;
};

/* Rows first .. first + n - 1 go through this adapter, numbered from 1. */
struct lora_span {
    uint32_t first, n, adapter;
};

/* Which of a product's rows go through adapters. */
struct lora_rows {
    const struct lora_span *spans;
    uint32_t n;
    int64_t from;          /* the spans' number of the product's first row */
    struct tensor scratch; /* for a x: float32, as many rows and columns as any product needs */
};

/* One layer's shard: parts stacked along the output ({q,k,v}, {gate,up} or one), views into the
 * mapped file or, after device_ops.prepare_weights, the device's copy. */
struct parallel_linear {
    struct weight parts[LINEAR_MAX_PARTS];
    int n_parts;
    /* Device memory in the product's dtype: this rank's part (column) or the whole bias (row); NULL
     * if there is none. */
    void *bias;
    int skip_bias_add;
    struct lora_shard *lora; /* [adapters], borrowed; NULL: there are none */
};

/* `lora`: NULL if no row goes through an adapter. The base's product runs once for all rows. */
struct linear_pair column_parallel_linear(const struct ops *ops, struct device *d,
    const struct parallel_linear *l, struct tensor x, struct tensor out,
    const struct lora_rows *lora);
struct linear_pair row_parallel_linear(const struct ops *ops, struct device *d,
    const struct parallel_linear *l, struct tensor x, struct tensor out,
    const struct lora_rows *lora);
struct tensor relu(const struct ops *ops, struct device *d, struct linear_pair pair);

#endif
