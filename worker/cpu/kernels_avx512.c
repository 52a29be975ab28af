/* kernels_avx512.c - the kernels for x86-64 with AVX-512 (the Makefile compiles *_avx512.c for its
 * F, BW, DQ and VL). Run only where the CPU has them all. */
#if defined(__x86_64__)
#define KERNELS cpu_kernels_avx512
#define KERNELS_ISA "avx512"
#define TILE_LANES 16
#define TILE_MR 12
#include "worker/cpu/kernels.inc"
#endif
