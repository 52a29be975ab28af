/* wal.c - records how much of SQLite's log is on disk, so that a log with less is noticed.
 *
 * After a crash SQLite reads assay.db-wal up to the first frame whose checksum is wrong and takes
 * that for the end: frames that a crash left half written look the same. Acknowledged work would
 * silently be lost behind a flipped bit, or with a log that was cut, removed or replaced by an
 * older copy. So the file `synced` says how far the log was synced. It is one record, overwritten
 * in place, in this machine's byte order:
 *
 *      0  8 bytes  "assaywl2"
 *      8  2 x 4    salts of the log's frames: which log it is
 *     16  8 bytes  its synced frames, the last of which ends a commit; 0: nothing is known
 *     24  4 bytes  the last synced frame's page: its number, or 0: not known,
 *     28  4 bytes    its bytes,
 *     32  8 bytes    and XXH3-64 of them
 *     40  16 bytes the same of the last frame that was written, synced or not
 *     56  8 bytes  XXH3-64 of the bytes before
 *
 * The form before, "assaywal", had 32 bytes, without the pages.
 *
 * The record is written after the log is synced and before anyone is told so, and need not be
 * synced itself: after a kill it is exact but for a commit that was not recorded yet, after a power
 * cut it may say less than the log has, never more. But an older record must not outlive a log that
 * is emptied: before a checkpoint that may empty it, the record is cleared and synced; afterwards
 * it is written again if the log stayed (store_wal_forget, store_wal_recall).
 *
 * When a log is restarted its salt 1 grows by one, and all of the previous log is in the
 * database: such a log may have any length. A missing or empty log is fine if its contents were
 * copied into the database, as happens when another process opens that for writing and closes it
 * last. One of the record's two pages is then in the database as it was in the log: the synced one,
 * or, if later commits changed that, the written one. Times of files would prove nothing: a copied
 * directory has others. A checkpoint copies pages in the order of their numbers, and a commit's
 * last frame is of its highest page. Record forms without the pages cannot prove it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "broker/xxh.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* The log's format, from sqlite.org/fileformat2.html (4.1, WAL File Format). Numbers are
 * big-endian. */
enum { HEADER_BYTES = 32, FRAME_HEADER_BYTES = 24 };
#define MAGIC 0x377f0682u /* checksums over little-endian words; plus one: big-endian */
#define RECORD_MAGIC "assaywl2"
#define OLD_MAGIC "assaywal"
#define MAX_RESTARTS 0x10000u /* at most this many between the record and the log */

struct record {
    char magic[8];
    uint32_t salt[2];
    uint64_t frames;
    struct wal_page synced, written;
    uint64_t sum;
};
_Static_assert(sizeof(struct record) == 64, "the record's form");
struct old_record {
    char magic[8];
    uint32_t salt[2];
    uint64_t frames;
    uint64_t sum;
};
_Static_assert(sizeof(struct old_record) == 32, "the form before");

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* ---- the log, before SQLite opens it ---- */

struct reader {
    int fd, big_endian;
    uint32_t page_bytes, salt[2], sum[2];
    uint8_t *frame; /* header and page */
};

/* SQLite's checksum, over a multiple of 8 bytes. */
static void add_to_sum(struct reader *r, const uint8_t *at, size_t bytes)
{
    uint32_t a = r->sum[0], b = r->sum[1];
    for (const uint8_t *end = at + bytes; at < end; at += 8) {
        uint32_t x = get_u32(at), y = get_u32(at + 4);
        a += (r->big_endian ? x : __builtin_bswap32(x)) + b;
        b += (r->big_endian ? y : __builtin_bswap32(y)) + a;
    }
    r->sum[0] = a;
    r->sum[1] = b;
}

static int sum_is(const struct reader *r, const uint8_t *at)
{
    return r->sum[0] == get_u32(at) && r->sum[1] == get_u32(at + 4);
}

static int is_page_size(uint32_t bytes)
{
    return bytes >= 512 && bytes <= STORE_MAX_PAGE_BYTES && (bytes & (bytes - 1)) == 0;
}

