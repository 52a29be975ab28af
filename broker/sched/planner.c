/* planner.c - fills batches from the queues of jobs, and runs lost ones again (planner.h).
 *
 * A queue is a job with rows to run: a window of them read from the store, and a cursor where the
 * next window begins. The next row to run is the first row of the first queue by (stalled,
 * priority, tokens served, job): queues.c. Rows in flight are in a set, so that a window read again
 * after a retry does not give them out twice.
 *
 * Rows that need not be computed are taken out of the queues on the way (known_rows.c).
 *
 * Batches that came back from a dead group wait in `again` or, if suspect, in `suspects`, which
 * goes first; planner_lost halves a suspect. While a suspect waits or runs, nothing else does:
 * otherwise it would not be clear which row to blame. */
#include <stdlib.h>

#include "broker/sched/planner_private.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define LEAST_WINDOW 4 /* rows */

/* ---- queues ---- */

/* Returns the token budget of a batch: few at first, then as many as went out so far. */
static uint32_t present_tokens(const struct planner_lane *l)
{
    uint64_t tokens = l->given_out > l->limits.first_tokens ? l->given_out : l->limits.first_tokens;
    return tokens < l->limits.max_tokens ? (uint32_t)tokens : l->limits.max_tokens;
}

/* Returns the token budget of a batch whose last rows share n_shared tokens. */
static uint64_t token_budget(const struct planner_lane *l, uint32_t n_shared)
{
    uint32_t most = present_tokens(l);
    int is_first = most < l->limits.max_tokens;
    uint64_t budget =
        (uint64_t)(is_first ? PLANNER_FIRST_SHARED_TIMES : PLANNER_SHARED_TIMES) * n_shared;
    if (budget > l->limits.slot_tokens)
        budget = l->limits.slot_tokens;
    return budget > most ? budget : most;
}

static int fits(const struct planner_lane *l, const struct batch *b, const struct sequence *r)
{
    if (b->n_rows == l->limits.max_rows ||
        (uint64_t)b->n_pooled + sequence_pooled(r) > l->limits.slot_tokens ||
        (uint64_t)b->n_positions + r->n_positions > l->limits.max_positions ||
        (uint64_t)b->n_values + r->n_values > l->limits.max_values)
        return 0;
    struct joining j = batch_try(b, r);
    return j.n_tokens <= token_budget(l, j.n_shared);
}

static struct batch *new_batch(const struct planner *p, uint32_t lane, uint32_t min_shared)
{
    struct batch *b = batch_new(p->lanes[lane].limits.max_rows, min_shared);
    b->lane = lane;
    return b;
}

void planner_run_again(struct planner *p, struct sequence *r)
{
    struct planner_lane *l = &p->lanes[r->lane];
    r->origin = ROW_COMPUTED;
    r->found_error = 0;
    if (p->dedupe)
        dedupe_add_lone(p->dedupe, r);
    if (!l->again || !fits(l, l->again, r))
        batch_push(&l->again, new_batch(p, r->lane, l->limits.min_shared));
    batch_add(l->again, &r);
}

/* Empties the window. Sequences of a row in flight run all the same: a row is finished as a whole
 * or not at all. */
static void clear_window(struct planner *p, struct queue *q)
{
    for (uint32_t lane = 0; lane < q->n_lanes; lane++)
        while (queues_first(q, planner_all(lane))) {
            struct sequence *r = queues_take(q, planner_all(lane));
            if (!r->of || !r->of->is_in_flight)
                sequence_free(&r);
            else
                planner_run_again(p, r);
        }
    for (uint32_t i = 0; i < q->n_lanes * q->n_homes; i++)
        q->lines[i].looked = 0;
}

static void remove_queue(struct planner *p, struct queue *q)
{
    clear_window(p, q);
    homes_forget_job(p->homes, q->job);
    queues_remove(&p->queues, &q);
}

static void add_queue(struct planner *p, const struct store_job *j)
{
    queues_add(&p->queues, j->job, j->priority)->fresh = j->fresh;
}

static int may_run(const struct store_job *j)
{
    return !j->cancelled && !j->paused && !j->held && j->done < j->placed;
}

