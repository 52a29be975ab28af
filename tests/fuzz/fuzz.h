/* fuzz.h - what a fuzz target gives: the entry point that libFuzzer calls, and valid inputs to
 * begin with.
 *
 * With clang -fsanitize=fuzzer a target alone is a libFuzzer program. Linked with driver.c it is a
 * plain program that mutates the seeds by itself, deterministically, for any compiler. */
#ifndef ASSAY_FUZZ_H
#define ASSAY_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "schema/msg.h"

/* Feeds one input. Returns 0; a finding is an abort, an assert or a sanitizer's report. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

/* Writes valid input number n to the empty w and returns 1; 0 when there is no such number. */
int fuzz_seed(unsigned n, struct msg_writer *w);

#endif
