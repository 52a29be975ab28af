/* catalog.h - the models that rows may name, as the threads that prepare messages see them, and
 * which of them a row gets.
 *
 * A catalog never changes. When a model comes or goes the loop makes another one; whoever prepares
 * something keeps the one that it began with, and what the models' pointers point to stays as long
 * as a catalog with them is in use. */
#ifndef ASSAY_CATALOG_H
#define ASSAY_CATALOG_H

#include <stdatomic.h>

#include "broker/text/compose.h"
#include "broker/workers/model_info.h"
#include "schema/err.h"
#include "schema/msg.h"

#define CATALOG_MOST 16
#define CATALOG_NONE UINT32_MAX

struct catalog_model {
    uint32_t id;    /* of struct served_model */
    int is_current; /* a name means it; else it is for the jobs that it is pinned to */
    const struct model_info *info;
    const struct text_model *text;
};

/* The first of the current ones is for rows that name none. */
struct catalog {
    struct catalog_model of[CATALOG_MOST];
    uint32_t n, n_current;
    uint64_t version;     /* no other has it; not 0 */
    atomic_uint n_users;  /* catalog_use */
    struct catalog *next; /* the loop's: of a list of earlier ones */
};

/* Models that are not current, but that names in the rows of a job mean all the same, since it
 * began with them. */
struct catalog_pins {
    uint32_t ids[CATALOG_MOST], n;
};

struct catalog *catalog_new(uint64_t version); /* one user */
void catalog_add(struct catalog *c, const struct catalog_model *m);
struct catalog *catalog_use(struct catalog *c); /* one more; c may be NULL */
/* One less, which frees it if it was the last; in any thread. NULL-safe. */
void catalog_let_go(struct catalog **c);

const struct catalog_model *catalog_first(const struct catalog *c); /* there must be one */
const struct catalog_model *catalog_of_id(const struct catalog *c, uint32_t id); /* NULL: none */
/* Finds the model by its name: among the pinned ones (NULL: none are), then among the current ones.
 * ASSAY_EMODEL, with the names that are there and with `field`. */
int catalog_find(const struct catalog *c, const struct catalog_pins *pins, const char *field,
    struct slice name, const struct catalog_model **m, struct err *e);

#endif
