/* gemm_cache.h - a small file of chosen algorithms: one line each, "<bytes in hex> <key>". A file
 * that is missing, unreadable or damaged is as good as an empty one: the trials are made again, and
 * may choose otherwise, which is another mode to the jobs begun before. */
#ifndef ASSAY_CUDA_GEMM_CACHE_H
#define ASSAY_CUDA_GEMM_CACHE_H

#include <stddef.h>

#include "schema/err.h"

/* 1 and *value filled when the file has more than `skip` lines of this key with this many bytes, else
 * 0. The first that can be used counts, so that of two who chose at the same time both use the same. */
int gemm_cache_find(const char *file, const char *key, int skip, void *value, size_t bytes);
/* Append. One write of one line: writers do not mix. 0, or ASSAY_EIO naming the file. */
int gemm_cache_add(
    const char *file, const char *key, const void *value, size_t bytes, struct err *e);

#endif
