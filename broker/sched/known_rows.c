/* known_rows.c - rows that need not be computed: those whose results are known go into a batch of
 * their own, and duplicates of a row in flight wait with it until it comes back (planner.h).
 * dedupe.c says which they are. */
#include <string.h>

#include "broker/sched/planner_private.h"
#include "schema/alloc.h"

#define LOOK_AHEAD 16

void planner_use_dedupe(struct planner *p, struct dedupe *dedupe)
{
    p->dedupe = dedupe;
    if (dedupe)
        dedupe_use_rows(dedupe, &p->in_flight);
}

static int has_room_for_known(const struct planner *p, const struct sequence *r)
{
    const struct batch *b = p->known;
    return !b || (b->n_rows < PLANNER_KNOWN_ROWS &&
                     b->n_tokens + (uint64_t)r->n_tokens <= PLANNER_KNOWN_TOKENS &&
                     (uint64_t)b->n_values + r->n_values <= p->lanes[r->lane].limits.max_values);
}

static int has_room_to_wait(const struct planner *p, const struct sequence *r)
{
    return p->n_waiting == 0 ||
           (p->n_waiting < PLANNER_KNOWN_ROWS &&
               p->waiting_tokens + (uint64_t)r->n_tokens <= PLANNER_KNOWN_TOKENS);
}

static void wait_for(struct planner *p, struct sequence *primary, struct sequence *r)
{
    p->n_waiting++;
    p->waiting_tokens += r->n_tokens;
    r->next = primary->duplicates;
    primary->duplicates = r;
}

void planner_stop_waiting(struct planner *p, const struct sequence *r)
{
    p->n_waiting--;
    p->waiting_tokens -= r->n_tokens;
}

static void add_known(struct planner *p, struct sequence *r)
{
    if (!p->known)
        p->known = batch_new(PLANNER_KNOWN_ROWS, 0);
    p->known->known = 1;
    batch_add(p->known, &r);
}

/* The dedupe table is large: prefetches the entries of the next rows. */
static void look_ahead(struct planner *p, struct line *l)
{
    uint32_t n = 0;
    if (l->looked-- > 0)
        return;
    for (struct sequence *r = l->first; r && n < LOOK_AHEAD; r = r->next, n++)
        dedupe_prefetch(p->dedupe, r);
    l->looked = n;
}

/* Takes the first row of the choice if it need not be computed: 1: taken; 0: not: it must be
 * computed, or (*full) there is no room for it, or dedupe cannot tell yet. */
static int take_known(struct planner *p, struct queue *q, struct choice c, int *full, struct err *e)
{
    struct sequence *primary = NULL, *r = queues_first(q, c);
    int found = DEDUPE_KNOWN; /* a damaged row: its error is known */
    if (p->dedupe)
        look_ahead(p, queues_line_of(q, r));
    if (r->found_error == 0)
        found = p->dedupe ? dedupe_find(p->dedupe, r, &primary, e) : DEDUPE_NONE;
    *full = found == DEDUPE_LATER || (found == DEDUPE_KNOWN && !has_room_for_known(p, r)) ||
            (found == DEDUPE_UNDER_WAY && !has_room_to_wait(p, r));
    if (found <= 0 || *full)
        return found < 0 ? found : 0;
    queues_take(q, c);
    planner_note_turn(p, q);
    planner_mark_in_flight(p, r);
    if (found == DEDUPE_UNDER_WAY)
        wait_for(p, primary, r);
    else
        add_known(p, r);
    return 1;
}

int planner_skip_known(struct planner *p, struct queue *q, struct choice c, struct err *e)
{
    int rc = 1, full = 0, taken = 0;
    while (rc == 1 && (rc = planner_fill_window(p, q, c, e)) == 0 && queues_first(q, c)) {
        rc = take_known(p, q, c, &full, e);
        taken |= rc == 1;
    }
    /* Tokens that it did not need to compute give it no credit. */
    if (taken)
        q->copies = 1;
    if (taken && q->priority == p->clock_priority && q->served < p->clock)
        queues_serve(&p->queues, q, p->clock);
    if (full)
        queues_stall(&p->queues, q);
    return rc < 0 ? rc : queues_first(q, c) && !full;
}

static void pack_values(struct batch *b)
{
    float *to = b->values = xcalloc(b->n_values + 1, sizeof *b->values);
    for (uint32_t i = 0; i < b->n_rows; to += b->rows[i++]->n_values)
        memcpy(to, b->rows[i]->found_values, b->rows[i]->n_values * sizeof *to);
}

int planner_known(struct planner *p, struct batch **b, struct err *e)
{
    int rc = 0;
    p->round++;
    queues_begin_round(&p->queues);
    if (p->dedupe)
        dedupe_reset_budget(p->dedupe);
    for (size_t k = 0; p->dedupe && rc >= 0 && k < p->queues.n; k++) {
        struct queue *q = p->queues.by_job[(p->round + k) % p->queues.n];
        /* skips jobs before their first turn: there may be many */
        for (uint32_t lane = 0; rc >= 0 && lane < q->n_lanes; lane++)
            if (queues_first(q, planner_all(lane)) || q->copies)
                rc = planner_skip_known(p, q, planner_all(lane), e);
    }
    if (rc < 0 || !p->known)
        return rc < 0 ? rc : 0;
    *b = p->known;
    p->known = NULL;
    pack_values(*b);
    return 1;
}

void planner_end_row(struct planner *p, struct sequence *r, const float *values)
{
    struct sequence *duplicate = r->duplicates, *next;
    int answered = r->answer != ROW_NO_ANSWER;
    r->duplicates = NULL;
    for (; duplicate; duplicate = next) {
        next = duplicate->next;
        duplicate->next = NULL;
        planner_stop_waiting(p, duplicate);
        if (!answered) {
            planner_run_again(p, duplicate);
            continue;
        }
        planner_clear_in_flight(p, duplicate);
        sequence_free(&duplicate);
    }
    if (p->dedupe)
        dedupe_remove_primary(p->dedupe, r, r->answer == ROW_VALUES ? values : NULL);
    planner_clear_in_flight(p, r);
}
