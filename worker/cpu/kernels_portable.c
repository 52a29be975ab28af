/* kernels_portable.c - the kernels in plain C, for any CPU. The same bits as every other set, by
 * fmaf. */
#define KERNELS cpu_kernels_portable
#define KERNELS_ISA "portable"
#include "worker/cpu/kernels.inc"