int planner_job_changed(struct planner *p, int64_t job, struct err *e)
{
    struct store_job j;
    struct queue *q = queues_find(&p->queues, job);
    int rc = store_get_job(p->store, job, &j, e);
    if (rc < 0)
        return rc;
    if (rc == 0 || !may_run(&j)) {
        if (q)
            remove_queue(p, q);
        homes_forget_job(p->homes, job);
        return 0;
    }
    if (!q)
        add_queue(p, &j);
    else
        q->rescan = 1;
    return 0;
}

struct window {
    struct planner *p;
    struct queue *q;
    uint32_t n;
};

static void take_row(void *arg, struct sequence *r)
{
    struct window *w = arg;
    w->n++;
    w->q->after = r->row_id;
    w->q->row_tokens = r->n_tokens;
    r->fresh = w->q->fresh;
    int place = store_place_of(w->p->store, r->mode);
    r->lane = (uint32_t)(place >= 0 ? place : store_first_place(w->p->store));
    r->session = homes_session_of(w->p->homes, r->row_id);
    r->home = homes_find(w->p->homes, r->session, r->lane);
    if (table_has(&w->p->in_flight, r->row_id) || (place < 0 && !r->found_error)) {
        sequence_free(&r);
        return;
    }
    queues_put(w->q, r);
}

/* Returns the number of rows of the next window: some batches' worth, if they are as long as the
 * last row read, divided among the queues. They take turns, so all of their windows end, and are
 * read, at about the same time. */
static uint32_t window_rows(const struct planner *p, uint32_t lane, const struct queue *q)
{
    uint64_t rows = q->row_tokens ? 8ull * p->lanes[lane].limits.max_tokens / q->row_tokens : 64;
    uint64_t most = PLANNER_WINDOW / (p->queues.n > 0 ? p->queues.n : 1);
    uint64_t least = most < 16 ? most : 16;
    rows = rows < least ? least : rows > most ? most : rows;
    return rows < LEAST_WINDOW ? LEAST_WINDOW : (uint32_t)rows;
}

struct sequence *planner_first(const struct planner *p, struct queue *q, struct choice c)
{
    const struct choice homeless = {c.lane, HOMES_BIT(0)};
    struct sequence *r;
    uint32_t home;
    while (p->homes && (r = queues_first(q, homeless)) &&
           (home = homes_find(p->homes, r->session, c.lane)) != 0) {
        queues_take(q, homeless);
        r->home = home;
        queues_put(q, r);
    }
    return queues_first(q, c);
}

int planner_fill_window(struct planner *p, struct queue *q, struct choice c, struct err *e)
{
    while (!planner_first(p, q, c) && (!q->exhausted || q->rescan) && q->n_held < PLANNER_HELD) {
        if (q->exhausted) { /* what it holds is read once more */
            clear_window(p, q);
            q->after = 0;
            q->rescan = 0;
        }
        struct window w = {p, q, 0};
        struct store_page page = {q->job, (uint64_t)q->after, window_rows(p, c.lane, q)};
        int rc = store_queued_rows(p->store, &page, take_row, &w, e);
        if (rc != 0)
            return rc;
        q->exhausted = w.n < page.limit;
    }
    return 0;
}

/* Chooses the queue whose turn it is and fills its window: 1, or 0 when none has a row of the choice
 * that can be taken. Queues without rows are removed at their turn: a queue that only waits for
 * rows must not set the floor of tokens served for new ones. */
static int choose_queue(struct planner *p, struct choice c, struct queue **out, struct err *e)
{
    while (p->queues.n > 0 && !p->queues.heap[0]->stalled) {
        *out = p->queues.heap[0];
        int rc = planner_fill_window(p, *out, c, e);
        if (rc != 0)
            return rc;
        if (planner_first(p, *out, c))
            return 1;
        if ((*out)->n_held > 0)
            queues_stall(&p->queues, *out);
        else
            remove_queue(p, *out);
    }
    return 0;
}

/* ---- batches ---- */

/* Adds the queue of a job that was unfinished when the broker started. */
static int note_job(void *arg, const struct store_job *j)
{
    if (may_run(j))
        add_queue(arg, j);
    return 0;
}

