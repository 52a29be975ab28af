/* bench.h - the test bench's controls, for tests and for the doubles of CUDA's libraries. */
#ifndef ASSAY_BENCH_BENCH_H
#define ASSAY_BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <functional>

#include <cuda_runtime_api.h>

/* Order of fibers, blocks and asynchronous copies from here on. 0: threads and blocks in order. */
void simt_set_seed(uint64_t seed);

/* Where a launch goes. The bench's own (submit.cc) runs it at once; the double of the runtime puts
 * it into its stream. */
cudaError_t simt_submit(cudaStream_t stream, const char *kernel, const std::function<void()> &run);

#endif
