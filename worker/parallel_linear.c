/* parallel_linear.c - a product, the all-reduce after it where it is needed, and the bias
 * (parallel_linear.h). */
#include "worker/parallel_linear.h"

struct linear_pair column_parallel_linear(const struct ops *ops, struct device *d,
    const struct parallel_linear *l, struct tensor x, struct tensor out)
{
    ops->linear(d, out, x, l->parts, l->n_parts, l->skip_bias_add ? NULL : l->bias);
    return (struct linear_pair){out, l->skip_bias_add ? l->bias : NULL};
}

struct linear_pair row_parallel_linear(const struct ops *ops, struct device *d,
    const struct parallel_linear *l, struct tensor x, struct tensor out)
{
    ops->linear(d, out, x, l->parts, l->n_parts, NULL);
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