int planner_new(
    struct planner **out, struct store *store, const struct planner_limits *limits, struct err *e)
{
    struct planner *p = xcalloc(1, sizeof *p);
    p->store = store;
    for (uint32_t lane = 0; lane < STORE_MODELS; lane++)
        planner_set_limits(p, lane, limits);
    *out = p;
    int rc = store_each_job(
        store, &(struct store_job_page){JOBS_UNFINISHED, 0, UINT32_MAX}, note_job, p, e);
    if (rc != 0)
        planner_free(out);
    return rc;
}

void planner_use_homes(struct planner *p, struct homes *homes, uint32_t n_homes)
{
    p->homes = homes;
    p->queues.n_homes = 1 + n_homes;
    for (size_t i = 0; i < p->queues.n; i++) /* none of their rows is read yet */
        p->queues.by_job[i]->n_homes = 1 + n_homes;
}

void planner_set_limits(struct planner *p, uint32_t lane, const struct planner_limits *limits)
{
    p->lanes[lane].limits = *limits;
    p->lanes[lane].given_out = limits->first_tokens == 0 ? UINT32_MAX : 0;
}

void planner_free(struct planner **out)
{
    struct planner *p = *out;
    if (!p)
        return;
    while (p->queues.n > 0)
        remove_queue(p, p->queues.heap[p->queues.n - 1]);
    queues_release(&p->queues);
    for (uint32_t lane = 0; lane < STORE_MODELS; lane++) {
        batch_free_all(&p->lanes[lane].suspects);
        batch_free_all(&p->lanes[lane].again);
    }
    batch_free(&p->known);
    table_release(&p->in_flight);
    free(p);
    *out = NULL;
}

void planner_mark_in_flight(struct planner *p, const struct sequence *r)
{
    if (!r->of || !r->of->is_in_flight)
        table_set(&p->in_flight, r->row_id, r->of);
    if (r->of)
        r->of->is_in_flight = 1;
}

void planner_clear_in_flight(struct planner *p, const struct sequence *r)
{
    if (!r->of || ++r->of->n_back == r->of->n_parts)
        table_remove(&p->in_flight, r->row_id);
}

const uint32_t planner_wait_bounds_ms[PLANNER_WAIT_BOUNDS] = {
    1, 5, 10, 50, 100, 500, 1000, 5000, 10000, 60000, 300000, 3600000};

void planner_note_turn(struct planner *p, struct queue *q)
{
    long long now_us = now_mono_us(), waited_us = now_us - q->since_us;
    int k = 0;
    q->since_us = now_us;
    if (q->begun)
        return;
    q->begun = 1;
    while (k < PLANNER_WAIT_BOUNDS && waited_us > 1000ll * planner_wait_bounds_ms[k])
        k++;
    p->waits.n[k]++;
    p->waits.sum_us += (uint64_t)waited_us;
}

const struct planner_waits *planner_waits(const struct planner *p)
{
    return &p->waits;
}

long long planner_longest_wait_us(const struct planner *p)
{
    long long since_us = now_mono_us(), now_us = since_us;
    for (size_t i = 0; i < p->queues.n; i++) {
        const struct queue *q = p->queues.heap[i];
        int has_rows = q->n_held > 0 || !q->exhausted || q->rescan;
        if (has_rows && q->since_us < since_us)
            since_us = q->since_us;
    }
    return now_us - since_us;
}

/* Moves the queue's first row of the choice, which must be computed, into the batch. */
static void take_computed(struct planner *p, struct queue *q, struct choice c, struct batch *b)
{
    struct sequence *r = queues_take(q, c);
    uint32_t before = b->n_tokens;
    planner_note_turn(p, q);
    q->copies = 0;
    p->clock = q->served;
    p->clock_priority = q->priority;
    planner_mark_in_flight(p, r);
    if (p->dedupe)
        dedupe_add_primary(p->dedupe, r);
    batch_add(b, &r);
    queues_serve(&p->queues, q, q->served + b->n_tokens - before);
}

