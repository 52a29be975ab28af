/* share.c - which rows of a batch share their first tokens (row.h, stage.h).
 *
 * Responses to one prompt come next to each other, so a row is only compared with the group that the
 * batch ends in: rows that all share the same n first tokens with the first of them, their leader.
 * A row that comes has four ways, and takes the one with the fewest tokens to compute:
 *     join        it shares the n tokens, or all share fewer: as many as it has in common with the
 *                 leader
 *     detach      the last row of the group leaves it and leads a new one with this row: a prompt's
 *                 first response joins the prompt before by what both begin with (a system prompt,
 *                 say); with its second response it is seen that there is more to share
 *     begin       it shares nothing, and is there whole: a leader, should others come
 * One level only: what a group has in common with the next is computed in both. */
#include "broker/row.h"

/* First tokens that two rows have in common, up to `most`. */
static uint32_t common(const struct row *a, const struct row *b, uint32_t most)
{
    uint32_t n = 0;
    while (n < most && a->ids[n] == b->ids[n])
        n++;
    return n;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* What r could share with this leader: all of it, but at least one token must be r's own. */
static uint32_t shareable(
    const struct batch *b, const struct row *leader, const struct row *r, uint32_t most)
{
    most = least(most, least(leader->n_tokens, r->n_tokens - 1));
    uint32_t n = most < b->min_shared ? 0 : common(leader, r, most);
    return n < b->min_shared ? 0 : n;
}

struct joining batch_try(const struct batch *b, const struct row *r)
{
    uint64_t least_tokens = (uint64_t)b->n_tokens + r->n_tokens, tokens;
    struct joining best = {0, 0, (uint32_t)least_tokens};
    if (b->min_shared == 0 || b->n_rows == 0)
        return best;
    const struct row *leader = b->rows[b->leader], *last = b->rows[b->n_rows - 1];
    uint32_t followers = b->n_rows - 1 - b->leader, now = followers ? last->n_shared : UINT32_MAX;
    uint32_t n = shareable(b, leader, r, now);
    tokens = (uint64_t)b->n_tokens + r->n_tokens - n + (uint64_t)followers * (now - n);
    if (n > 0 && tokens < least_tokens)
        best = (struct joining){n, 0, (uint32_t)(least_tokens = tokens)};
    if (followers == 0)
        return best;
    n = shareable(b, last, r, UINT32_MAX);
    tokens = (uint64_t)b->n_tokens + last->n_shared + r->n_tokens - n;
    if (n > 0 && tokens < least_tokens)
        best = (struct joining){n, 1, (uint32_t)tokens};
    return best;
}
