/* in_flight.c - see in_flight.h. A hash table with open addressing; row number 0 marks a free slot,
 * and a removal moves the entries after it back. */
#include "broker/sched/in_flight.h"

#include <stdlib.h>

#include "schema/log.h"

void in_flight_init(struct in_flight *s)
{
    *s = (struct in_flight){.room = 4096};
    s->at = xcalloc(s->room, sizeof *s->at);
}

void in_flight_release(struct in_flight *s)
{
    free(s->at);
}

static size_t slot_of(const struct in_flight *s, int64_t row)
{
    size_t at = (size_t)((uint64_t)row * 0x9e3779b97f4a7c15ull >> 17) & (s->room - 1);
    while (s->at[at].row_id != 0 && s->at[at].row_id != row)
        at = (at + 1) & (s->room - 1);
    return at;
}

int in_flight_have(const struct in_flight *s, int64_t row)
{
    return s->at[slot_of(s, row)].row_id == row;
}

void in_flight_add(struct in_flight *s, int64_t row, struct row *line)
{
    if (2 * (s->n + 1) > s->room) {
        struct in_flight bigger = {xcalloc(2 * s->room, sizeof *s->at), s->n, 2 * s->room};
        for (size_t i = 0; i < s->room; i++)
            if (s->at[i].row_id != 0)
                bigger.at[slot_of(&bigger, s->at[i].row_id)] = s->at[i];
        free(s->at);
        *s = bigger;
    }
    s->at[slot_of(s, row)] = (struct in_flight_row){row, line};
    s->n++;
}

void in_flight_remove(struct in_flight *s, int64_t row)
{
    size_t hole = slot_of(s, row);
    if (s->at[hole].row_id == 0)
        return;
    s->at[hole] = (struct in_flight_row){0};
    s->n--;
    for (size_t at = (hole + 1) & (s->room - 1); s->at[at].row_id != 0;
         at = (at + 1) & (s->room - 1)) {
        struct in_flight_row moved = s->at[at];
        s->at[at] = (struct in_flight_row){0};
        s->at[slot_of(s, moved.row_id)] = moved;
    }
}

struct row *in_flight_find_row(const struct in_flight *s, int64_t row)
{
    return s->at[slot_of(s, row)].row;
}