/* Moves rows from the queue into the batch as long as they share tokens with those before them. */
static int take_sharing(
    struct planner *p, struct queue *q, struct choice c, struct batch *b, struct err *e)
{
    int rc = 0;
    while (b->min_shared > 0 && (rc = planner_skip_known(p, q, c, e)) == 1 &&
           batch_try(b, queues_first(q, c)).n_shared > 0 &&
           fits(&p->lanes[c.lane], b, queues_first(q, c)))
        take_computed(p, q, c, b);
    return rc < 0 ? rc : 0;
}

/* Fills a new batch from the queues: 1, or 0 and NULL when no row is ready. */
static int fill_batch(struct planner *p, struct choice c, struct batch **out, struct err *e)
{
    struct planner_lane *l = &p->lanes[c.lane];
    struct batch *b = NULL;
    struct queue *q;
    int rc;
    queues_begin_round(&p->queues);
    while ((rc = choose_queue(p, c, &q, e)) == 1 && (rc = planner_skip_known(p, q, c, e)) >= 0) {
        if (rc == 0)
            continue;
        if (!b)
            b = new_batch(p, c.lane, l->limits.min_shared);
        else if (!fits(l, b, queues_first(q, c)))
            break;
        take_computed(p, q, c, b);
        if ((rc = take_sharing(p, q, c, b, e)) < 0)
            break;
    }
    *out = b;
    if (b && l->given_out < l->limits.max_tokens)
        l->given_out += b->n_tokens;
    return rc < 0 ? rc : b != NULL;
}

/* ---- batches that come again ---- */

/* Whether nothing of the job is wanted any more: it was cancelled, or purged after that. */
static int is_over(const struct planner *p, int64_t job)
{
    struct store_job j;
    struct err ignored;
    int rc = store_get_job(p->store, job, &j, &ignored);
    return rc == 0 || (rc == 1 && j.cancelled);
}

/* Ends a sequence that nobody wants, and its duplicates: they are of the same job. */
static void drop(struct planner *p, struct sequence **out)
{
    struct sequence *r = *out;
    for (struct sequence *duplicate = r->duplicates; duplicate; duplicate = duplicate->next) {
        planner_stop_waiting(p, duplicate);
        planner_clear_in_flight(p, duplicate);
    }
    if (p->dedupe)
        dedupe_remove_primary(p->dedupe, r, NULL);
    planner_clear_in_flight(p, r);
    sequence_free(out);
}

/* Whether the sequence can be computed no more: its adapter is gone. The store has the row, for
 * when it is there again. */
static int is_gone(const struct planner *p, const struct sequence *r)
{
    return store_adapter_of(p->store, r->mode) == ADAPTERS_UNKNOWN;
}

/* Drops the batch's sequences that nobody wants, and leaves NULL in their places: how many. */
static uint32_t drop_unwanted(struct planner *p, struct batch *b)
{
    struct err ignored = {0};
    int64_t last = 0;
    uint32_t n = 0;
    int over = 0;
    for (uint32_t i = 0; i < b->n_rows; i++) {
        int64_t job = row_job(b->rows[i]->row_id);
        over = job == last ? over : is_over(p, job);
        last = job;
        int gone = !over && is_gone(p, b->rows[i]);
        n += (uint32_t)(over || gone);
        if (over || gone)
            drop(p, &b->rows[i]);
        if (gone)
            planner_job_changed(p, job, &ignored);
    }
    return n;
}

/* Makes a batch of what drop_unwanted has left of this one; NULL: nothing. They may share otherwise
 * than before. */
static struct batch *batch_of_rest(struct planner *p, struct batch *b)
{
    struct batch *rest = new_batch(p, b->lane, b->min_shared); /* planner_run_again may fill it */
    rest->suspect = b->suspect;
    for (uint32_t i = 0; i < b->n_rows; i++)
        if (b->rows[i] && (rest->n_rows == 0 || fits(&p->lanes[b->lane], rest, b->rows[i])))
            batch_add(rest, &b->rows[i]);
        else if (b->rows[i])
            planner_run_again(p, b->rows[i]);
    b->n_rows = 0; /* they have moved */
    batch_free(&b);
    if (rest->n_rows == 0)
        batch_free(&rest);
    return rest;
}

