/* kernels_avx512vnni.c - the kernels for x86-64 with AVX-512 and VNNI, whose instruction computes
 * products of int8 and their sum at once (the Makefile compiles *_avx512vnni.c for it). Run only
 * where the CPU has them all. */
#if defined(__x86_64__)
#define KERNELS cpu_kernels_avx512vnni
#define KERNELS_ISA "avx512vnni"
#define TILE_LANES 16
#define TILE_MR 12
#include "worker/cpu/kernels.inc"
#endif
