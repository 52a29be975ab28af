/* in_flight.h - the set of rows in flight: given out and not back. For a row of several sequences
 * it also keeps their struct row. Row numbers are not 0. */
#ifndef ASSAY_IN_FLIGHT_H
#define ASSAY_IN_FLIGHT_H

#include <stddef.h>

#include "broker/row.h"

struct in_flight_row {
    int64_t row_id;
    struct row *row; /* borrowed; NULL: a row of one sequence */
};
struct in_flight {
    struct in_flight_row *at; /* [room] */
    size_t n, room;
};

void in_flight_init(struct in_flight *s);
void in_flight_release(struct in_flight *s);
void in_flight_add(struct in_flight *s, int64_t row, struct row *line); /* not in the set yet */
void in_flight_remove(struct in_flight *s, int64_t row);                /* in the set or not */
int in_flight_have(const struct in_flight *s, int64_t row);
struct row *in_flight_find_row(
    const struct in_flight *s, int64_t row); /* NULL: a row of one sequence, or not in flight */

#endif
