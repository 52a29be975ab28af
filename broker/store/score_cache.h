/* score_cache.h - scores that outlive their jobs: a file of (key of a row, its values), bounded in size.
 *
 * Losing it loses nothing, so nothing here fails: what cannot be read is not found, and a cache that
 * cannot go on is closed, with one line in the log, its pointer set to NULL. Keys say which checkpoint and
 * mode they are of (dedupe.c), so models share a file without ever meeting. */
#ifndef ASSAY_SCORE_CACHE_H
#define ASSAY_SCORE_CACHE_H

#include <stdint.h>

#define STORE_CACHE_KEY_BYTES 16
#define STORE_CACHE_LEAST (4u << 20) /* smallest size */

struct score_cache;

/* Opens or makes it in data_dir, at most `bytes` large with everything that belongs to it, and adds
 * nothing while less than min_free_bytes of the disk are free. NULL when it cannot be had. */
struct score_cache *score_cache_open(const char *data_dir, uint64_t bytes, uint64_t min_free_bytes);
void score_cache_close(struct score_cache **c); /* NULL-safe */

/* 1 and the n values, or 0. */
int score_cache_find(struct score_cache **c, const uint8_t *key, float *values, uint32_t n);
void score_cache_add(struct score_cache **c, const uint8_t *key, const float *values, uint32_t n);
/* What was added is written; call it after each batch. */
void score_cache_flush(struct score_cache **c);

#endif