/* 1 when the file begins with a valid header. */
static int read_header(struct reader *r)
{
    uint8_t h[HEADER_BYTES];
    if (pread(r->fd, h, sizeof h, 0) != (ssize_t)sizeof h || (get_u32(h) & ~1u) != MAGIC)
        return 0;
    r->big_endian = get_u32(h) & 1;
    r->page_bytes = get_u32(h + 8);
    r->salt[0] = get_u32(h + 16);
    r->salt[1] = get_u32(h + 20);
    r->sum[0] = r->sum[1] = 0;
    add_to_sum(r, h, 24);
    return sum_is(r, h + 24) && is_page_size(r->page_bytes);
}

static off_t frame_at(uint32_t page_bytes, uint64_t i)
{
    return HEADER_BYTES + (off_t)(i * (FRAME_HEADER_BYTES + page_bytes));
}

static int is_of_log(const uint8_t *frame, const uint32_t salt[2])
{
    return get_u32(frame + 8) == salt[0] && get_u32(frame + 12) == salt[1];
}

/* How many of the first `limit` frames are whole, counted from the start. */
static uint64_t count_frames(struct reader *r, uint64_t limit)
{
    uint64_t n = 0;
    size_t bytes = FRAME_HEADER_BYTES + r->page_bytes;
    r->frame = xcalloc(1, bytes);
    for (; n < limit; n++) {
        if (pread(r->fd, r->frame, bytes, frame_at(r->page_bytes, n)) != (ssize_t)bytes ||
            !is_of_log(r->frame, r->salt))
            break;
        add_to_sum(r, r->frame, 8);
        add_to_sum(r, r->frame + FRAME_HEADER_BYTES, r->page_bytes);
        if (!sum_is(r, r->frame + 16))
            break;
    }
    free(r->frame);
    return n;
}

/* Describes in `found` what there is instead of p's frames; "" when they are there, or the log was
 * restarted since. */
static void compare(struct reader *r, const struct wal_point *p, char *found, size_t size)
{
    found[0] = '\0';
    if (!read_header(r)) {
        snprintf(found, size, "one whose beginning is damaged");
    } else if (r->salt[0] == p->salt[0] && r->salt[1] == p->salt[1]) {
        uint64_t n = count_frames(r, p->frames);
        if (n < p->frames)
            snprintf(found, size, "%llu that are whole, and damage or the end behind them",
                (unsigned long long)n);
    } else if (r->salt[0] - p->salt[0] - 1 >= MAX_RESTARTS) {
        snprintf(found, size, "%s log",
            p->salt[0] - r->salt[0] - 1 < MAX_RESTARTS ? "an older" : "another");
    }
}

/* Whether the database holds this page. */
static int is_in_database(int fd, const struct wal_page *page)
{
    uint8_t content[STORE_MAX_PAGE_BYTES];
    return page->number > 0 && is_page_size(page->bytes) &&
           pread(fd, content, page->bytes, (off_t)(page->number - 1) * page->bytes) ==
               (ssize_t)page->bytes &&
           XXH3_64bits(content, page->bytes) == page->hash;
}

/* Whether the log's contents were copied into the database. */
static int has_been_brought_over(const char *dir, const struct wal_point *p)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/assay.db", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int is_there = fd >= 0 && (is_in_database(fd, &p->last) || is_in_database(fd, &p->written));
    if (fd >= 0)
        close(fd);
    return is_there;
}

static int find_fault(
    const char *dir, const struct wal_point *p, char *found, size_t size, struct err *e)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/assay.db-wal", dir);
    struct reader r = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
    found[0] = '\0';
    if ((r.fd < 0 && errno != ENOENT) || (r.fd >= 0 && fstat(r.fd, &st) != 0)) {
        int rc = err_errno(e, ASSAY_EIO, "%s", path);
        if (r.fd >= 0)
            close(r.fd);
        return rc;
    }
    if (r.fd >= 0 && st.st_size > 0)
        compare(&r, p, found, size);
    else if (!has_been_brought_over(dir, p))
        snprintf(found, size, "%s, and assay.db without their last one",
            r.fd < 0 ? "no such file" : "an empty file");
    if (r.fd >= 0)
        close(r.fd);
    return 0;
}

