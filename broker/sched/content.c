/* content.c - see content.h.
 *
 * The hash is XXH3-64 with a secret seed. The key is the first 128 bits of BLAKE2b over the
 * following, in this order, each number as little-endian int32:
 *     model      32 bytes: BLAKE2b-256 of program version, checkpoint digest and mode, each ended
 *                by 0; then, of a row with an adapter, that one's digest, ended by 0
 *     numbers    n_tokens, n_positions, n_values, pooling, activation, step token (-1 unless STEP)
 *     ids        [n_tokens]
 *     positions  [n_positions]
 * Each length precedes what it measures, so no two sequences have the same encoding. The hash is
 * cryptographic, because a client that could make two rows collide could give its score to another
 * client's row. */
#include "broker/sched/content.h"

#include <sodium.h>
#include <string.h>

#include "broker/xxh.h"
#include "schema/version.h"

struct numbers {
    int32_t n_tokens, n_positions, n_values;
    struct pooling pool; /* the step token only where it counts */
};

static struct numbers numbers_of(const struct sequence *r)
{
    struct numbers n = {
        (int32_t)r->n_tokens, (int32_t)r->n_positions, (int32_t)r->n_values, r->pool};
    if (r->pool.type != POOL_STEP)
        n.pool.step_token = POOL_NO_STEP_TOKEN;
    return n;
}

void content_model(uint8_t *model, const char *digest, const char *mode, const char *adapter)
{
    const char *parts[] = {ASSAY_VERSION, digest, mode, adapter};
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, CONTENT_MODEL_BYTES);
    for (int i = 0; i < 3 + (adapter != NULL); i++)
        crypto_generichash_update(&h, (const uint8_t *)parts[i], strlen(parts[i]) + 1);
    crypto_generichash_final(&h, model, CONTENT_MODEL_BYTES);
}

int content_is_same(const struct sequence *a, const struct sequence *b)
{
    struct numbers n = numbers_of(a), m = numbers_of(b);
    return a->mode == b->mode && memcmp(&n, &m, sizeof n) == 0 &&
           memcmp(a->ids, b->ids, a->n_tokens * sizeof *a->ids) == 0 &&
           memcmp(a->positions, b->positions, a->n_positions * sizeof *a->positions) == 0;
}

void content_hash(struct sequence *r, uint64_t seed)
{
    struct numbers numbers = numbers_of(r);
    if (r->hash_seed == seed)
        return;
    uint64_t h = XXH3_64bits_withSeed(&numbers, sizeof numbers, seed ^ (uint64_t)r->mode);
    h = XXH3_64bits_withSeed(r->ids, r->n_tokens * sizeof *r->ids, h);
    if (r->n_positions > 0)
        h = XXH3_64bits_withSeed(r->positions, r->n_positions * sizeof *r->positions, h);
    r->hash = h;
    r->hash_seed = seed;
}

void content_key(struct sequence *r, const uint8_t *model)
{
    struct numbers numbers = numbers_of(r);
    crypto_generichash_state h;
    if (r->has_key)
        return;
    crypto_generichash_init(&h, NULL, 0, ROW_KEY_BYTES);
    crypto_generichash_update(&h, model, CONTENT_MODEL_BYTES);
    crypto_generichash_update(&h, (const uint8_t *)&numbers, sizeof numbers);
    crypto_generichash_update(&h, (const uint8_t *)r->ids, r->n_tokens * sizeof *r->ids);
    crypto_generichash_update(
        &h, (const uint8_t *)r->positions, r->n_positions * sizeof *r->positions);
    crypto_generichash_final(&h, r->key, sizeof r->key);
    r->has_key = 1;
}