/* Takes the list's next batch that somebody wants; NULL: there is none. */
static struct batch *pop_wanted(struct planner *p, struct batch **list)
{
    struct batch *b;
    while ((b = batch_pop(list)))
        if (drop_unwanted(p, b) == 0 || (b = batch_of_rest(p, b)))
            break;
    return b;
}

static void drop_batches(struct planner *p, struct batch **list)
{
    struct batch *b;
    while ((b = batch_pop(list))) {
        for (uint32_t i = 0; i < b->n_rows; i++)
            drop(p, &b->rows[i]);
        b->n_rows = 0;
        batch_free(&b);
    }
}

void planner_forget_lane(struct planner *p, uint32_t lane)
{
    drop_batches(p, &p->lanes[lane].suspects);
    drop_batches(p, &p->lanes[lane].again);
    for (size_t i = 0; i < p->queues.n; i++) {
        struct queue *q = p->queues.by_job[i];
        while (queues_first(q, planner_all(lane))) {
            struct sequence *r = queues_take(q, planner_all(lane));
            if (r->of && r->of->is_in_flight)
                planner_clear_in_flight(p, r);
            sequence_free(&r);
            q->rescan = 1;
        }
    }
}

int planner_next(struct planner *p, struct choice c, int alone_ok, struct batch **b, struct err *e)
{
    struct planner_lane *l = &p->lanes[c.lane];
    *b = NULL;
    if (planner_isolating(p, c.lane)) {
        if (!alone_ok || l->suspects_running > 0)
            return 0;
        *b = pop_wanted(p, &l->suspects);
        l->suspects_running += *b != NULL;
    }
    if (!*b)
        *b = pop_wanted(p, &l->again);
    if (*b)
        return 1;
    if (p->dedupe)
        dedupe_reset_budget(p->dedupe);
    return fill_batch(p, c, b, e);
}

void planner_finished(struct planner *p, struct batch **b)
{
    const float *values = (*b)->values;
    if ((*b)->suspect)
        p->lanes[(*b)->lane].suspects_running--;
    for (uint32_t i = 0; i < (*b)->n_rows; i++) {
        uint32_t n_values = (*b)->rows[i]->n_values;
        planner_end_row(p, (*b)->rows[i], values);
        values = values ? values + n_values : NULL;
    }
    batch_free(b);
    if (p->dedupe)
        dedupe_flush(p->dedupe);
}

/* Moves rows [from, to) of b into a suspect batch of their own. */
static void push_part(struct planner *p, struct batch *b, uint32_t from, uint32_t to)
{
    struct batch *part = batch_new(to - from, b->min_shared);
    part->lane = b->lane;
    part->suspect = 1;
    for (uint32_t i = from; i < to; i++)
        batch_move(part, &b->rows[i]);
    batch_push(&p->lanes[b->lane].suspects, part);
}

int planner_lost(struct planner *p, struct batch **out, int was_running)
{
    struct batch *b = *out;
    struct planner_lane *l = &p->lanes[b->lane];
    free(b->values);
    b->values = NULL;
    if (b->suspect)
        l->suspects_running--;
    if (!was_running) {
        batch_push(b->suspect ? &l->suspects : &l->again, b);
        *out = NULL;
        return 0;
    }
    if (b->n_rows == 1 && b->suspect && ++b->rows[0]->attempts >= PLANNER_ATTEMPTS) {
        l->suspects_running++; /* until planner_finished */
        return 1;
    }
    uint32_t half = (b->n_rows + 1) / 2;
    if (half < b->n_rows)
        push_part(p, b, half, b->n_rows);
    push_part(p, b, 0, half);
    b->n_rows = 0; /* its rows have moved */
    batch_free(out);
    return 0;
}

int planner_isolating(const struct planner *p, uint32_t lane)
{
    return p->lanes[lane].suspects != NULL || p->lanes[lane].suspects_running > 0;
}

int planner_is_clear(const struct planner *p, uint32_t lane)
{
    return !planner_isolating(p, lane) && !p->lanes[lane].again;
}
