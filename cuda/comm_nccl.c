/* comm_nccl.c - see comm_nccl.h. The communicator is made without blocking and polled until the
 * deadline: if a rank never comes, this process ends, and the broker restarts the group. A
 * communicator is never repaired.
 *
 * Ending a group of sends and receives does not block either. They are in the stream only once the
 * communicator says that nothing is in progress; until then nothing may be queued after them. */
#include "cuda/comm_nccl.h"

#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define MAX_RANKS 64

struct comm_nccl {
    ncclComm_t comm;
    uint32_t rank, n_ranks;
    uint8_t *parts; /* [n_ranks][share] of the largest x */
    uint8_t *flat;  /* rows of x without gaps, if it has some */
    size_t bytes;
    uint32_t deadline_ms;
};

#define NCCL_MUST(call) nccl_must(call, #call)
static void nccl_must(ncclResult_t rc, const char *call)
{
    if (rc != ncclSuccess && rc != ncclInProgress)
        die(GPU_EXIT_ERROR, "event=gpu_error error=nccl call=%.100s text=%s", call,
            ncclGetErrorString(rc));
}

/* What each rank tells the others about its device. */
struct peer {
    char uuid[16];
    char name[64];
    int32_t index;
};

static int check_peers(struct device *d, const struct peer *peers, uint32_t n, struct err *e)
{
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = a + 1; b < n; b++)
            if (memcmp(peers[a].uuid, peers[b].uuid, sizeof peers[a].uuid) == 0)
                return err_set(e, ASSAY_EUNSUPPORTED,
                    "ranks %u and %u are both on GPU %d (%s): expected a device for each rank", a,
                    b, peers[a].index, peers[a].name);
    for (uint32_t b = 1; comm_rank(d->comm) == 0 && b < n; b++) {
        int can = 0;
        cudaDeviceCanAccessPeer(&can, d->index, peers[b].index);
        log_info("event=peer of_rank=%u gpu=%d name=\"%s\" direct_access=%s", b, peers[b].index,
            peers[b].name, can ? "yes" : "no");
    }
    return 0;
}

static int meet_peers(struct device *d, struct err *e)
{
    struct peer mine = {.index = d->index}, peers[MAX_RANKS];
    memcpy(mine.uuid, d->properties.uuid.bytes, sizeof mine.uuid);
    snprintf(mine.name, sizeof mine.name, "%.63s", d->properties.name);
    comm_gather(d->comm, &mine, peers, sizeof mine);
    return check_peers(d, peers, comm_size(d->comm), e);
}

/* Waits until nothing is in progress and returns the communicator's state. */
static ncclResult_t settle(struct comm_nccl *c, long nap_ns)
{
    long long deadline = now_mono_ms() + c->deadline_ms;
    ncclResult_t state = ncclInProgress, rc = ncclSuccess;
    while (
        (rc = ncclCommGetAsyncError(c->comm, &state)) == ncclSuccess && state == ncclInProgress) {
        if (now_mono_ms() > deadline)
            die(COMM_EXIT_DEADLINE, "event=rank_missing of=%u waited_ms=%u what=nccl", c->n_ranks,
                c->deadline_ms);
        if (nap_ns > 0)
            nanosleep(&(struct timespec){0, nap_ns}, NULL);
    }
    return rc == ncclSuccess ? state : rc;
}

static int wait_ready(struct comm_nccl *c, struct err *e)
{
    ncclResult_t state = settle(c, 1000000);
    if (state == ncclSuccess)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED, "NCCL: %s (%.200s)", ncclGetErrorString(state),
        ncclGetLastError(c->comm));
}

static int connect_ranks(struct comm_nccl *c, struct device *d, struct err *e)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    setenv("NCCL_RAS_ENABLE", "0", 0);
    setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    memset(&id, 0, sizeof id);
    ncclResult_t rc = c->rank == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
    comm_share(d->comm, &id, sizeof id);
    if (rc == ncclSuccess)
        rc = ncclCommInitRankConfig(&c->comm, (int)c->n_ranks, id, (int)c->rank, &config);
    if (rc != ncclSuccess && rc != ncclInProgress)
        return err_set(e, ASSAY_EUNSUPPORTED, "NCCL: %s", ncclGetErrorString(rc));
    return wait_ready(c, e);
}

int comm_nccl_new(
    struct comm_nccl **out, struct device *d, const struct device_options *o, struct err *e)
{
    struct comm_nccl *c = xcalloc(1, sizeof *c);
    *out = c;
    c->rank = comm_rank(d->comm);
    c->n_ranks = comm_size(d->comm);
    c->deadline_ms = o->deadline_ms;
    c->bytes = o->reduce_bytes + c->n_ranks * 16; /* a share is rounded up to 16 bytes */
    int rc = meet_peers(d, e);
    if (rc == 0)
        rc = connect_ranks(c, d, e);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc((void **)&c->parts, c->bytes), e);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc((void **)&c->flat, c->bytes), e);
    return rc;
}

