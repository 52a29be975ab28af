/* twins.c - see twins.h.
 *
 * The key is the first 128 bits of BLAKE2b over, in this order, each number as little-endian int32:
 *     model      32 bytes: BLAKE2b-256 of version of the program, checkpoint digest, mode, each ended by 0;
 *                an adapter's digest would follow
 *     numbers    n_tokens, n_positions, n_values, pooling, activation, step token (-1 unless STEP)
 *     ids        [n_tokens]
 *     positions  [n_positions]
 * All lengths come before what they measure, so no two rows have the same encoding. 128 bits, and a hash
 * that nobody can steer: a client that could make two rows collide could give another's row its score.
 *
 * Rows under way are found through a hash table of pointers that holds just those. Those that are
 * finished are in sets of eight by their key, the latest first; a new one drives out the last of its
 * set. So of duplicates with D different rows between them, with a full table of 2^20, those of D = 300,000
 * are found but for 0.3 %, 500,000: 4 %, 10^6: a half; whatever the queue's length. An index in the
 * database would know no such distance, but a key is random, so each finished row would write a page for
 * its 16 bytes: measured with 10^6 keys, 9 kB of log a row and more processor time than claim and finish
 * take together. And it would be read from the disk where it has grown beyond the cache.
 *
 * After a restart the table is empty: a row whose twin was finished before is computed once more, unless
 * there is a score cache. Keys are compared within one job, for a queue that is scored twice on
 * purpose (to compare, to measure) has to be; across jobs there is the score cache. */
#include "broker/twins.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "schema/log.h"
#include "schema/version.h"

#define WAYS 8
#define FIRST_ROOM 4096
#define MODEL_BYTES 32

struct remembered {
    uint8_t key[ROW_KEY_BYTES];
    int64_t row; /* 0: free */
    float value; /* of a result of one number */
};

struct twins {
    struct twins_options options;
    uint8_t model[MODEL_BYTES];
    struct row **leaders; /* open addressing, NULL is free, removal by moving back */
    size_t n_leaders, room;
    struct remembered *table; /* [table_room], in sets of WAYS */
    uint32_t table_room, n_remembered;
    int added; /* to the cache, since the last flush */
};

struct twins *twins_new(const struct twins_options *options)
{
    struct twins *t = xcalloc(1, sizeof *t);
    const char *parts[] = {ASSAY_VERSION, options->digest, options->mode};
    crypto_generichash_state h;
    t->options = *options;
    t->room = 1024;
    t->leaders = xcalloc(t->room, sizeof(struct row *));
    t->table_room = options->remembered < FIRST_ROOM ? options->remembered : FIRST_ROOM;
    t->table = xcalloc(t->table_room, sizeof *t->table);
    crypto_generichash_init(&h, NULL, 0, MODEL_BYTES);
    for (int i = 0; i < 3; i++)
        crypto_generichash_update(&h, (const uint8_t *)parts[i], strlen(parts[i]) + 1);
    crypto_generichash_final(&h, t->model, MODEL_BYTES);
    return t;
}

void twins_free(struct twins **t)
{
    if (!*t)
        return;
    free((*t)->leaders);
    free((*t)->table);
    free(*t);
    *t = NULL;
}

/* ---- keys ---- */

static void make_key(const struct twins *t, struct row *r)
{
    struct {
        uint8_t model[MODEL_BYTES];
        int32_t n_tokens, n_positions, n_values, pool_type, activation, step_token;
    } head = {.n_tokens = (int32_t)r->n_tokens,
        .n_positions = (int32_t)r->n_positions,
        .n_values = (int32_t)r->n_values,
        .pool_type = r->pool_type,
        .activation = r->activation,
        .step_token = r->pool_type == POOL_STEP ? r->step_token : -1};
    crypto_generichash_state h;
    memcpy(head.model, t->model, sizeof head.model);
    crypto_generichash_init(&h, NULL, 0, ROW_KEY_BYTES);
    crypto_generichash_update(&h, (const uint8_t *)&head, sizeof head);
    crypto_generichash_update(&h, (const uint8_t *)r->ids, r->n_tokens * sizeof *r->ids);
    crypto_generichash_update(
        &h, (const uint8_t *)r->positions, r->n_positions * sizeof *r->positions);
    crypto_generichash_final(&h, r->key, sizeof r->key);
    r->has_key = 1;
}

/* Whose lower bits are a place in a table, out of key and job. */
static size_t spot(const uint8_t *key, int64_t row)
{
    uint64_t bits;
    memcpy(&bits, key, sizeof bits);
    return (size_t)((bits ^ (uint64_t)row_job(row)) * 0x9e3779b97f4a7c15ull >> 20);
}

static int is_same(const uint8_t *key, int64_t row, const struct row *r)
{
    return memcmp(key, r->key, ROW_KEY_BYTES) == 0 && row_job(row) == row_job(r->row);
}

/* ---- rows under way ---- */

/* Where the row's leader is, or would be. */
static size_t leader_slot(const struct twins *t, const struct row *r)
{
    size_t at = spot(r->key, r->row) & (t->room - 1);
    while (t->leaders[at] && !is_same(t->leaders[at]->key, t->leaders[at]->row, r))
        at = (at + 1) & (t->room - 1);
    return at;
}