/* ---- the record ---- */

/* It was created as the power failed. */
static int is_empty(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0)
            return 0;
    return 1;
}

static int parse_old(const struct old_record *r, struct wal_point *p)
{
    if (memcmp(r->magic, OLD_MAGIC, 8) != 0 ||
        r->sum != XXH3_64bits(r, offsetof(struct old_record, sum)))
        return 0;
    *p = (struct wal_point){.salt = {r->salt[0], r->salt[1]}, .frames = r->frames};
    return 1;
}

/* 1 when the bytes are a record of either form. */
static int parse_record(const uint8_t *bytes, size_t n, struct wal_point *p)
{
    struct record r;
    struct old_record old;
    if (n == sizeof old) {
        memcpy(&old, bytes, sizeof old);
        return parse_old(&old, p);
    }
    if (n != sizeof r)
        return 0;
    memcpy(&r, bytes, sizeof r);
    if (memcmp(r.magic, RECORD_MAGIC, 8) != 0 ||
        r.sum != XXH3_64bits(&r, offsetof(struct record, sum)))
        return 0;
    *p = (struct wal_point){{r.salt[0], r.salt[1]}, r.frames, r.synced, r.written};
    return 1;
}

static int read_record(const char *dir, struct wal_point *p, struct err *e)
{
    char path[4200];
    uint8_t bytes[sizeof(struct record) + 1]; /* one more shows a file that is longer */
    snprintf(path, sizeof path, "%s/synced", dir);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    *p = (struct wal_point){.frames = 0};
    if (fd < 0)
        return errno == ENOENT ? 0 : err_errno(e, ASSAY_EIO, "%s", path);
    ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    close(fd);
    if (n < 0)
        return err_errno(e, ASSAY_EIO, "%s", path);
    if (is_empty(bytes, (size_t)n) || parse_record(bytes, (size_t)n, p))
        return 0;
    return err_set(e, ASSAY_EDAMAGED,
        "%s: expected how much of assay.db-wal was synced, found a record that is damaged; "
        "whether that is whole is not known",
        path);
}

int store_wal_check(const char *dir, struct wal_point *p, struct err *e)
{
    char found[96];
    int rc = read_record(dir, p, e);
    if (rc != 0 || p->frames == 0)
        return rc;
    rc = find_fault(dir, p, found, sizeof found, e);
    if (rc != 0 || !found[0])
        return rc;
    return err_set(e, ASSAY_EFORMAT,
        "%s/assay.db-wal: expected the %llu pages that were synced to it, found %s: work that was "
        "acknowledged may be missing (schema/SCHEMA.md says what else it may be). Put back the "
        "file that was there; or remove the file `synced` beside it to go on without that work",
        dir, (unsigned long long)p->frames, found);
}

/* A write that fails leaves an older record, which says less. */
static void write_record(struct store_wal *w, const struct wal_point *p)
{
    struct record r = {.salt = {p->salt[0], p->salt[1]},
        .frames = p->frames,
        .synced = p->last,
        .written = p->written};
    memcpy(r.magic, RECORD_MAGIC, 8);
    r.sum = XXH3_64bits(&r, offsetof(struct record, sum));
    w->is_kept = pwrite(w->fd, &r, sizeof r, 0) == (ssize_t)sizeof r ? p->frames > 0 : w->is_kept;
}

int store_wal_begin(struct store *s, const struct wal_point *p, struct err *e)
{
    char path[4200];
    struct store_wal *w = &s->wal;
    snprintf(path, sizeof path, "%s/synced", s->dir);
    w->fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (w->fd < 0 && errno != ENOSPC && errno != EDQUOT)
        return err_errno(e, ASSAY_EIO, "%s", path);
    w->synced = *p;
    w->is_kept = p->frames > 0;
    if (w->fd < 0)
        log_warn("event=no_record_of_syncs file=%s error=\"%s\"", path, strerror(errno));
    else if (!w->is_kept)
        write_record(w, p); /* it has its place on the disk from now on */
    return 0;
}

