/* dtype.h - the element types of tensors: their sizes, names, and conversion on the host.
 *
 * F16 is IEEE binary16, BF16 the upper half of a float32. F8 is e4m3 (finite only, largest 448) and
 * I8 a signed byte; quantization produces both, with one float32 scale per row. PACKED is a matrix
 * whose elements have no size of their own (struct packing in tensor.h). */
#ifndef ASSAY_DTYPE_H
#define ASSAY_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8, DTYPE_I8, DTYPE_PACKED };
enum { N_DTYPES = DTYPE_PACKED + 1 };

static inline int64_t dtype_bytes(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : t == DTYPE_F16 || t == DTYPE_BF16 ? 2 : 1;
}

const char *dtype_name(enum dtype t); /* "f32", "f16", "bf16", "fp8", "int8", "packed" */

/* Converts n elements between the three float types, rounding to nearest even. NaN stays NaN;
 * values that are too large become infinite. */
void dtype_convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
