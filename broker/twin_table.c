/* twin_table.c - see twin_table.h.
 *
 * The file <dir>/twins-<job>.map, as it is in memory:
 *     head      128 bytes: struct head
 *     slots     2^bits of 8 bytes: tag (32 bits of the hash, not 0) << 32 | number of the row in its job; 0 is free
 * A row's slot is the first free one from the start of the cache line on that its tag's upper bits name, so
 * most are found or missed with one access to memory. Nothing is ever taken out. At three quarters full
 * (11 to 21 bytes a row) a table of twice the size is made beside it and takes its name.
 *
 * The file is trusted when it was written since the system was started (boot_id): then its pages are as the
 * last broker left them, wherever that one was stopped. A row is added before its result can be there, so
 * no finished row is missing. Nothing is ever synced.
 *
 * Disk space is taken before it is mapped, for a page without any would kill with SIGBUS. Where there is
 * none to be had, the table goes on in memory.
 *
 * LIMITS: tags have 32 bits, so of n rows one in 2^32 / n looks in vain into another; at 10^7, one in 430. */
#include "broker/twin_table.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sysexits.h>
#include <unistd.h>

#include "schema/log.h"

#ifndef MADV_POPULATE_WRITE /* C libraries older than Linux 5.14: an older kernel refuses it, and nothing is lost */
#define MADV_POPULATE_WRITE 23
#endif

#define MAGIC 0x3170616d6e697774ull /* "twinmap1" */
#define FIRST_BITS 5
#define MAX_BITS 33
#define LINE_SLOTS 8
#define BOOT_BYTES 40
#define TOUCH_BYTES (256 << 20) /* takes some 10 ms */

struct head {
    uint64_t magic;
    char boot[BOOT_BYTES]; /* the system's run that it was written in */
    int64_t job, created_ms;
    int64_t scanned;
    uint64_t seed, n;
    uint64_t bits;
    uint64_t unused[4];
};
_Static_assert(sizeof(struct head) == 128, "the file's head");

struct twin_table {
    const char *dir; /* NULL: no files */
    uint64_t min_free_bytes;
    struct head *head;
    uint64_t *slots;
    int in_file, is_full;
};

static size_t bytes_of(uint64_t bits)
{
    return sizeof(struct head) + (sizeof(uint64_t) << bits);
}

static void path_of(const char *dir, int64_t job, const char *ending, char *path, size_t size)
{
    snprintf(path, size, "%s/twins-%lld.%s", dir, (long long)job, ending);
}

static void read_boot(char *boot)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    memset(boot, 0, BOOT_BYTES);
    if (f && !fgets(boot, BOOT_BYTES, f))
        boot[0] = '\0';
    if (f)
        fclose(f);
}

/* ---- memory ---- */

static void use(struct twin_table *t, void *memory, int in_file)
{
    t->head = memory;
    t->slots = (uint64_t *)(t->head + 1);
    t->in_file = in_file;
}

static void release(struct twin_table *t)
{
    if (t->in_file)
        munmap(t->head, bytes_of(t->head->bits));
    else
        free(t->head);
}

/* NULL: there is none. */
static void *take_memory(uint64_t bits)
{
    void *memory = aligned_alloc(LINE_SLOTS * sizeof(uint64_t), bytes_of(bits));
    if (memory)
        memset(memory, 0, bytes_of(bits));
    return memory;
}

static int has_room(const struct twin_table *t, uint64_t bits)
{
    struct statvfs v;
    return statvfs(t->dir, &v) != 0 ||
           (uint64_t)v.f_bavail * v.f_frsize >= t->min_free_bytes + bytes_of(bits);
}

/* A new file of that size, full of zeros, mapped; NULL with the reason in errno. */
static void *take_file(const char *path, uint64_t bits)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return NULL;
    void *memory = MAP_FAILED;
    errno = posix_fallocate(fd, 0, (off_t)bytes_of(bits));
    if (errno == 0)
        memory = mmap(NULL, bytes_of(bits), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int why = errno;
    close(fd);
    if (memory != MAP_FAILED)
        return memory;
    unlink(path);
    errno = why;
    return NULL;
}

