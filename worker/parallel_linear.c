/* parallel_linear.c - a product, what adapters add to it, the all-reduce after it where it is
 * needed, and the bias
 * (parallel_linear.h). */
#include "worker/parallel_linear.h"

/* One adapter's part of these rows: scratch = a x, then out += b scratch. */
static void add_shard(const struct ops *ops, struct device *d, const struct lora_shard *shard,
    struct tensor x, struct tensor out, struct tensor scratch)
{
    int64_t rank = 0;
    scratch.rows = x.rows;
    scratch.cols = 0;
    for (int k = 0; k < shard->n; k++)
        scratch.cols += shard->a[k].rows;
    ops->linear_narrow(d, scratch, x, shard->a, shard->n);
    for (int k = 0; k < shard->n; rank += shard->a[k++].rows)
        ops->linear_add(d, tensor_columns(out, shard->at[k], shard->b[k].rows),
            tensor_columns(scratch, rank, shard->a[k].rows), &shard->b[k]);
}

static void add_adapters(const struct ops *ops, struct device *d, const struct parallel_linear *l,
    struct tensor x, struct tensor out, const struct lora_rows *lora)
{
    for (uint32_t i = 0; lora && l->lora && i < lora->n; i++) {
        const struct lora_span *s = &lora->spans[i];
        const struct lora_shard *shard = &l->lora[s->adapter - 1];
        int64_t first = (int64_t)s->first - lora->from, end = first + s->n;
        first = first < 0 ? 0 : first;
        end = end > x.rows ? x.rows : end;
        if (first < end && shard->n > 0)
            add_shard(ops, d, shard, tensor_rows(x, first, end - first),
                tensor_rows(out, first, end - first), lora->scratch);
    }
}

struct linear_pair column_parallel_linear(const struct ops *ops, struct device *d,
    const struct parallel_linear *l, struct tensor x, struct tensor out,
    const struct lora_rows *lora)
{
    ops->linear(d, out, x, l->parts, l->n_parts, l->skip_bias_add ? NULL : l->bias);
    add_adapters(ops, d, l, x, out, lora);
    return (struct linear_pair){out, l->skip_bias_add ? l->bias : NULL};
}

struct linear_pair row_parallel_linear(const struct ops *ops, struct device *d,
    const struct parallel_linear *l, struct tensor x, struct tensor out,
    const struct lora_rows *lora)
{
    ops->linear(d, out, x, l->parts, l->n_parts, NULL);
    add_adapters(ops, d, l, x, out, lora);
    ops->all_reduce(d, out);
    if (l->bias && !l->skip_bias_add)
        ops->add_bias(d, out, l->bias);
    return (struct linear_pair){out, l->skip_bias_add ? l->bias : NULL};
}

struct tensor relu(const struct ops *ops, struct device *d, struct linear_pair pair)
{
    if (pair.bias)
        ops->add_bias(d, pair.output, pair.bias);
    ops->relu(d, pair.output);
    return pair.output;
}
