/* in_flight.c - see in_flight.h. Rank r is of pipeline stage r / tp. */
#include "broker/workers/in_flight.h"

#include <string.h>

struct in_flight_batch *in_flight_find(struct in_flight *f, const struct stage_token *token)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (stage_token_equal(&f->at[i].token, token))
            return &f->at[i];
    return NULL;
}

void in_flight_remove(struct in_flight *f, struct in_flight_batch *b)
{
    memmove(b, b + 1, (size_t)(f->at + f->n - (b + 1)) * sizeof *b);
    f->n--;
}

uint32_t in_flight_running(const struct in_flight *f, int rank)
{
    uint32_t i = 0;
    while (rank >= 0 && i < f->n &&
           (f->at[i].done >> rank & 1 || f->at[i].sent <= (uint32_t)rank / f->tp))
        i++;
    return i;
}

static uint32_t bits_of(const struct in_flight *f, uint32_t stage)
{
    return (uint32_t)((1ull << f->tp) - 1) << stage * f->tp;
}

/* All ranks of the stage are done with the batch. */
static int stage_is_done(const struct in_flight *f, uint32_t done, uint32_t stage)
{
    return (done & bits_of(f, stage)) == bits_of(f, stage);
}

/* The stage after has read what this stage would write over: the batch that had the buffer is done
 * there, or not in flight any more. */
static int has_room_after(
    const struct in_flight *f, const struct in_flight_batch *b, uint32_t stage)
{
    for (uint32_t i = 0; stage + 1 < f->pp && i < f->n; i++)
        if (f->at[i].token.sequence + PIPELINE_BUFFERS == b->token.sequence)
            return stage_is_done(f, f->at[i].done, stage + 1);
    return 1;
}

int in_flight_may_go_on(const struct in_flight *f, const struct in_flight_batch *b)
{
    return b->sent < f->pp && (b->sent == 0 || stage_is_done(f, b->done, b->sent - 1)) &&
           has_room_after(f, b, b->sent);
}

int in_flight_done(
    const struct in_flight *f, struct in_flight_batch *b, const struct control *c, struct err *e)
{
    uint32_t rank = (uint32_t)c->rank, stage = rank / f->tp, first = (f->pp - 1) * f->tp,
             all = (uint32_t)((1ull << f->tp * f->pp) - 1), done = b->done | 1u << rank;
    if (b->sent <= stage)
        return err_set(
            e, ASSAY_EFORMAT, "rank %u is done with a batch that it was not given", rank);
    if (b->done >> first && rank >= first && b->digest != c->digest)
        return err_set(
            e, ASSAY_EFORMAT, "rank %u disagrees with the others about a batch's scores", rank);
    if (rank >= first) /* the last stage has the scores */
        b->digest = c->digest;
    if (stage_is_done(f, done, stage))
        b->ms += c->ms;
    if (done == all) /* until its results are taken it counts as running */
        return 1;
    b->done = done;
    return 0;
}
