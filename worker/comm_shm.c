/* comm_shm.c - see comm.h. The segment, which never outlives its group:
 *
 *        0  u32  arrived   ranks that have arrived at the present barrier
 *        4  u32  meeting   barriers passed, modulo 2^32; a futex word
 *       64  u32  came [n_ranks], number of the last barrier at which each arrived, from 1
 *     4096  f32  part [STAGE_COMM_FLOATS], share [STAGE_COMM_FLOATS], for each rank
 *
 * A rank that arrives writes the barrier's number to `came`, counts itself in `arrived`, and sleeps
 * until `meeting` changes. The last one sets arrived to 0, adds 1 to meeting and wakes the others.
 * `came` serves only to name the missing ranks.
 *
 * One part and one share per rank are enough. A part is read between the two barriers of a piece
 * and rewritten after the second. A share is read after the second barrier and rewritten after the
 * first one of the next piece, which its readers must have reached by then. comm_share and
 * comm_gather use the parts, which are read between two barriers there too. */
#include "worker/comm.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "shm/stage.h"

#define SPINS 2000
#define HEAD_BYTES 4096u
#define PART_BYTES (STAGE_COMM_FLOATS * sizeof(float))

struct comm_head {
    uint32_t arrived, meeting;
    uint32_t unused[14];
    uint32_t came[STAGE_MAX_RANKS];
};
_Static_assert(sizeof(struct comm_head) <= HEAD_BYTES, "the counters fit their page");

struct comm {
    uint32_t rank, n_ranks, deadline_ms;
    int spins;
    uint64_t bytes;
    struct comm_head *head;
    float *areas; /* [n_ranks][2][STAGE_COMM_FLOATS] */
};

static float *part_of(const struct comm *c, uint32_t rank)
{
    return c->areas + (size_t)rank * 2 * STAGE_COMM_FLOATS;
}

static float *share_of(const struct comm *c, uint32_t rank)
{
    return part_of(c, rank) + STAGE_COMM_FLOATS;
}

static int map_segment(struct comm *c, int fd, struct err *e)
{
    struct stat st;
    c->bytes = stage_comm_bytes(c->n_ranks);
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size < c->bytes)
        return err_set(e, ASSAY_EFORMAT, "communicator segment: expected %llu bytes",
            (unsigned long long)c->bytes);
    uint8_t *at = mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return err_errno(e, ASSAY_EIO, "communicator segment: cannot map");
    c->head = (struct comm_head *)at;
    c->areas = (float *)(void *)(at + HEAD_BYTES);
    return 0;
}

/* Spinning helps only if every rank has a core of its own. */
static int spins_for(uint32_t n_ranks)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) >= (int)n_ranks
               ? SPINS
               : 0;
}

int comm_new(
    struct comm **out, int fd, uint32_t rank, uint32_t n_ranks, uint32_t deadline_ms, struct err *e)
{
    if (n_ranks < 1 || n_ranks > STAGE_MAX_RANKS || rank >= n_ranks)
        return err_set(e, ASSAY_EFORMAT, "rank %u of %u: out of range", rank, n_ranks);
    struct comm *c = xcalloc(1, sizeof *c);
    c->rank = rank;
    c->n_ranks = n_ranks;
    c->deadline_ms = deadline_ms;
    c->spins = spins_for(n_ranks);
    int rc = n_ranks > 1 ? map_segment(c, fd, e) : 0;
    *out = c;
    if (rc != 0)
        comm_free(out);
    return rc;
}

void comm_free(struct comm **out)
{
    struct comm *c = *out;
    if (c && c->head)
        munmap(c->head, c->bytes);
    free(c);
    *out = NULL;
}

void comm_set_deadline(struct comm *c, uint32_t deadline_ms)
{
    c->deadline_ms = deadline_ms;
}

uint32_t comm_rank(const struct comm *c)
{
    return c->rank;
}

uint32_t comm_size(const struct comm *c)
{
    return c->n_ranks;
}

/* The deadline has passed: ends this process and names the missing ranks. */
static _Noreturn void give_up(const struct comm *c, uint32_t meeting)
{
    char missing[STAGE_MAX_RANKS * 3 + 1] = "";
    size_t at = 0;
    for (uint32_t r = 0; r < c->n_ranks; r++)
        if (__atomic_load_n(&c->head->came[r], __ATOMIC_RELAXED) != meeting + 1)
            at += (size_t)snprintf(missing + at, sizeof missing - at, "%s%u", at ? "," : "", r);
    die(COMM_EXIT_DEADLINE, "event=rank_missing missing=%s of=%u meeting=%u waited_ms=%u", missing,
        c->n_ranks, meeting + 1, c->deadline_ms);
}

