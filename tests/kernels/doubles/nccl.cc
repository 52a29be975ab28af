/* nccl.cc - the double of NCCL (doubles.h): ranks are processes of this host, bytes go through a
 * shared segment whose name is in the unique id, one mailbox for each ordered pair of ranks. What a
 * group holds goes on together, piece by piece, as its turn in the stream comes; a peer that never
 * comes leaves the communicator in progress for ever.
 *
 * A group ends as in progress, and is put into its stream only when the communicator was asked
 * often enough how it gets on: whoever goes on at once has put his work in front of it. */
#include <fcntl.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <memory>
#include <vector>

#include "tests/kernels/doubles/doubles.h"

namespace
{

const int MAX_RANKS = 8;
const size_t PIECE = 32 * 1024;

struct mailbox {
    uint32_t bytes; /* of the piece in it; 0: empty */
    unsigned char data[PIECE];
};

struct segment {
    uint32_t arrived, n_ranks;
    int32_t devices[MAX_RANKS];
    mailbox boxes[MAX_RANKS][MAX_RANKS]; /* [from][to] */
};

struct transfer {
    bool sends;
    unsigned char *at;
    size_t left;
    mailbox *box;
};

struct group {
    cudaStream_t stream;
    std::vector<transfer> transfers;
    int patience; /* times that it is still in progress when asked */
};

int group_depth;
std::shared_ptr<group> open_group, ending_group;

/* As much as can be moved now. */
void move(transfer &t)
{
    uint32_t there = __atomic_load_n(&t.box->bytes, __ATOMIC_ACQUIRE);
    if (t.left == 0 || (there == 0) != t.sends)
        return;
    if (t.sends) {
        uint32_t n = static_cast<uint32_t>(t.left < PIECE ? t.left : PIECE);
        memcpy(t.box->data, t.at, n);
        t.at += n;
        t.left -= n;
        __atomic_store_n(&t.box->bytes, n, __ATOMIC_RELEASE);
        return;
    }
    if (there > t.left)
        double_misuse("ncclRecv", "the peer sends more than is expected");
    memcpy(t.at, t.box->data, there);
    t.at += there;
    t.left -= there;
    __atomic_store_n(&t.box->bytes, 0, __ATOMIC_RELEASE);
}

bool move_all(group &g)
{
    bool done = true;
    for (transfer &t : g.transfers) {
        move(t);
        done = done && t.left == 0;
    }
    return done;
}

size_t size_of(ncclDataType_t t)
{
    return t == ncclUint8 ? 1 : t == ncclFloat32 ? 4 : 2;
}

} // namespace

struct ncclComm {
    segment *shared;
    int rank, n_ranks;
    char name[64];
    bool refused;
};

static ncclResult_t add_transfer(const char *call, bool sends, void *at, size_t bytes, int peer,
    ncclComm_t c, cudaStream_t stream)
{
    if (double_enter(call))
        return ncclUnhandledCudaError;
    if (peer < 0 || peer >= c->n_ranks || peer == c->rank)
        double_misuse(call, "no such peer");
    if (group_depth == 0)
        double_misuse(call, "outside a group: two ranks that send first would wait for ever");
    if (!open_group)
        open_group = std::make_shared<group>(group{stream, {}, 2});
    if (open_group->stream != stream)
        double_misuse(call, "a group over several streams");
    if (bytes > 0)
        double_check_device(call, at, bytes);
    int from = sends ? c->rank : peer, to = sends ? peer : c->rank;
    open_group->transfers.push_back(
        {sends, static_cast<unsigned char *>(at), bytes, &c->shared->boxes[from][to]});
    return ncclSuccess;
}

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int count;
    memset(id, 0, sizeof *id);
    if (double_enter("ncclGetUniqueId"))
        return ncclSystemError;
    snprintf(id->internal, sizeof id->internal, "/assay-double-%d-%d", getpid(), count++);
    shm_unlink(id->internal); /* of a killed process that had this number */
    int fd = shm_open(id->internal, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(segment)) != 0)
        return ncclSystemError;
    close(fd);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(
    ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    if (double_enter("ncclCommInitRankConfig"))
        return ncclSystemError;
    if (config->blocking != 0 || n_ranks > MAX_RANKS || rank >= n_ranks)
        double_misuse("ncclCommInitRankConfig", "expected blocking 0 and a rank below n_ranks");
    int fd = shm_open(id.internal, O_RDWR, 0600);
    if (fd < 0)
        return ncclInvalidArgument;
    void *at = mmap(nullptr, sizeof(segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    ncclComm *c = new ncclComm{static_cast<segment *>(at), rank, n_ranks, {0}, false};
    snprintf(c->name, sizeof c->name, "%.60s", id.internal);
    *comm = c;
    c->shared->devices[rank] = double_device();
    if (__atomic_add_fetch(&c->shared->arrived, 1, __ATOMIC_ACQ_REL) ==
        static_cast<uint32_t>(n_ranks))
        shm_unlink(c->name);
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error)
{
    if (double_enter("ncclCommGetAsyncError"))
        return ncclSystemError;
    uint32_t arrived = __atomic_load_n(&c->shared->arrived, __ATOMIC_ACQUIRE);
    *error = arrived < static_cast<uint32_t>(c->n_ranks) ? ncclInProgress : ncclSuccess;
    if (ending_group && ending_group->patience-- > 0) {
        *error = ncclInProgress;
    } else if (ending_group) {
        std::shared_ptr<group> g = ending_group;
        ending_group.reset();
        double_queue_waiting(g->stream, [g] { return move_all(*g); });
    }
    for (int a = 0; *error == ncclSuccess && a < c->n_ranks; a++)
        for (int b = a + 1; b < c->n_ranks; b++)
            if (c->shared->devices[a] == c->shared->devices[b])
                *error = ncclInvalidUsage;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    munmap(c->shared, sizeof *c->shared);
    delete c;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    if (ending_group)
        double_misuse("ncclGroupStart", "the last group is still in progress");
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (group_depth == 0)
        double_misuse("ncclGroupEnd", "without a start");
    if (--group_depth > 0 || !open_group)
        return ncclSuccess;
    ending_group = open_group;
    open_group.reset();
    return ncclInProgress;
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer,
    ncclComm_t comm, cudaStream_t stream)
{
    return add_transfer(
        "ncclSend", true, const_cast<void *>(from), count * size_of(type), peer, comm, stream);
}

ncclResult_t ncclRecv(
    void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return add_transfer("ncclRecv", false, to, count * size_of(type), peer, comm, stream);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclInvalidUsage ? "invalid usage"
           : result == ncclSuccess    ? "no error"
                                      : "error";
}

const char *ncclGetLastError(ncclComm_t)
{
    return "no more is known";
}

} // extern "C"
