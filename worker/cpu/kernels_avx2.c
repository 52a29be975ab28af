/* kernels_avx2.c - the kernels for x86-64 with AVX2 and FMA (the Makefile compiles *_avx2.c for
 * it). Run only where the CPU has both. */
#if defined(__x86_64__)
#define KERNELS cpu_kernels_avx2
#define KERNELS_ISA "avx2"
#define TILE_LANES 8
#define TILE_MR 6
#include "worker/cpu/kernels.inc"
#endif