static void grow(struct twins *t)
{
    struct row **old = t->leaders;
    size_t n = t->room;
    t->room *= 2;
    t->leaders = xcalloc(t->room, sizeof(struct row *));
    for (size_t i = 0; i < n; i++)
        if (old[i])
            t->leaders[leader_slot(t, old[i])] = old[i];
    free(old);
}

void twins_lead(struct twins *t, struct row *r)
{
    if (2 * (t->n_leaders + 1) > t->room)
        grow(t);
    t->leaders[leader_slot(t, r)] = r;
    t->n_leaders++;
    r->leads = 1;
}

static void stop_leading(struct twins *t, struct row *r)
{
    size_t hole = leader_slot(t, r);
    t->leaders[hole] = NULL;
    t->n_leaders--;
    r->leads = 0;
    for (size_t at = (hole + 1) & (t->room - 1); t->leaders[at]; at = (at + 1) & (t->room - 1)) {
        struct row *moved = t->leaders[at];
        t->leaders[at] = NULL;
        t->leaders[leader_slot(t, moved)] = moved;
    }
}

/* ---- finished rows ---- */

static struct remembered *set_of(const struct twins *t, const uint8_t *key, int64_t row)
{
    return t->table + (spot(key, row) & (t->table_room / WAYS - 1)) * WAYS;
}

static void put_first(struct remembered *set, int at, struct remembered entry)
{
    memmove(set + 1, set, (size_t)at * sizeof *set);
    set[0] = entry;
}

static void add_remembered(struct twins *t, struct remembered entry)
{
    struct remembered *set = set_of(t, entry.key, entry.row);
    t->n_remembered += set[WAYS - 1].row == 0;
    put_first(set, WAYS - 1, entry);
}

/* Twice the room, as long as it may be more: a short queue is not to touch all of the memory that a
 * long one may have. */
static void grow_table(struct twins *t)
{
    struct remembered *old = t->table;
    uint32_t n = t->table_room;
    t->table_room *= 2;
    t->n_remembered = 0;
    t->table = xcalloc(t->table_room, sizeof *t->table);
    for (uint32_t i = n; i-- > 0;) /* the latest of a set last */
        if (old[i].row != 0)
            add_remembered(t, old[i]);
    free(old);
}

static void remember(struct twins *t, const struct row *r, const float *values)
{
    struct remembered entry = {.row = r->row, .value = values[0]};
    memcpy(entry.key, r->key, sizeof entry.key);
    if (8ull * t->n_remembered > 3ull * t->table_room && t->table_room < t->options.remembered)
        grow_table(t);
    add_remembered(t, entry);
}

/* For a result of this origin. */
static void make_room(struct row *r, enum row_origin origin)
{
    free(r->known);
    r->known = xcalloc(r->n_values + 1, sizeof *r->known);
    r->origin = origin;
}

static int find_remembered(struct twins *t, struct row *r, struct err *e)
{
    struct remembered *set = set_of(t, r->key, r->row);
    int at = 0, rc = 1;
    while (at < WAYS && (set[at].row == 0 || !is_same(set[at].key, set[at].row, r)))
        at++;
    if (at == WAYS)
        return 0;
    struct remembered found = set[at];
    put_first(set, at, found);
    make_room(r, ROW_COPIED);
    if (r->n_values == 1)
        r->known[0] = found.value;
    else
        rc = store_read_vector(t->options.store, found.row, r->known, r->n_values, e);
    return rc;
}

/* ---- all three ---- */

static struct store_cache *cache_of(const struct twins *t)
{
    return t->options.cache ? *t->options.cache : NULL;
}

static int find_cached(struct twins *t, struct row *r)
{
    if (!cache_of(t) || r->fresh || r->not_cached)
        return 0;
    make_room(r, ROW_CACHED);
    int found = store_cache_find(t->options.cache, r->key, r->known, r->n_values);
    r->not_cached = !found;
    return found;
}

int twins_find(struct twins *t, struct row *r, struct row **leader, struct err *e)
{
    if (!r->has_key)
        make_key(t, r);
    *leader = t->leaders[leader_slot(t, r)];
    if (*leader)
        return TWINS_UNDER_WAY;
    int rc = find_remembered(t, r, e);
    if (rc == 0)
        rc = find_cached(t, r);
    if (rc == 1)
        return TWINS_KNOWN;
    free(r->known);
    r->known = NULL;
    r->origin = ROW_COMPUTED;
    return rc;
}

void twins_end(struct twins *t, struct row *r, const float *values)
{
    int led = r->leads;
    if (led)
        stop_leading(t, r);
    if (!values || !r->has_key)
        return;
    if (led || r->origin == ROW_CACHED)
        remember(t, r, values);
    if (led && cache_of(t)) {
        store_cache_add(t->options.cache, r->key, values, r->n_values);
        t->added = 1;
    }
}

void twins_flush(struct twins *t)
{
    if (t->added && cache_of(t))
        store_cache_flush(t->options.cache);
    t->added = 0;
}
