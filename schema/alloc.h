/* alloc.h - allocation that cannot fail, for sizes that this program chose. For sizes from outside
 * use malloc and return ASSAY_ENOMEM. */
#ifndef ASSAY_ALLOC_H
#define ASSAY_ALLOC_H

/* Returns zeroed memory, never NULL, also for n = 0; ends the process (die) when there is none. The
 * caller frees it. */
void *xcalloc(unsigned long n, unsigned long bytes) __attribute__((returns_nonnull));
/* The same for an array that grows: `room` elements of so many bytes, of which the first n are those
 * of `old`, which is freed (NULL where n is 0). Not realloc: what follows them is zeroed. */
void *xgrow(void *old, unsigned long n, unsigned long room, unsigned long bytes)
    __attribute__((returns_nonnull));

#endif
