/* age.h - reads how long ago something was, or how long it may last, as people write it. */
#ifndef ASSAY_AGE_H
#define ASSAY_AGE_H

#include <stdint.h>

/* Reads "7d", "12h", "30m" or "0s" into seconds, at most 2^31 - 1. unit: that of a number without
 * one; 0: it must have one. Returns 0, or -1 if the text is something else; *seconds is set
 * only with 0. */
int age_read(const char *text, char unit, int64_t *seconds);

#endif