int store_wal_open(struct store *s, struct err *e)
{
    char path[4200];
    int64_t page_bytes;
    snprintf(path, sizeof path, "%s/assay.db-wal", s->dir);
    s->wal.log_fd = open(path, O_RDWR | O_CLOEXEC);
    if (s->wal.log_fd < 0)
        return err_errno(e, ASSAY_EIO, "%s", path);
    int rc = store_integer(s, 0, &page_bytes, e, "pragma page_size", "");
    s->wal.page_bytes = (uint32_t)page_bytes;
    return rc;
}

void store_wal_close(struct store *s)
{
    if (s->wal.fd >= 0)
        close(s->wal.fd);
    if (s->wal.log_fd >= 0)
        close(s->wal.log_fd);
    s->wal.fd = s->wal.log_fd = -1;
}

void store_wal_point(const struct store *s, struct wal_point *p)
{
    uint8_t frame[FRAME_HEADER_BYTES + STORE_MAX_PAGE_BYTES];
    size_t bytes = FRAME_HEADER_BYTES + s->wal.page_bytes;
    *p = (struct wal_point){.frames = 0};
    if (s->wal.fd < 0 || s->wal_pages <= 0)
        return;
    uint64_t last = (uint64_t)s->wal_pages - 1;
    if (pread(s->wal.log_fd, frame, bytes, frame_at(s->wal.page_bytes, last)) != (ssize_t)bytes ||
        get_u32(frame + 4) == 0) /* no commit ends there: another process restarted the log */
        return;
    struct wal_page page = {get_u32(frame), s->wal.page_bytes,
        XXH3_64bits(frame + FRAME_HEADER_BYTES, s->wal.page_bytes)};
    *p = (struct wal_point){{get_u32(frame + 8), get_u32(frame + 12)}, last + 1, page, page};
}

/* Whether the open log, with all of p's frames, still has its name. Nothing written to one that was
 * removed or replaced is acknowledged. */
static int is_the_log(const struct store_wal *w, const struct wal_point *p)
{
    struct stat st;
    return fstat(w->log_fd, &st) == 0 && st.st_nlink > 0 &&
           st.st_size >= frame_at(w->page_bytes, p->frames);
}

void store_wal_synced(struct store *s, const struct wal_point *p)
{
    if (p->frames == 0 || !is_the_log(&s->wal, p))
        return;
    struct wal_page written = s->wal.synced.written;
    s->wal.synced = *p;
    s->wal.synced.written = written; /* perhaps of a later commit */
    write_record(&s->wal, &s->wal.synced);
}

void store_wal_wrote(struct store *s, const struct wal_point *p)
{
    s->wal.synced.written = p->written;
    if (s->wal.is_kept)
        write_record(&s->wal, &s->wal.synced);
}

void store_wal_forget(struct store *s)
{
    static const struct wal_point nothing;
    if (!s->wal.is_kept || s->wal.fd < 0)
        return;
    write_record(&s->wal, &nothing);
    if (s->wal.is_kept) /* it could not be written */
        s->wal.is_kept = ftruncate(s->wal.fd, 0) != 0;
    if (fdatasync(s->wal.fd) != 0)
        log_warn("event=cannot_sync file=%s/synced error=\"%s\"", s->dir, strerror(errno));
}

void store_wal_emptied(struct store *s)
{
    store_wal_forget(s);
    s->wal.synced.frames = 0;
}

void store_wal_recall(struct store *s)
{
    if (s->wal.fd < 0 || s->wal.synced.frames == 0)
        return;
    if (store_wal_bytes(s) > 0)
        write_record(&s->wal, &s->wal.synced);
    else
        store_wal_emptied(s);
}
