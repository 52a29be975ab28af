/* device.h - the CPU's struct device, and the functions of its tables that have files of their
 * own. */
#ifndef ASSAY_CPU_DEVICE_H
#define ASSAY_CPU_DEVICE_H

#include "worker/comm.h"
#include "worker/cpu/kernels.h"
#include "worker/cpu/thread_pool.h"
#include "worker/ops.h"

/* Scratch memory that grows to the largest size requested and never shrinks. Contents do not
 * survive a call. */
struct scratch {
    void *data;
    size_t bytes;
};

/* Increase it with every change that alters a score's bits. It is part of the mode, so a job begun
 * by an older build is held instead of finished with other bits. test_model knows the bits of each
 * value. */
#define CPU_ARITHMETIC 4

struct device {
    const struct cpu_kernels *kernels;
    struct thread_pool *pool;
    struct comm *comm; /* borrowed, may be NULL */
    uint8_t *arena;
    size_t arena_bytes, arena_used;
    int shapes_only;
    void *quantized; /* the weights that prepare_weights made; NULL: none */
    size_t quantized_bytes;
    int unpolled;               /* batches finished and not yet polled */
    struct scratch packed_x;    /* shared */
    struct scratch rounded_x;   /* shared */
    struct scratch *per_thread; /* [n_threads] */
};

static inline int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* All tensors on the CPU are float32. */
static inline float *row_of(struct tensor t, int64_t row)
{
    return (float *)t.data + row * t.stride;
}

/* The words of an int8 row of n elements: a word is a pair. */
static inline int64_t int8_words(int64_t n)
{
    return (n + 1) / 2;
}

void *scratch_take(struct scratch *s, size_t bytes);

extern const struct device_ops cpu_device_ops;
/* See prepare_weights.c. */
int cpu_prepare_weights(struct device *d, struct weight_stack *stacks, size_t n, struct err *e);

/* x with its rows rounded (round_rows.c), in memory that the next call takes again. */
struct tensor cpu_round_rows(struct device *d, struct tensor x, const struct rounding *r);

void cpu_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias);
void cpu_linear_narrow(
    struct device *d, struct tensor out, struct tensor x, const struct weight *parts, int n_parts);
void cpu_linear_add(struct device *d, struct tensor out, struct tensor x, const struct weight *w);
void cpu_attention(struct device *d, struct tensor out, const struct attention_input *in,
    const struct attention_shape *shape, const struct attn_metadata *meta);

#endif
