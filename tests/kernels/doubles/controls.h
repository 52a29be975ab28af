/* controls.h - what tests, in C too, steer the doubles by (doubles.h). */
#ifndef ASSAY_DOUBLES_CONTROLS_H
#define ASSAY_DOUBLES_CONTROLS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Order of streams, threads and copies from here on. */
void double_set_seed(uint64_t seed);
/* The k-th call (from 1) of this function from now on fails with this code, and so does every later
 * call of any. */
void double_fail(const char *function, int k, int error);
/* From here on, kernels with this in their name leave one number wrong; "": none does. */
void double_spoil(const char *kernel);
int double_calls(const char *function); /* so far */
size_t double_live_allocations(void);   /* of all kinds */

#ifdef __cplusplus
}
#endif

#endif