static inline void pause_core(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Waits until barrier `meeting` is passed: spins, then sleeps, at most until the deadline. */
static void wait_for_end(const struct comm *c, uint32_t meeting)
{
    uint32_t *word = &c->head->meeting;
    for (int i = 0; i < c->spins; i++, pause_core())
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != meeting)
            return;
    long long deadline = now_mono_ms() + c->deadline_ms;
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == meeting) {
        long long left = deadline - now_mono_ms();
        if (left <= 0)
            give_up(c, meeting);
        struct timespec t = {left / 1000, left % 1000 * 1000000};
        syscall(SYS_futex, word, FUTEX_WAIT, meeting, &t, NULL, 0);
    }
}

static void meet(const struct comm *c)
{
    uint32_t meeting = __atomic_load_n(&c->head->meeting, __ATOMIC_ACQUIRE);
    __atomic_store_n(&c->head->came[c->rank], meeting + 1, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&c->head->arrived, 1, __ATOMIC_ACQ_REL) < c->n_ranks) {
        wait_for_end(c, meeting);
        return;
    }
    __atomic_store_n(&c->head->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&c->head->meeting, meeting + 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &c->head->meeting, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void add(float *sum, const float *part, uint64_t n)
{
    for (uint64_t k = 0; k < n; k++)
        sum[k] += part[k];
}

static void take_larger(float *largest, const float *part, uint64_t n)
{
    for (uint64_t k = 0; k < n; k++)
        largest[k] = part[k] > largest[k] ? part[k] : largest[k];
}

typedef void reduction(float *into, const float *part, uint64_t n);

/* Reduces this rank's share [from, to) of a piece in rank order. */
static void reduce_share(const struct comm *c, uint64_t from, uint64_t to, reduction *reduce)
{
    float *share = share_of(c, c->rank) + from;
    memcpy(share, part_of(c, 0) + from, (to - from) * sizeof *share);
    for (uint32_t r = 1; r < c->n_ranks; r++)
        reduce(share, part_of(c, r) + from, to - from);
}

static void reduce_piece(const struct comm *c, float *x, uint64_t n, reduction *reduce)
{
    memcpy(part_of(c, c->rank), x, n * sizeof *x);
    meet(c);
    reduce_share(c, n * c->rank / c->n_ranks, n * (c->rank + 1) / c->n_ranks, reduce);
    meet(c);
    for (uint32_t r = 0; r < c->n_ranks; r++) {
        uint64_t from = n * r / c->n_ranks, to = n * (r + 1) / c->n_ranks;
        memcpy(x + from, share_of(c, r) + from, (to - from) * sizeof *x);
    }
}

void comm_gather(struct comm *c, const void *mine, void *all, size_t n)
{
    assert(n <= PART_BYTES);
    if (c->n_ranks == 1) {
        memcpy(all, mine, n);
        return;
    }
    memcpy(part_of(c, c->rank), mine, n);
    meet(c);
    for (uint32_t r = 0; r < c->n_ranks; r++)
        memcpy((char *)all + r * n, part_of(c, r), n);
    meet(c);
}

void comm_share(struct comm *c, void *bytes, size_t n)
{
    if (c->n_ranks == 1)
        return;
    for (size_t at = 0; at < n; at += PART_BYTES) {
        char *piece = (char *)bytes + at;
        size_t size = n - at < PART_BYTES ? n - at : PART_BYTES;
        if (c->rank == 0)
            memcpy(part_of(c, 0), piece, size);
        meet(c);
        if (c->rank != 0)
            memcpy(piece, part_of(c, 0), size);
        meet(c);
    }
}

static void reduce_all(const struct comm *c, float *x, uint64_t n, reduction *reduce)
{
    if (c->n_ranks == 1)
        return;
    for (uint64_t at = 0; at < n; at += STAGE_COMM_FLOATS)
        reduce_piece(c, x + at, n - at < STAGE_COMM_FLOATS ? n - at : STAGE_COMM_FLOATS, reduce);
}

void comm_all_reduce(struct comm *c, float *x, uint64_t n)
{
    reduce_all(c, x, n, add);
}

void comm_all_reduce_max(struct comm *c, float *x, uint64_t n)
{
    reduce_all(c, x, n, take_larger);
}
