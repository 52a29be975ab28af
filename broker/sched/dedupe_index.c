/* dedupe_index.c - see dedupe_index.h.
 *
 *     slots     2^bits of 8 bytes: tag (32 bits of the hash, not 0) << 32 | row's index in its job;
 *               0 is free
 * The upper bits of a row's tag name a cache line; its slot is the first free one from the start of
 * that line, so most rows are found or missed with one memory access. Nothing is ever removed. At
 * three quarters full (11 to 21 bytes a row) a table of twice the size replaces this one.
 *
 * A file loses its name as soon as it exists: if it were cut short while mapped, SIGBUS would end
 * the broker, and another writer could put anything into it. A disk that returns other bytes than
 * it was given remains possible. So a search ends after REACH slots: at three quarters full, the
 * longest run is a few hundred. All other data of a table is in memory.
 *
 * Disk space is allocated before it is mapped, since a page without any would kill with SIGBUS.
 * Without disk space, the table goes on in memory.
 *
 * LIMITS: tags have 32 bits, so with n rows one search in 2^32 / n reads another row in vain; at
 * 10^7, one in 430. A disk that cannot return a page at all (EIO) still ends the broker with
 * SIGBUS. */
#include "broker/sched/dedupe_index.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sysexits.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define FIRST_BITS 5
#define MAX_BITS 33
#define LINE_SLOTS 8
#define REACH 4096

struct dedupe_index {
    struct dedupe_index_options options; /* dir NULL: no files, or no longer */
    int64_t scanned;
    uint64_t *slots;
    uint64_t n, bits;
    int in_file, is_full, lies;
};

static size_t bytes_of(uint64_t bits)
{
    return sizeof(uint64_t) << bits;
}

/* ---- memory ---- */

static void release(struct dedupe_index *t)
{
    if (t->in_file)
        munmap(t->slots, bytes_of(t->bits));
    else
        free(t->slots);
}

/* Allocates zeroed memory, aligned to cache lines; NULL: there is none. */
static void *take_memory(uint64_t bits)
{
    void *memory = aligned_alloc(LINE_SLOTS * sizeof(uint64_t), bytes_of(bits));
    if (memory)
        memset(memory, 0, bytes_of(bits));
    return memory;
}

static int has_room(const struct dedupe_index *t, uint64_t bits)
{
    struct statvfs v;
    return statvfs(t->options.dir, &v) != 0 || v.f_blocks == 0 ||
           (uint64_t)v.f_bavail * v.f_frsize >= t->options.min_free_bytes + bytes_of(bits);
}

/* Maps a new file of that size, zeroed and without a name; NULL, with the reason in errno. */
static void *take_file(const struct dedupe_index *t, uint64_t bits)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/twins-%lld.new", t->options.dir, (long long)t->options.job);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return NULL;
    void *memory = MAP_FAILED;
    errno = unlink(path) == 0 ? posix_fallocate(fd, 0, (off_t)bytes_of(bits)) : errno;
    if (errno == 0)
        memory = mmap(NULL, bytes_of(bits), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int why = errno;
    close(fd);
    errno = why;
    return memory != MAP_FAILED ? memory : NULL;
}

/* ---- slots ---- */

static uint32_t tag_of(uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    return tag ? tag : 1;
}

static uint64_t first_slot(const struct dedupe_index *t, uint32_t tag)
{
    uint64_t bits = t->bits;
    uint64_t at = bits <= 32 ? tag >> (32 - bits) : (uint64_t)tag << (bits - 32);
    return at & ~(uint64_t)(LINE_SLOTS - 1);
}

static uint64_t next_slot(const struct dedupe_index *t, uint64_t at)
{
    return (at + 1) & ((1ull << t->bits) - 1);
}

/* Searches for a row of this tag: returns the free slot where it would be, and the *n rows found
 * with the tag. NULL: DEDUPE_INDEX_SAME rows were found, or the search did not end within REACH
 * slots. */
static uint64_t *walk(struct dedupe_index *t, uint32_t tag, uint32_t *found, uint32_t *n)
{
    uint64_t at = first_slot(t, tag);
    *n = 0;
    for (uint32_t k = 0; k < REACH; k++, at = next_slot(t, at)) {
        if (t->slots[at] == 0)
            return &t->slots[at];
        if (t->slots[at] >> 32 != tag)
            continue;
        found[(*n)++] = (uint32_t)t->slots[at];
        if (*n == DEDUPE_INDEX_SAME)
            return NULL;
    }
    dedupe_index_distrust(t);
    return NULL;
}

/* Puts a slot's content into its place: 1, or 0: there is no free slot within reach. */
static int put(struct dedupe_index *t, uint64_t slot)
{
    uint64_t at = first_slot(t, (uint32_t)(slot >> 32));
    for (uint32_t k = 0; k < REACH; k++, at = next_slot(t, at))
        if (t->slots[at] == 0) {
            t->slots[at] = slot;
            return 1;
        }
    return 0;
}

