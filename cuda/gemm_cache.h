/* gemm_cache.h - a small file of chosen algorithms, and of devices that passed (self_check.h), one
 * per line: "<bytes in hex> <key>". A missing, unreadable or damaged file counts as empty: the
 * trials run again and may choose differently, which changes the mode for jobs begun before. */
#ifndef ASSAY_CUDA_GEMM_CACHE_H
#define ASSAY_CUDA_GEMM_CACHE_H

#include <stddef.h>

#include "schema/err.h"

#define GEMM_CACHE_FILE "gemm-algorithms.txt" /* in device_options.cache_dir */

/* Returns 1 and fills *value if the file has more than `skip` lines with this key and this many
 * bytes, else 0. The first usable line counts, so two processes that chose at the same time use the
 * same one. */
int gemm_cache_find(const char *file, const char *key, int skip, void *value, size_t bytes);
/* Appends a line with one write, so that concurrent writers do not mix. Returns 0, or ASSAY_EIO
 * naming the file. */
int gemm_cache_add(
    const char *file, const char *key, const void *value, size_t bytes, struct err *e);

#endif