/* ---- slots ---- */

static uint32_t tag_of(uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    return tag ? tag : 1;
}

static uint64_t first_slot(const struct twin_table *t, uint32_t tag)
{
    uint64_t bits = t->head->bits;
    uint64_t at = bits <= 32 ? tag >> (32 - bits) : (uint64_t)tag << (bits - 32);
    return at & ~(uint64_t)(LINE_SLOTS - 1);
}

static uint64_t next_slot(const struct twin_table *t, uint64_t at)
{
    return (at + 1) & ((1ull << t->head->bits) - 1);
}

/* Of a table that has a free slot. */
static void put(struct twin_table *t, uint64_t slot)
{
    uint64_t at = first_slot(t, (uint32_t)(slot >> 32));
    while (t->slots[at] != 0)
        at = next_slot(t, at);
    t->slots[at] = slot;
}

/* The old table's rows into the new memory, which it is from then on. */
static void move_into(struct twin_table *t, void *memory, uint64_t bits, int in_file)
{
    struct twin_table old = *t;
    use(t, memory, in_file);
    *t->head = *old.head;
    t->head->bits = bits;
    for (uint64_t i = 0; i < 1ull << old.head->bits; i++)
        if (old.slots[i] != 0)
            put(t, old.slots[i]);
    release(&old);
}

/* In a file of its own, which takes the name when it is complete: 1, or 0 with errno. */
static int grow_in_file(struct twin_table *t, uint64_t bits)
{
    char path[4200], new[4200];
    path_of(t->dir, t->head->job, "map", path, sizeof path);
    path_of(t->dir, t->head->job, "new", new, sizeof new);
    errno = ENOSPC;
    void *memory = has_room(t, bits) ? take_file(new, bits) : NULL;
    if (!memory)
        return 0;
    move_into(t, memory, bits, 1);
    if (rename(new, path) != 0) { /* it goes on for as long as the broker does */
        unlink(new);
        unlink(path); /* that would lack what is added from now on */
    }
    return 1;
}

static void delete_file(const struct twin_table *t)
{
    char path[4200];
    if (!t->in_file)
        return;
    path_of(t->dir, t->head->job, "map", path, sizeof path);
    unlink(path);
}

static void grow_in_memory(struct twin_table *t, uint64_t bits)
{
    void *memory = bits <= MAX_BITS ? take_memory(bits) : NULL;
    delete_file(t); /* it would lack what is added from now on */
    if (!memory) {
        log_warn(
            "event=twins_full job=%lld rows=%llu action=\"rows that are the same as later ones "
            "are computed again\"",
            (long long)t->head->job, (unsigned long long)t->head->n);
        t->is_full = 1;
        return;
    }
    move_into(t, memory, bits, 0);
}

static void grow(struct twin_table *t)
{
    uint64_t bits = t->head->bits + 1;
    if (bits <= TWIN_TABLE_MEMORY_BITS || !t->dir) {
        grow_in_memory(t, bits);
        return;
    }
    if (!grow_in_file(t, bits)) {
        log_warn("event=twins_in_memory job=%lld bytes=%zu error=\"%s\"", (long long)t->head->job,
            bytes_of(bits), strerror(errno));
        grow_in_memory(t, bits);
        t->dir = NULL; /* it stays there */
    }
}

/* ---- a job's table ---- */

static int is_of(const struct head *h, uint64_t bytes, const struct twin_table_options *o)
{
    char boot[BOOT_BYTES];
    read_boot(boot);
    return h->magic == MAGIC && h->bits > TWIN_TABLE_MEMORY_BITS && h->bits <= MAX_BITS &&
           bytes == bytes_of(h->bits) && h->job == o->job && h->created_ms == o->created_ms &&
           boot[0] && memcmp(h->boot, boot, sizeof boot) == 0;
}

