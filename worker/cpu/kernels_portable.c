/* kernels_portable.c - the kernels in plain C, for any CPU. fmaf gives the same bits as every other
 * set. */
#define KERNELS cpu_kernels_portable
#define KERNELS_ISA "portable"
#define TILE_LANES 8
#define TILE_MR 6
#include "worker/cpu/kernels.inc"