/* Moves the table's rows into new memory, which replaces the old one. */
static void move_into(struct dedupe_index *t, void *memory, uint64_t bits, int in_file)
{
    struct dedupe_index old = *t;
    uint64_t n = 0;
    t->slots = memory;
    t->bits = bits;
    t->in_file = in_file;
    for (uint64_t i = 0; i < 1ull << old.bits; i++) {
        if (old.slots[i] != 0 && !put(t, old.slots[i]))
            break;
        n += old.slots[i] != 0;
    }
    t->lies |= old.in_file && n != t->n;
    release(&old);
}

static void grow_in_memory(struct dedupe_index *t, uint64_t bits)
{
    void *memory = bits <= MAX_BITS ? take_memory(bits) : NULL;
    if (!memory) {
        log_warn(
            "event=dedupe_full job=%lld rows=%llu action=\"rows that are the same as later ones "
            "are computed again\"",
            (long long)t->options.job, (unsigned long long)t->n);
        t->is_full = 1;
        return;
    }
    move_into(t, memory, bits, 0);
}

static void grow(struct dedupe_index *t)
{
    uint64_t bits = t->bits + 1;
    if (bits <= DEDUPE_INDEX_MEMORY_BITS || !t->options.dir) {
        grow_in_memory(t, bits);
        return;
    }
    errno = ENOSPC;
    void *memory = has_room(t, bits) ? take_file(t, bits) : NULL;
    if (memory) {
        move_into(t, memory, bits, 1);
        return;
    }
    log_warn("event=dedupe_in_memory job=%lld bytes=%zu error=\"%s\"", (long long)t->options.job,
        bytes_of(bits), strerror(errno));
    grow_in_memory(t, bits);
    t->options.dir = NULL; /* the table stays in memory */
}

/* ---- a job's table ---- */

struct dedupe_index *dedupe_index_open(const struct dedupe_index_options *o)
{
    struct dedupe_index *t = xcalloc(1, sizeof *t);
    t->options = *o;
    t->bits = FIRST_BITS;
    t->slots = take_memory(FIRST_BITS);
    if (!t->slots)
        die(EX_OSERR, "event=no_memory");
    return t;
}

void dedupe_index_close(struct dedupe_index **t)
{
    if (*t)
        release(*t);
    free(*t);
    *t = NULL;
}

int64_t dedupe_index_job(const struct dedupe_index *t)
{
    return t->options.job;
}

long long dedupe_index_opened_ms(const struct dedupe_index *t)
{
    return t->options.opened_ms;
}

size_t dedupe_index_small_bytes(const struct dedupe_index *t)
{
    return t->bits <= DEDUPE_INDEX_MEMORY_BITS ? bytes_of(t->bits) : 0;
}

int64_t dedupe_index_scanned(const struct dedupe_index *t)
{
    return t->scanned;
}

void dedupe_index_set_scanned(struct dedupe_index *t, int64_t row)
{
    t->scanned = row;
}

/* ---- rows ---- */

void dedupe_index_add(struct dedupe_index *t, uint64_t hash, uint32_t i)
{
    uint32_t found[DEDUPE_INDEX_SAME], n, tag = tag_of(hash);
    uint64_t slot = (uint64_t)tag << 32 | i, *place = walk(t, tag, found, &n);
    while (place && n > 0)
        if (found[--n] == i)
            return;
    if (!place)
        return;
    if (4 * (t->n + 1) <= 3ull << t->bits) {
        *place = slot;
        t->n++;
        return;
    }
    if (!t->is_full)
        grow(t);
    if (t->is_full)
        return;
    if (put(t, slot))
        t->n++;
    else
        dedupe_index_distrust(t);
}

uint32_t dedupe_index_find(struct dedupe_index *t, uint64_t hash, uint32_t *found)
{
    uint32_t n;
    walk(t, tag_of(hash), found, &n);
    return n;
}

int dedupe_index_is_same(uint64_t hash, uint64_t other)
{
    return tag_of(hash) == tag_of(other);
}

int dedupe_index_lies(const struct dedupe_index *t)
{
    return t->lies;
}

void dedupe_index_distrust(struct dedupe_index *t)
{
    t->lies |= t->in_file;
}

void dedupe_index_expect(const struct dedupe_index *t, uint64_t hash)
{
    __builtin_prefetch(&t->slots[first_slot(t, tag_of(hash))]);
}

/* ---- files that have a name ---- */

static int is_ours(const char *name)
{
    long long job;
    int end = 0;
    return sscanf(name, "twins-%lld.%n", &job, &end) == 1 && end > 0 &&
           (strcmp(name + end, "new") == 0 || strcmp(name + end, "map") == 0);
}

void dedupe_index_sweep(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    while (d && (entry = readdir(d)))
        if (is_ours(entry->d_name))
            unlinkat(dirfd(d), entry->d_name, 0);
    if (d)
        closedir(d);
}
