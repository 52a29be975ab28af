/* kernels_avx512bf16.c - the kernels for x86-64 with AVX-512, VNNI and BF16, whose instruction
 * computes two products of bf16 at once (the Makefile compiles *_avx512bf16.c for it). Run only
 * where the CPU has them all. */
#if defined(__x86_64__)
#define KERNELS cpu_kernels_avx512bf16
#define KERNELS_ISA "avx512bf16"
#define TILE_LANES 16
#define TILE_MR 12
#include "worker/cpu/kernels.inc"
#endif
