/* pipeline.c - see pipeline.h. The segment: for each stage but the last, PIPELINE_BUFFERS buffers:
 *
 *        0  a descriptor of 64 bytes for each rank of the stage:
 *             0  token                the hand-over's (shm/stage.c)
 *            32  u32  n_tokens
 *            36  u32  hidden_size
 *            40  u32  type of hidden_states (enum dtype)
 *            48  u64  the token's sequence + 1, written last
 *     4096  hidden_states [max_tokens, hidden_size], then residual, the same, with room for f32
 *
 * The writer of rows [n_tokens * rank / n_ranks, n_tokens * (rank + 1) / n_ranks) writes them, the
 * descriptor with sequence 0, and then the sequence with release order. A reader loads the sequence
 * with acquire order, copies the descriptor once and checks the copy. The canary row has no
 * hand-over: its token is 0. */
#include "worker/pipeline.h"

#include <assert.h>
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
    uint32_t n_tokens, hidden_size, type, unused;
    uint64_t sequence;
};
_Static_assert(sizeof(struct descriptor) <= DESCRIPTOR_BYTES &&
                   STAGE_MAX_RANKS * DESCRIPTOR_BYTES <= HEAD_BYTES,
    "the descriptors fit their page");

struct pipeline {
    struct pipeline_options options;
    uint64_t bytes, buffer_bytes;
    uint8_t *at;
    struct descriptor sending[PIPELINE_BUFFERS]; /* what the device has not finished */
    uint32_t first_sending, n_sending;
};

/* Shares this stage's buffers with the device: those that it reads, before those that it writes. */
static int share_buffers(struct pipeline *p, struct err *e)
{
    const struct pipeline_options *o = &p->options;
    uint32_t first = o->pp_rank > 0 ? o->pp_rank - 1 : 0,
             end = o->pp_rank + 1 < o->n_pp_ranks ? o->pp_rank + 1 : o->pp_rank;
    uint64_t one = PIPELINE_BUFFERS * p->buffer_bytes;
    return o->ops->share(o->device, p->at + first * one, (end - first) * one, e);
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
    if (rc == 0)
        rc = share_buffers(p, e);
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

/* Where rows from `first` on of a buffer's hidden states lie, and of its residual. */
static uint8_t *hidden_at(const struct pipeline *p, uint8_t *buffer, int64_t first)
{
    return buffer + HEAD_BYTES + first * p->options.hidden_size * dtype_bytes(p->options.type);
}

static uint8_t *residual_at(const struct pipeline *p, uint8_t *buffer, int64_t first)
{
    return buffer + HEAD_BYTES +
           ((int64_t)p->options.max_tokens + first) * p->options.hidden_size *
               (int64_t)sizeof(float);
}

static int fits(const struct pipeline *p, struct tensor t, enum dtype type)
{
    return t.dtype == type && t.cols == p->options.hidden_size && t.rows <= p->options.max_tokens;
}

static int check_tensors(
    const struct pipeline *p, const struct intermediate_tensors *t, struct err *e)
{
    if (fits(p, t->hidden_states, p->options.type) && fits(p, t->residual, DTYPE_F32) &&
        t->hidden_states.rows == t->residual.rows)
        return 0;
    return err_set(e, ASSAY_ETOOLARGE,
        "intermediate tensors: expected %s and float32 of at most [%u, %u], found %s and %s of "
        "[%lld, %lld]",
        dtype_name(p->options.type), p->options.max_tokens, p->options.hidden_size,
        dtype_name(t->hidden_states.dtype), dtype_name(t->residual.dtype),
        (long long)t->residual.rows, (long long)t->residual.cols);
}

int pipeline_send(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e)
{
    const struct pipeline_options *o = &p->options;
    if (check_tensors(p, t, e) != 0)
        return e->code;
    assert(p->n_sending < PIPELINE_BUFFERS);
    int64_t all = t->residual.rows, first = all * o->rank / o->n_ranks,
            n = all * (o->rank + 1) / o->n_ranks - first;
    uint8_t *buffer = buffer_of(p, o->pp_rank, token);
    o->ops->copy_out(
        o->device, hidden_at(p, buffer, first), tensor_rows(t->hidden_states, first, n));
    o->ops->copy_out(o->device, residual_at(p, buffer, first), tensor_rows(t->residual, first, n));
    p->sending[(p->first_sending + p->n_sending++) % PIPELINE_BUFFERS] = (struct descriptor){
        .token = *token, .n_tokens = (uint32_t)all, .hidden_size = o->hidden_size, .type = o->type};
    return 0;
}

void pipeline_sent(struct pipeline *p)
{
    const struct pipeline_options *o = &p->options;
    const struct descriptor *d = &p->sending[p->first_sending];
    assert(p->n_sending > 0);
    struct descriptor *at = (struct descriptor *)(void *)(buffer_of(p, o->pp_rank, &d->token) +
                                                          o->rank * DESCRIPTOR_BYTES);
    memcpy(at, d, sizeof *d);
    __atomic_store_n(&at->sequence, d->token.sequence + 1, __ATOMIC_RELEASE);
    p->first_sending = (p->first_sending + 1) % PIPELINE_BUFFERS;
    p->n_sending--;
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

static int check_descriptor(const struct pipeline *p, const struct descriptor *d,
    const struct stage_token *token, int64_t n_tokens, struct err *e)
{
    const struct pipeline_options *o = &p->options;
    if (stage_token_equal(&d->token, token) && d->n_tokens == n_tokens &&
        d->hidden_size == o->hidden_size && d->type == (uint32_t)o->type)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "intermediate tensors of hand-over %llu: expected [%lld, %u] of type %d, found [%u, %u] of "
        "type %u of hand-over %llu",
        (unsigned long long)token->sequence, (long long)n_tokens, o->hidden_size, (int)o->type,
        d->n_tokens, d->hidden_size, d->type, (unsigned long long)d->token.sequence);
}

int pipeline_receive(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e)
{
    const struct pipeline_options *o = &p->options;
    if (check_tensors(p, t, e) != 0)
        return e->code;
    uint8_t *buffer = buffer_of(p, o->pp_rank - 1, token);
    for (uint32_t r = 0; r < o->n_ranks; r++) {
        const struct descriptor *at =
            (const struct descriptor *)(void *)(buffer + r * DESCRIPTOR_BYTES);
        struct descriptor d;
        wait_for(p, at, token->sequence + 1, r);
        memcpy(&d, at, sizeof d);
        if (check_descriptor(p, &d, token, t->residual.rows, e) != 0)
            return e->code;
    }
    o->ops->copy_in(o->device, t->hidden_states, hidden_at(p, buffer, 0));
    o->ops->copy_in(o->device, t->residual, residual_at(p, buffer, 0));
    return 0;
}
