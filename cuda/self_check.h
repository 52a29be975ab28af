/* self_check.h - tries the kernels on this device before anything is scored on it.
 *
 * Each kernel gets a small problem in every type that it takes, of numbers that are always the
 * same, and its result is compared with what the CPU's operation (worker/cpu/) makes of the same
 * numbers. A device, driver or build that computes otherwise is refused with the operation, the
 * number found and the number expected. A file remembers what passed, by device, driver and
 * program, so that the next start costs nothing. The large products are compared where their
 * algorithm is chosen (gemm_choose.c), and the same file (gemm_cache.h) remembers those. */
#ifndef ASSAY_CUDA_SELF_CHECK_H
#define ASSAY_CUDA_SELF_CHECK_H

#include "cuda/gpu.h"

/* d is open, with nothing in its streams. Returns 0, or ASSAY_EUNSUPPORTED naming the device, the
 * operation, the type and the place. A failing call of CUDA ends the process. */
int self_check(struct device *d, const struct device_options *o, struct err *e);

/* ---- of self_check.c and self_check_kernels.c ---- */

struct self_check {
    struct device *d, *cpu; /* cpu is cpu_ops' */
    uint8_t *memory;        /* SELF_CHECK_BYTES of the device's, of which `used` are taken */
    uint8_t *image;         /* pinned: the same bytes as the host sees them */
    size_t used;
    uint32_t random;
    enum dtype type;   /* of activations */
    enum dtype quant;  /* F8 or I8: what products take; F32: neither */
    uint32_t head_dim; /* at least 1 */
    struct err *e;
};
#define SELF_CHECK_BYTES ((size_t)4 << 20)

/* The kernels in c->type. Returns as self_check does. */
int self_check_kernels(struct self_check *c);

#endif
