/* alloc.h - allocation that cannot fail, for sizes that this program chose. For sizes from outside
 * use malloc and return ASSAY_ENOMEM. */
#ifndef ASSAY_ALLOC_H
#define ASSAY_ALLOC_H

/* Returns zeroed memory, never NULL, also for n = 0; ends the process (die) when there is none. The
 * caller frees it. */
void *xcalloc(unsigned long n, unsigned long bytes) __attribute__((returns_nonnull));

#endif
