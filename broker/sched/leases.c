/* leases.c - see leases.h. Open addressing, row 0 is free, removal by moving back. */
#include "broker/sched/leases.h"

#include <stdlib.h>

#include "schema/log.h"

void leases_init(struct leases *s)
{
    *s = (struct leases){.room = 4096};
    s->at = xcalloc(s->room, sizeof *s->at);
}

void leases_release(struct leases *s)
{
    free(s->at);
}

static size_t slot_of(const struct leases *s, int64_t row)
{
    size_t at = (size_t)((uint64_t)row * 0x9e3779b97f4a7c15ull >> 17) & (s->room - 1);
    while (s->at[at].row != 0 && s->at[at].row != row)
        at = (at + 1) & (s->room - 1);
    return at;
}

int leases_have(const struct leases *s, int64_t row)
{
    return s->at[slot_of(s, row)].row == row;
}

void leases_add(struct leases *s, int64_t row, struct line *line)
{
    if (2 * (s->n + 1) > s->room) {
        struct leases bigger = {xcalloc(2 * s->room, sizeof *s->at), s->n, 2 * s->room};
        for (size_t i = 0; i < s->room; i++)
            if (s->at[i].row != 0)
                bigger.at[slot_of(&bigger, s->at[i].row)] = s->at[i];
        free(s->at);
        *s = bigger;
    }
    s->at[slot_of(s, row)] = (struct lease){row, line};
    s->n++;
}

void leases_remove(struct leases *s, int64_t row)
{
    size_t hole = slot_of(s, row);
    if (s->at[hole].row == 0)
        return;
    s->at[hole] = (struct lease){0};
    s->n--;
    for (size_t at = (hole + 1) & (s->room - 1); s->at[at].row != 0;
         at = (at + 1) & (s->room - 1)) {
        struct lease moved = s->at[at];
        s->at[at] = (struct lease){0};
        s->at[slot_of(s, moved.row)] = moved;
    }
}

struct line *leases_line(const struct leases *s, int64_t row)
{
    return s->at[slot_of(s, row)].line;
}
