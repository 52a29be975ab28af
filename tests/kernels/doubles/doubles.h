/* doubles.h - checking doubles of the CUDA runtime, cuBLASLt and NCCL: every call that Assay makes
 * is carried out on the host, late and in an order drawn from a seed as far as the real rules
 * allow, and its arguments are checked. What is against the rules ends the program with a message
 * (double_misuse); what a real device might refuse is refused with its error code.
 *
 * A whole process is steered by its environment:
 *     ASSAY_DOUBLE_DEVICES=N        how many devices there are (default 1, 0: none)
 *     ASSAY_DOUBLE_ODD=N            device N is of another kind than the others
 *     ASSAY_DOUBLE_CAPABILITY=N     of all devices, as 90 for 9.0 (the default)
 *     ASSAY_DOUBLE_OLD=N            the first N have 7.5
 *     ASSAY_DOUBLE_SHARED=N         bytes of shared memory that a block may have
 *     ASSAY_DOUBLE_FAIL=NAME:K:CODE the K-th call of NAME returns CODE, and so does all after it
 *     ASSAY_DOUBLE_FAIL_ONCE=FILE   the same for the first call from the K-th on that finds FILE,
 *                                   and takes it away: one process fails, once
 *     ASSAY_DOUBLE_OFFER=NAMES      the algorithms of cublaslt.cc that the heuristic offers
 *     ASSAY_DOUBLE_FREE=N           MiB of device memory that are said to be free (512)
 *     ASSAY_DOUBLE_SPOIL=NAME       kernels with this in their name leave one number wrong
 *     ASSAY_DOUBLE_THREAD=1         a thread carries on with the work by itself, as a device
 *                                   does */
#ifndef ASSAY_DOUBLES_H
#define ASSAY_DOUBLES_H

#include <cuda_runtime_api.h>
#include <functional>

#include "tests/kernels/bench/bench.h"
#include "tests/kernels/doubles/controls.h"

/* ---- for the doubles themselves ---- */

[[noreturn]] void double_misuse(const char *call, const char *what);
/* 0, or the error that this call is to return. */
int double_enter(const char *function);
/* [at, at + bytes) must lie in one allocation of the device, or of pinned host memory. */
void double_check_device(const char *call, const void *at, size_t bytes);
/* Put work into a stream; cost counts for cudaEventElapsedTime, in ms. Work of no cost changes no
 * memory of the device's. */
void double_queue(cudaStream_t stream, const std::function<void()> &run, float cost);
/* The same, for work that may have to wait: run returns whether it is done. */
void double_queue_waiting(cudaStream_t stream, const std::function<bool()> &run);
int double_device();       /* the one set */
uint64_t double_changes(); /* rises with all work that may have changed the device's memory */

#endif
