/* packed.h - checkpoints that are quantized as published (worker/quantization.h): their numbers
 * stay packed in the device's memory, in rows of words. Before a product the matrices of its
 * stack are unpacked, one below the other, into a place that all stacks share. */
#ifndef ASSAY_CUDA_PACKED_H
#define ASSAY_CUDA_PACKED_H

#include "cuda/gpu.h"

static inline int packed_any(const struct weight *parts, int n_parts)
{
    int i = 0;
    while (i < n_parts && parts[i].dtype != DTYPE_PACKED)
        i++;
    return i < n_parts;
}

/* The words of a packed matrix, as a matrix of 4-byte elements (F32, which nothing computes
 * with). */
struct weight packed_words(const struct weight *w);

/* Unpacks the parts into d->unpacked, in the type that their `factors` name; parts of that type are
 * copied. Returns the whole matrix, valid until the next call. */
struct weight packed_unpack(struct device *d, const struct weight *parts, int n_parts);

#endif
