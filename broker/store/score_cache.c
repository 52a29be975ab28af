/* score_cache.c - see score_cache.h.
 *
 * Two SQLite files, score-cache-0.db and score-cache-1.db, hold two generations. New entries go to
 * the younger one; an entry found in the older one is added to the younger. When the younger is
 * full, the older is deleted and created again as the youngest. So an entry that was neither added
 * nor found while half of the size was filled goes, and all such entries go at once: deleting them
 * one by one would write a page for each and leave the file as large as it was.
 *
 *     pragma application_id = 0x41534331, user_version = n: the generation, larger in the younger
 *     score(key blob, value blob): value is the float32s and 8 bytes of BLAKE2b over key and floats
 *
 * The check makes every entry prove itself: a page torn by a power cut, lost by a disk or written
 * by another program yields nothing that was not stored for this key. So nothing is synced
 * (synchronous=off): a kill leaves a whole file (WAL), a power cut may cost the cache. Pages are
 * small, 1 kB: keys are random, and each entry writes a page. No other process reads the files
 * (locking_mode=exclusive), so a look-up needs no locks from the system.
 *
 * A file that is damaged or not a score cache is moved aside (.bad, one for each) and created
 * again.
 *
 * LIMITS: a result larger than 1/64 of the size is not kept. */
#include "broker/store/score_cache.h"

#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define APPLICATION 0x41534331
#define PAGE 1024
#define CHECK_BYTES 8
#define WAL_PAGES 256   /* checkpointed beyond that */
#define FLUSH_PAGES 512 /* about the most in one transaction */
#define MAX_TROUBLES 3  /* files recreated in one run; then the cache is closed */

struct generation {
    char path[4200];
    sqlite3 *db;
    sqlite3_stmt *find, *add;
    int64_t number;
};

struct score_cache {
    char dir[4096];
    uint64_t max_pages, max_value, min_free_bytes;
    struct generation young, old;
    int64_t pages, added_pages; /* the young one's at its last commit; added since (at most) */
    int in_transaction, no_room, troubles;
    uint8_t *scratch;
    size_t scratch_bytes;
};

/* ---- files ---- */

static void close_generation(struct generation *g)
{
    sqlite3_finalize(g->find);
    sqlite3_finalize(g->add);
    sqlite3_close(g->db);
    g->find = g->add = NULL;
    g->db = NULL;
}

/* Deletes the file with its log, or moves the file itself to `aside`. */
static int clear_away(const struct generation *g, const char *aside)
{
    char path[4300];
    int rc = aside ? rename(g->path, aside) : unlink(g->path);
    snprintf(path, sizeof path, "%s-wal", g->path);
    unlink(path);
    snprintf(path, sizeof path, "%s-shm", g->path);
    unlink(path);
    return rc;
}

static int integer_of(sqlite3 *db, const char *sql, int64_t *value)
{
    sqlite3_stmt *q = NULL;
    int ok =
        sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW;
    if (ok)
        *value = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return ok;
}

