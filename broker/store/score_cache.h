/* score_cache.h - scores that outlive their jobs: a file of (row's key, values) of bounded size.
 *
 * Losing it loses nothing, so no function here fails: an entry that cannot be read is not found,
 * and a cache that cannot go on is closed with one line in the log and its pointer set to NULL.
 * Keys include checkpoint and mode (content.c), so models can share a file without mixing. */
#ifndef ASSAY_SCORE_CACHE_H
#define ASSAY_SCORE_CACHE_H

#include <stdint.h>

#define STORE_CACHE_KEY_BYTES 16
#define STORE_CACHE_LEAST (4u << 20) /* the smallest `bytes` of score_cache_open */

struct score_cache;

/* Opens or creates the cache in data_dir, at most `bytes` large with its log. It adds nothing while
 * less than min_free_bytes of the disk are free. The caller owns it; NULL when it cannot be
 * opened. */
struct score_cache *score_cache_open(const char *data_dir, uint64_t bytes, uint64_t min_free_bytes);
void score_cache_close(struct score_cache **c); /* NULL-safe */

/* Finds the entry of key [STORE_CACHE_KEY_BYTES]: 1 with values [n] filled, or 0. */
int score_cache_find(struct score_cache **c, const uint8_t *key, float *values, uint32_t n);
/* Adds values [n] under this key, if they fit. */
void score_cache_add(struct score_cache **c, const uint8_t *key, const float *values, uint32_t n);
/* Commits what was added; call it after each batch. */
void score_cache_flush(struct score_cache **c);

#endif
