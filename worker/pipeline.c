/* pipeline.c - see pipeline.h. The segment: for each stage but the last, PIPELINE_BUFFERS buffers:
 *
 *        0  a descriptor of 64 bytes for each rank of the stage:
 *             0  token                the hand-over's (shm/stage.c)
 *            32  u32  n_tokens
 *            36  u32  hidden_size
 *            40  u64  the token's sequence + 1, written last
 *     4096  f32  hidden_states [max_tokens, hidden_size], then residual, the same
 *
 * The writer of rows [n_tokens * rank / n_ranks, n_tokens * (rank + 1) / n_ranks) writes them, the
 * descriptor with sequence 0, and then the sequence with release order. A reader loads the sequence
 * with acquire order, copies the descriptor once and checks the copy. The canary row has no
 * hand-over: its token is 0. */
#include "worker/pipeline.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "shm/stage.h"
#include "worker/comm.h"

#define HEAD_BYTES 4096u
#define DESCRIPTOR_BYTES 64u
#define LOOK_NS 200000 /* between two looks for a canary row */

struct descriptor {
    struct stage_token token;
    uint32_t n_tokens, hidden_size;
    uint64_t sequence;
};
_Static_assert(sizeof(struct descriptor) <= DESCRIPTOR_BYTES &&
                   STAGE_MAX_RANKS * DESCRIPTOR_BYTES <= HEAD_BYTES,
    "the descriptors fit their page");

struct pipeline {
    struct pipeline_options options;
    uint64_t bytes, buffer_bytes;
    uint8_t *at;
};

int pipeline_check_ops(uint32_t n_pp_ranks, const struct ops *ops, struct err *e)
{
    if (n_pp_ranks <= 1 || !ops->typed)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "--pp %u: pipeline stages are not built for GPUs: expected --pp 1 (with more ranks by "
        "--tp), "
        "or --device cpu",
        n_pp_ranks);
}

int pipeline_new(struct pipeline **out, int fd, const struct pipeline_options *o, struct err *e)
{
    struct stat st = {0};
    *out = NULL;
    if (o->n_pp_ranks == 1)
        return 0;
    struct pipeline *p = xcalloc(1, sizeof *p);
    p->options = *o;
    p->buffer_bytes = stage_pipeline_bytes(2, o->max_tokens, o->hidden_size) / PIPELINE_BUFFERS;
    p->bytes = stage_pipeline_bytes(o->n_pp_ranks, o->max_tokens, o->hidden_size);
    int rc = 0;
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != p->bytes)
        rc = err_set(e, ASSAY_EFORMAT, "pipeline segment: expected %llu bytes, found %lld",
            (unsigned long long)p->bytes, (long long)st.st_size);
    void *at = rc == 0 ? mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : NULL;
    if (at == MAP_FAILED)
        rc = err_errno(e, ASSAY_EIO, "pipeline segment: cannot map");
    p->at = rc == 0 ? at : NULL;
    *out = p;
    if (rc != 0)
        pipeline_free(out);
    return rc;
}

void pipeline_free(struct pipeline **out)
{
    struct pipeline *p = *out;
    if (p && p->at)
        munmap(p->at, p->bytes);
    free(p);
    *out = NULL;
}

/* The buffer of this hand-over between a stage and the next one. */
static uint8_t *buffer_of(const struct pipeline *p, uint32_t stage, const struct stage_token *token)
{
    return p->at +
           (stage * PIPELINE_BUFFERS + token->sequence % PIPELINE_BUFFERS) * p->buffer_bytes;
}

/* A buffer's tensors. */
static struct intermediate_tensors tensors_in(
    const struct pipeline *p, uint8_t *buffer, int64_t n_tokens)
{
    float *first = (float *)(void *)(buffer + HEAD_BYTES);
    int64_t hidden = p->options.hidden_size;
    return (struct intermediate_tensors){tensor_of(first, DTYPE_F32, n_tokens, hidden, hidden),
        tensor_of(
            first + (int64_t)p->options.max_tokens * hidden, DTYPE_F32, n_tokens, hidden, hidden)};
}

