/* leases.h - the rows that were given out and are not back: a set, and for rows of several sequences what those
 * have in common. Rows have numbers other than 0. */
#ifndef ASSAY_LEASES_H
#define ASSAY_LEASES_H

#include <stddef.h>

#include "broker/row.h"

struct lease {
    int64_t row;
    struct line *line; /* borrowed; NULL: a row of one sequence */
};
struct leases {
    struct lease *at; /* [room] */
    size_t n, room;
};

void leases_init(struct leases *s);
void leases_release(struct leases *s);
void leases_add(struct leases *s, int64_t row, struct line *line); /* not there yet */
void leases_remove(struct leases *s, int64_t row);                 /* there, or not */
int leases_have(const struct leases *s, int64_t row);
struct line *leases_line(const struct leases *s, int64_t row); /* NULL too when it is not there */

#endif