/* 1, or 0 when there is none that can be used. */
static int open_file(struct twin_table *t, const struct twin_table_options *o)
{
    char path[4200];
    struct stat st;
    path_of(t->dir, o->job, "map", path, sizeof path);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return 0;
    size_t bytes =
        fstat(fd, &st) == 0 && st.st_size > (off_t)sizeof(struct head) ? (size_t)st.st_size : 0;
    void *memory =
        bytes ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (memory != MAP_FAILED && is_of(memory, bytes, o)) {
        if (bytes <= TOUCH_BYTES) /* at once: a fault for each page would cost more */
            madvise(memory, bytes, MADV_POPULATE_WRITE);
        use(t, memory, 1);
        return 1;
    }
    if (memory != MAP_FAILED)
        munmap(memory, bytes);
    unlink(path);
    return 0;
}

struct twin_table *twin_table_open(const struct twin_table_options *o)
{
    struct twin_table *t = xcalloc(1, sizeof *t);
    t->dir = o->dir;
    t->min_free_bytes = o->min_free_bytes;
    if (t->dir && open_file(t, o))
        return t;
    void *memory = take_memory(FIRST_BITS);
    if (!memory)
        die(EX_OSERR, "event=no_memory");
    use(t, memory, 0);
    *t->head = (struct head){.magic = MAGIC,
        .job = o->job,
        .created_ms = o->created_ms,
        .seed = o->seed,
        .bits = FIRST_BITS};
    read_boot(t->head->boot);
    return t;
}

void twin_table_close(struct twin_table **t)
{
    if (*t)
        release(*t);
    free(*t);
    *t = NULL;
}

void twin_table_delete(struct twin_table **t)
{
    delete_file(*t);
    twin_table_close(t);
}

int64_t twin_table_job(const struct twin_table *t)
{
    return t->head->job;
}

uint64_t twin_table_seed(const struct twin_table *t)
{
    return t->head->seed;
}

size_t twin_table_small_bytes(const struct twin_table *t)
{
    return t->head->bits <= TWIN_TABLE_MEMORY_BITS ? bytes_of(t->head->bits) : 0;
}

int64_t twin_table_scanned(const struct twin_table *t)
{
    return t->head->scanned;
}

void twin_table_set_scanned(struct twin_table *t, int64_t row)
{
    t->head->scanned = row;
}

/* ---- rows ---- */

void twin_table_add(struct twin_table *t, uint64_t hash, uint32_t i)
{
    uint32_t tag = tag_of(hash), same = 0;
    uint64_t slot = (uint64_t)tag << 32 | i, at = first_slot(t, tag);
    for (; t->slots[at] != 0; at = next_slot(t, at)) {
        same += t->slots[at] >> 32 == tag;
        if (t->slots[at] == slot || same == TWIN_TABLE_SAME)
            return;
    }
    if (4 * (t->head->n + 1) > 3ull << t->head->bits) {
        if (!t->is_full)
            grow(t);
        if (t->is_full)
            return;
        put(t, slot);
    } else {
        t->slots[at] = slot;
    }
    t->head->n++;
}

uint32_t twin_table_find(const struct twin_table *t, uint64_t hash, uint32_t *found)
{
    uint32_t tag = tag_of(hash), n = 0;
    for (uint64_t at = first_slot(t, tag); t->slots[at] != 0 && n < TWIN_TABLE_SAME;
         at = next_slot(t, at))
        if (t->slots[at] >> 32 == tag)
            found[n++] = (uint32_t)t->slots[at];
    return n;
}

void twin_table_expect(const struct twin_table *t, uint64_t hash)
{
    __builtin_prefetch(&t->slots[first_slot(t, tag_of(hash))]);
}

/* ---- files of jobs that are over ---- */

static int is_kept(const char *name, twin_table_keeper *keep, void *arg)
{
    long long job;
    int end = 0;
    if (sscanf(name, "twins-%lld.%n", &job, &end) != 1 || end == 0)
        return 1; /* not ours */
    if (strcmp(name + end, "new") == 0)
        return 0;
    return strcmp(name + end, "map") != 0 || (keep && keep(arg, job));
}

void twin_table_sweep(const char *dir, twin_table_keeper *keep, void *arg)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    while (d && (entry = readdir(d)))
        if (!is_kept(entry->d_name, keep, arg))
            unlinkat(dirfd(d), entry->d_name, 0);
    if (d)
        closedir(d);
}