void comm_nccl_free(struct comm_nccl **out)
{
    struct comm_nccl *c = *out;
    if (!c)
        return;
    if (c->comm)
        ncclCommAbort(c->comm);
    cudaFree(c->parts);
    cudaFree(c->flat);
    free(c);
    *out = NULL;
}

/* Share r of n elements starts at r * share. Shares are whole 16 bytes; the last ones may be
 * shorter or empty. */
struct shares {
    int64_t n, share, size;
};

static int64_t first_of(const struct shares *s, uint32_t r)
{
    int64_t at = s->share * r;
    return at < s->n ? at : s->n;
}

static size_t bytes_of(const struct shares *s, uint32_t r)
{
    return (size_t)((first_of(s, r + 1) - first_of(s, r)) * s->size);
}

/* Ends the group and waits until it is in its stream. */
static void end_group(struct comm_nccl *c)
{
    ncclResult_t rc = ncclGroupEnd();
    nccl_must(rc == ncclInProgress ? settle(c, 0) : rc, "ncclGroupEnd");
}

/* Gathers every rank's part of this rank's share, its own too, in rank order. */
static void gather_parts(
    struct comm_nccl *c, const struct shares *s, const uint8_t *x, cudaStream_t stream)
{
    size_t mine = bytes_of(s, c->rank);
    NCCL_MUST(ncclGroupStart());
    for (uint32_t r = 0; r < c->n_ranks; r++) {
        if (r == c->rank)
            continue;
        NCCL_MUST(ncclSend(
            x + first_of(s, r) * s->size, bytes_of(s, r), ncclUint8, (int)r, c->comm, stream));
        NCCL_MUST(ncclRecv(
            c->parts + (size_t)(r * s->share * s->size), mine, ncclUint8, (int)r, c->comm, stream));
    }
    end_group(c);
    GPU_MUST(cudaMemcpyAsync(c->parts + (size_t)(c->rank * s->share * s->size),
        x + first_of(s, c->rank) * s->size, mine, cudaMemcpyDeviceToDevice, stream));
}

static void spread_sums(
    struct comm_nccl *c, const struct shares *s, uint8_t *x, cudaStream_t stream)
{
    NCCL_MUST(ncclGroupStart());
    for (uint32_t r = 0; r < c->n_ranks; r++) {
        if (r == c->rank)
            continue;
        NCCL_MUST(ncclSend(x + first_of(s, c->rank) * s->size, bytes_of(s, c->rank), ncclUint8,
            (int)r, c->comm, stream));
        NCCL_MUST(ncclRecv(
            x + first_of(s, r) * s->size, bytes_of(s, r), ncclUint8, (int)r, c->comm, stream));
    }
    end_group(c);
}

typedef cudaError_t reduction(cudaStream_t stream, void *out, struct tensor parts);

static void reduce_flat(struct device *d, void *x, enum dtype dtype, int64_t n, reduction *reduce)
{
    struct comm_nccl *c = d->comm_nccl;
    struct shares s = {n, 0, dtype_bytes(dtype)};
    int64_t unit = 16 / s.size, ranks = c->n_ranks;
    s.share = ((n + ranks - 1) / ranks + unit - 1) / unit * unit;
    cudaStream_t stream = gpu_stream(d);
    gather_parts(c, &s, x, stream);
    int64_t first = first_of(&s, c->rank), mine = first_of(&s, c->rank + 1) - first;
    GPU_MUST(reduce(
        stream, (uint8_t *)x + first * s.size, tensor_of(c->parts, dtype, ranks, mine, s.share)));
    spread_sums(c, &s, x, stream);
}

/* Copies rows of different strides: to memory without gaps, and back. */
static void copy_rows(struct device *d, struct tensor to, struct tensor from)
{
    size_t size = (size_t)dtype_bytes(to.dtype);
    GPU_MUST(
        cudaMemcpy2DAsync(to.data, (size_t)to.stride * size, from.data, (size_t)from.stride * size,
            (size_t)to.cols * size, (size_t)to.rows, cudaMemcpyDeviceToDevice, gpu_stream(d)));
}

void comm_nccl_all_reduce(struct device *d, struct tensor x)
{
    if (!d->comm_nccl || x.rows == 0)
        return;
    if (x.stride == x.cols) {
        reduce_flat(d, x.data, x.dtype, x.rows * x.cols, kernel_sum_ranks);
        return;
    }
    struct tensor flat = tensor_of(d->comm_nccl->flat, x.dtype, x.rows, x.cols, x.cols);
    copy_rows(d, flat, x);
    reduce_flat(d, flat.data, x.dtype, x.rows * x.cols, kernel_sum_ranks);
    copy_rows(d, x, flat);
}

void comm_nccl_all_reduce_max(struct device *d, float *x, int64_t n)
{
    if (d->comm_nccl && n > 0)
        reduce_flat(d, x, DTYPE_F32, n, kernel_largest_of_ranks);
}