static int run(struct generation *g, const char *sql)
{
    return sqlite3_exec(g->db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

static int make_tables(struct generation *g, int64_t number)
{
    char sql[256];
    snprintf(sql, sizeof sql,
        "begin; pragma application_id=%d; pragma user_version=%lld;"
        "create table score(key blob primary key, value blob not null) without rowid; commit",
        APPLICATION, (long long)number);
    return run(g, sql);
}

/* 1 when open; 0 when it is not ours, is damaged or cannot be opened. number is for a new file. */
static int open_generation(struct generation *g, int64_t number)
{
    int64_t application = 0, version = 0, pages = 0;
    int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int ok = sqlite3_open_v2(g->path, &g->db, flags, NULL) == SQLITE_OK &&
             integer_of(g->db, "select count(*) from sqlite_master", &pages) &&
             integer_of(g->db, "pragma application_id", &application) &&
             integer_of(g->db, "pragma user_version", &version);
    if (ok && pages > 0)
        ok = application == APPLICATION && version > 0;
    ok = ok &&
         run(g, "pragma page_size=1024; pragma locking_mode=exclusive; pragma journal_mode=wal; "
                "pragma synchronous=off;"
                "pragma wal_autocheckpoint=256; pragma journal_size_limit=1048576;"
                "pragma cache_size=-8192; pragma cell_size_check=on; pragma trusted_schema=off");
    if (ok && pages == 0)
        ok = make_tables(g, version = number);
    g->number = version;
    ok = ok &&
         sqlite3_prepare_v2(g->db, "select value from score where key = ?", -1, &g->find, NULL) ==
             SQLITE_OK &&
         sqlite3_prepare_v2(
             g->db, "insert or replace into score values (?, ?)", -1, &g->add, NULL) == SQLITE_OK;
    return ok;
}

/* Opens the file; one that is not ours is moved aside, once. */
static int get_generation(struct generation *g, int64_t number)
{
    char aside[4300];
    if (open_generation(g, number))
        return 1;
    snprintf(aside, sizeof aside, "%s.bad", g->path);
    log_warn("event=score_cache_moved_aside file=%s to=%s error=\"%s\"", g->path, aside,
        g->db && sqlite3_errcode(g->db) != SQLITE_OK && sqlite3_errcode(g->db) != SQLITE_DONE &&
                sqlite3_errcode(g->db) != SQLITE_ROW
            ? sqlite3_errmsg(g->db)
            : "not a score cache");
    close_generation(g);
    return clear_away(g, aside) == 0 && open_generation(g, number);
}

/* Deletes and recreates a file larger than the present limit. */
static int keep_in_bounds(struct generation *g, uint64_t max_pages)
{
    int64_t pages = 0, number = g->number;
    if (integer_of(g->db, "pragma page_count", &pages) && (uint64_t)pages <= max_pages)
        return 1;
    close_generation(g);
    clear_away(g, NULL);
    return open_generation(g, number);
}

static void turn_off(struct score_cache **c, const char *why)
{
    log_warn("event=score_cache_off reason=\"%s\" action=\"scores are computed\"", why);
    score_cache_close(c);
}

static int count_pages(struct score_cache *c)
{
    c->added_pages = 0;
    return integer_of(c->young.db, "pragma page_count", &c->pages);
}

static void swap(struct score_cache *c)
{
    struct generation young = c->old;
    c->old = c->young;
    c->young = young;
}

struct score_cache *score_cache_open(const char *data_dir, uint64_t bytes, uint64_t min_free_bytes)
{
    struct score_cache *c = xcalloc(1, sizeof *c);
    snprintf(c->dir, sizeof c->dir, "%s", data_dir);
    /* Two files; a quarter of the size, less for large ones, is for the log. */
    uint64_t log_bytes = (WAL_PAGES + FLUSH_PAGES) * (uint64_t)PAGE * 3 / 2;
    c->max_pages = (bytes - log_bytes) / 2 / PAGE;
    c->max_value = bytes / 64;
    c->min_free_bytes = min_free_bytes;
    snprintf(c->young.path, sizeof c->young.path, "%s/score-cache-0.db", data_dir);
    snprintf(c->old.path, sizeof c->old.path, "%s/score-cache-1.db", data_dir);
    if (!get_generation(&c->old, 1) || !get_generation(&c->young, c->old.number + 1) ||
        !keep_in_bounds(&c->old, c->max_pages) || !keep_in_bounds(&c->young, c->max_pages)) {
        turn_off(&c, "its files cannot be opened");
        return NULL;
    }
    if (c->old.number > c->young.number)
        swap(c);
    run(&c->old, "pragma wal_checkpoint(truncate)");
    count_pages(c);
    log_info("event=score_cache bytes=%llu used=%lld", (unsigned long long)bytes,
        (long long)c->pages * PAGE);
    return c;
}

void score_cache_close(struct score_cache **out)
{
    struct score_cache *c = *out;
    if (!c)
        return;
    if (c->in_transaction)
        run(&c->young, "commit");
    close_generation(&c->young);
    close_generation(&c->old);
    free(c->scratch);
    free(c);
    *out = NULL;
}

/* ---- trouble ---- */

/* The generation failed. A damaged one is recreated; any other error closes the cache. */
static void take_trouble(struct score_cache **out, struct generation *g)
{
    struct score_cache *c = *out;
    int code = sqlite3_errcode(g->db);
    char why[4500];
    snprintf(why, sizeof why, "%s: %.200s", g->path, sqlite3_errmsg(g->db));
    int damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
    if (!damaged || ++c->troubles > MAX_TROUBLES) {
        turn_off(out, why);
        return;
    }
    char aside[4300];
    snprintf(aside, sizeof aside, "%s.bad", g->path);
    log_warn("event=score_cache_moved_aside file=%s to=%s error=\"%s\"", g->path, aside, why);
    int64_t number = g->number;
    if (g == &c->young)
        c->in_transaction = 0;
    close_generation(g);
    if (clear_away(g, aside) != 0 || !open_generation(g, number))
        turn_off(out, why);
    else
        count_pages(c);
}

/* ---- entries ---- */

static void make_check(const uint8_t *key, const void *values, size_t bytes, uint8_t *check)
{
    uint8_t digest[crypto_generichash_BYTES_MIN];
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, sizeof digest);
    crypto_generichash_update(&h, key, STORE_CACHE_KEY_BYTES);
    crypto_generichash_update(&h, values, bytes);
    crypto_generichash_final(&h, digest, sizeof digest);
    memcpy(check, digest, CHECK_BYTES);
}

/* 1 found, 0 not, -1 error. */
static int look(struct generation *g, const uint8_t *key, float *values, size_t bytes)
{
    uint8_t check[CHECK_BYTES];
    sqlite3_bind_blob(g->find, 1, key, STORE_CACHE_KEY_BYTES, SQLITE_STATIC);
    int rc = sqlite3_step(g->find), found = 0;
    if (rc == SQLITE_ROW && (size_t)sqlite3_column_bytes(g->find, 0) == bytes + CHECK_BYTES) {
        const uint8_t *value = sqlite3_column_blob(g->find, 0);
        make_check(key, value, bytes, check);
        found = memcmp(check, value + bytes, CHECK_BYTES) == 0;
        if (found)
            memcpy(values, value, bytes);
    }
    sqlite3_reset(g->find);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? found : -1;
}

int score_cache_find(struct score_cache **c, const uint8_t *key, float *values, uint32_t n)
{
    if (!*c)
        return 0;
    struct generation *g = &(*c)->young;
    int found = look(g, key, values, n * sizeof *values);
    if (found == 0) {
        g = &(*c)->old;
        found = look(g, key, values, n * sizeof *values);
        if (found == 1)
            score_cache_add(c, key, values, n);
    }
    if (found < 0)
        take_trouble(c, g);
    return found == 1;
}

/* The young one is full: deletes the old one and starts a new young one. */
static void turn_over(struct score_cache **out)
{
    struct score_cache *c = *out;
    int64_t number = c->young.number + 1;
    close_generation(&c->old);
    clear_away(&c->old, NULL);
    swap(c);
    run(&c->old, "pragma wal_checkpoint(truncate)");
    if (!open_generation(&c->young, number) || !count_pages(c))
        turn_off(out, "a new file cannot be made");
}

/* Whether the disk has room to add; logs only changes. */
static int has_room(struct score_cache *c)
{
    struct statvfs v;
    int no_room = statvfs(c->dir, &v) == 0 && v.f_blocks > 0 &&
                  (uint64_t)v.f_bavail * v.f_frsize < c->min_free_bytes;
    if (no_room != c->no_room)
        log_warn("event=score_cache_%s action=\"%s\"", no_room ? "disk_full" : "disk_has_room",
            no_room ? "nothing more is added" : "scores are added again");
    c->no_room = no_room;
    return !no_room;
}

static int is_full(const struct score_cache *c, int64_t pages)
{
    return c && (uint64_t)(c->pages + c->added_pages + pages) > c->max_pages;
}

/* Starts a transaction on the young one, if none is open, with room for this many more pages: 1 or
 * 0. */
static int begin_adding(struct score_cache **c, int64_t pages)
{
    if ((*c)->added_pages + pages > FLUSH_PAGES)
        score_cache_flush(c);
    if (is_full(*c, pages))
        score_cache_flush(c); /* this recounts: added_pages is an upper bound */
    if (is_full(*c, pages))
        turn_over(c);
    if (!*c || (*c)->in_transaction)
        return *c != NULL;
    if (!has_room(*c))
        return 0;
    (*c)->in_transaction = run(&(*c)->young, "begin");
    if (!(*c)->in_transaction)
        take_trouble(c, &(*c)->young);
    return *c && (*c)->in_transaction;
}

static uint8_t *make_value(
    struct score_cache *c, const uint8_t *key, const float *values, size_t bytes)
{
    if (bytes + CHECK_BYTES > c->scratch_bytes) {
        free(c->scratch);
        c->scratch_bytes = bytes + CHECK_BYTES;
        c->scratch = xcalloc(1, c->scratch_bytes);
    }
    memcpy(c->scratch, values, bytes);
    make_check(key, values, bytes, c->scratch + bytes);
    return c->scratch;
}

void score_cache_add(struct score_cache **c, const uint8_t *key, const float *values, uint32_t n)
{
    size_t bytes = n * sizeof *values;
    int64_t pages = 1 + (int64_t)(bytes / PAGE);
    if (!*c || bytes > (*c)->max_value || !begin_adding(c, pages))
        return;
    struct generation *g = &(*c)->young;
    uint8_t *value = make_value(*c, key, values, bytes);
    sqlite3_bind_blob(g->add, 1, key, STORE_CACHE_KEY_BYTES, SQLITE_STATIC);
    sqlite3_bind_blob64(g->add, 2, value, bytes + CHECK_BYTES, SQLITE_STATIC);
    int rc = sqlite3_step(g->add);
    if (rc != SQLITE_DONE)
        take_trouble(c, g);
    else
        sqlite3_reset(g->add);
    if (*c)
        (*c)->added_pages += pages;
}

/* A file that was removed or replaced gets no more entries: they would be lost with the broker. */
static int is_gone(const struct generation *g)
{
    int gone = 0;
    return sqlite3_file_control(g->db, "main", SQLITE_FCNTL_HAS_MOVED, &gone) == SQLITE_OK && gone;
}

static int renew(struct score_cache *c, struct generation *g)
{
    if (!is_gone(g))
        return 1;
    log_warn("event=score_cache_gone file=%s action=\"begun anew\"", g->path);
    close_generation(g);
    return get_generation(g, g->number) && count_pages(c);
}

void score_cache_flush(struct score_cache **c)
{
    if (!*c || !(*c)->in_transaction)
        return;
    (*c)->in_transaction = 0;
    if (!run(&(*c)->young, "commit") || !count_pages(*c))
        take_trouble(c, &(*c)->young);
    else if (!renew(*c, &(*c)->young) || !renew(*c, &(*c)->old))
        turn_off(c, "a file that was removed cannot be made anew");
}
