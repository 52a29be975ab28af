/* in_flight.h - the rows that were given out and are not back: a set, and for rows of several sequences what those
 * have in common. Rows have numbers other than 0. */
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
void in_flight_add(struct in_flight *s, int64_t row, struct row *line); /* not there yet */
void in_flight_remove(struct in_flight *s, int64_t row);                /* there, or not */
int in_flight_have(const struct in_flight *s, int64_t row);
struct row *in_flight_find_row(
    const struct in_flight *s, int64_t row); /* NULL too when it is not there */

#endif
