/* coalesce.c - see coalesce.h. */
#include "broker/http/coalesce.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/clock.h"

void ticket_release(struct ticket *t)
{
    for (uint32_t i = 0; t->results && i < t->rows->n; i++)
        row_result_release(&t->results[i]);
    free(t->results);
    t->results = NULL;
}

void coalesce_init(struct coalesce *c)
{
    *c = (struct coalesce){0};
    c->end = &c->first;
}

void coalesce_add(struct coalesce *c, struct ticket *t, long long now_us)
{
    t->since_us = c->last_us = now_us;
    t->next = NULL;
    *c->end = t;
    c->end = &t->next;
    c->n++;
    c->n_rows += t->rows->n;
    c->n_bytes += t->rows->bytes.buffer.size;
}

static void uncount(struct coalesce *c, const struct ticket *t)
{
    c->n--;
    c->n_rows -= t->rows->n;
    c->n_bytes -= t->rows->bytes.buffer.size;
}

void coalesce_remove(struct coalesce *c, struct ticket *t)
{
    struct ticket **at = &c->first;
    while (*at && *at != t)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = t->next;
    if (c->end == &t->next)
        c->end = at;
    t->next = NULL;
    uncount(c, t);
}

/* Nothing is with the broker, and nobody is expected: one request waits, and came after the last job's
 * end. */
static int is_idle(const struct coalesce *c, const struct coalesce_load *load)
{
    long long after_us = c->first->since_us - load->last_end_us;
    long long least_us = load->last_was_shared ? COALESCE_RECENT_US : 0;
    return c->n == 1 && load->n_sent == 0 && (load->last_end_us == 0 || after_us >= least_us);
}

static long long later(long long a, long long b)
{
    return a > b ? a : b;
}

long long coalesce_due(const struct coalesce *c, const struct coalesce_load *load)
{
    if (!c->first || load->n_sent > load->n_groups)
        return FOREVER;
    long long first = c->first->since_us, free_us = load->last_end_us;
    if (is_idle(c, load))
        return first;
    if (load->n_sent >= load->n_groups)
        free_us = later(free_us, load->soonest_end_us - COALESCE_LEAD_US);
    else if (load->n_sent > 0)
        free_us = 0; /* a group may have been idle all the time */
    long long takes_us = load->takes_us < COALESCE_LONG_US ? load->takes_us : COALESCE_LONG_US;
    long long most_us = later(COALESCE_MOST_US, takes_us / COALESCE_MOST_PART);
    long long quiet_us = later(COALESCE_QUIET_US, takes_us / COALESCE_QUIET_PART);
    long long most = later(first, free_us) + most_us;
    long long due = later(c->last_us + quiet_us, first + COALESCE_LEAST_US);
    due = due < most ? due : most;
    return later(due, free_us);
}

struct ticket *coalesce_take(struct coalesce *c, uint32_t max_rows, size_t max_bytes)
{
    struct ticket *all = c->first, *last = NULL;
    uint32_t n_rows = 0;
    size_t n_bytes = 0;
    for (struct ticket *t = all; t; t = t->next) {
        n_rows += t->rows->n;
        n_bytes += t->rows->bytes.buffer.size;
        if (last && (n_rows > max_rows || n_bytes > max_bytes))
            break;
        uncount(c, t);
        last = t;
    }
    if (!last)
        return NULL;
    c->first = last->next;
    if (!c->first)
        c->end = &c->first;
    last->next = NULL;
    return all;
}

static struct slice content(const struct job_row *row)
{
    const struct rows *rows = row->ticket->rows;
    const struct row_place *place = &rows->all[row->i];
    const uint8_t *bytes = (const uint8_t *)rows->bytes.buffer.data + place->at;
    return (struct slice){bytes + place->content, place->len - place->content};
}

static int compare(const void *a, const void *b)
{
    struct slice x = content(a), y = content(b);
    size_t n = x.len < y.len ? x.len : y.len;
    int order = n > 0 ? memcmp(x.at, y.at, n) : 0;
    return order ? order : (x.len > y.len) - (x.len < y.len);
}

/* Merges two sorted halves of `from` into `to`; of equal rows those of the left come first. */
static void merge(struct job_row *to, const struct job_row *from, uint32_t half, uint32_t n)
{
    uint32_t left = 0, right = half;
    for (uint32_t k = 0; k < n; k++) {
        int takes_left = right == n || (left < half && compare(&from[left], &from[right]) <= 0);
        to[k] = takes_left ? from[left++] : from[right++];
    }
}

static void sort(struct job_row *rows, struct job_row *spare, uint32_t n)
{
    if (n < 2)
        return;
    sort(rows, spare, n / 2);
    sort(rows + n / 2, spare, n - n / 2);
    memcpy(spare, rows, n * sizeof *rows);
    merge(rows, spare, n / 2, n);
}

void coalesce_order(struct job_row *rows, uint32_t n)
{
    struct job_row *spare = xcalloc(n, sizeof *spare);
    sort(rows, spare, n);
    free(spare);
}