static void copy_rows(struct tensor to, struct tensor from, int64_t first, int64_t end)
{
    for (int64_t i = first; i < end; i++)
        memcpy((float *)to.data + i * to.stride, (const float *)from.data + i * from.stride,
            (size_t)from.cols * sizeof(float));
}

static int fits(const struct pipeline *p, struct tensor t)
{
    return t.dtype == DTYPE_F32 && t.cols == p->options.hidden_size &&
           t.rows <= p->options.max_tokens;
}

static int check_tensors(
    const struct pipeline *p, const struct intermediate_tensors *t, struct err *e)
{
    if (fits(p, t->hidden_states) && fits(p, t->residual) &&
        t->hidden_states.rows == t->residual.rows)
        return 0;
    return err_set(e, ASSAY_ETOOLARGE,
        "intermediate tensors: expected float32 of at most [%u, %u], found [%lld, %lld]",
        p->options.max_tokens, p->options.hidden_size, (long long)t->residual.rows,
        (long long)t->residual.cols);
}

int pipeline_send(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e)
{
    const struct pipeline_options *o = &p->options;
    if (check_tensors(p, t, e) != 0)
        return e->code;
    int64_t n = t->residual.rows, first = n * o->rank / o->n_ranks,
            end = n * (o->rank + 1) / o->n_ranks;
    uint8_t *buffer = buffer_of(p, o->pp_rank, token);
    struct intermediate_tensors to = tensors_in(p, buffer, n);
    struct descriptor *at = (struct descriptor *)(void *)(buffer + o->rank * DESCRIPTOR_BYTES),
                      d = {.token = *token, .n_tokens = (uint32_t)n, .hidden_size = o->hidden_size};
    copy_rows(to.hidden_states, t->hidden_states, first, end);
    copy_rows(to.residual, t->residual, first, end);
    memcpy(at, &d, sizeof d);
    __atomic_store_n(&at->sequence, token->sequence + 1, __ATOMIC_RELEASE);
    return 0;
}

/* Waits until the descriptor has this sequence, which for all but a canary row it has already. */
static void wait_for(
    const struct pipeline *p, const struct descriptor *at, uint64_t sequence, uint32_t rank)
{
    const struct timespec pause = {0, LOOK_NS};
    long long deadline = now_mono_ms() + p->options.deadline_ms;
    while (__atomic_load_n(&at->sequence, __ATOMIC_ACQUIRE) != sequence) {
        if (now_mono_ms() >= deadline)
            die(COMM_EXIT_DEADLINE, "event=rank_missing missing=%u stage=%u waited_ms=%u",
                (p->options.pp_rank - 1) * p->options.n_ranks + rank, p->options.pp_rank - 1,
                p->options.deadline_ms);
        nanosleep(&pause, NULL);
    }
}

int pipeline_receive(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e)
{
    const struct pipeline_options *o = &p->options;
    if (check_tensors(p, t, e) != 0)
        return e->code;
    uint8_t *buffer = buffer_of(p, o->pp_rank - 1, token);
    struct intermediate_tensors from = tensors_in(p, buffer, t->residual.rows);
    for (uint32_t r = 0; r < o->n_ranks; r++) {
        const struct descriptor *at =
            (const struct descriptor *)(void *)(buffer + r * DESCRIPTOR_BYTES);
        struct descriptor d;
        wait_for(p, at, token->sequence + 1, r);
        memcpy(&d, at, sizeof d);
        if (!stage_token_equal(&d.token, token) || d.n_tokens != t->residual.rows ||
            d.hidden_size != o->hidden_size)
            return err_set(e, ASSAY_EFORMAT,
                "intermediate tensors of hand-over %llu: expected [%lld, %u], found [%u, %u] of "
                "hand-over %llu",
                (unsigned long long)token->sequence, (long long)t->residual.rows, o->hidden_size,
                d.n_tokens, d.hidden_size, (unsigned long long)d.token.sequence);
    }
    copy_rows(t->hidden_states, from.hidden_states, 0, t->residual.rows);
    copy_rows(t->residual, from.residual, 0, t->residual.rows);
    return 0;
}
