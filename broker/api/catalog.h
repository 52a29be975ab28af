/* catalog.h - the models that rows may name, as the threads that prepare messages see them, and
 * which of them a row gets. */
#ifndef ASSAY_CATALOG_H
#define ASSAY_CATALOG_H

#include "broker/text/compose.h"
#include "broker/workers/model_info.h"
#include "schema/err.h"
#include "schema/msg.h"

#define CATALOG_MOST 16
#define CATALOG_NONE UINT32_MAX

struct catalog_model {
    uint32_t id; /* of struct served_model */
    const struct model_info *info;
    const struct text_model *text;
};

/* In the order in which they were given: the first is for rows that name none. Everything in it is
 * read-only once threads use it. */
struct catalog {
    struct catalog_model of[CATALOG_MOST];
    uint32_t n;
};

void catalog_add(struct catalog *c, const struct catalog_model *m);
const struct catalog_model *catalog_of_id(const struct catalog *c, uint32_t id); /* NULL: none */
/* Finds the model by its name. ASSAY_EMODEL, with the names that are there and with `field`. */
int catalog_find(const struct catalog *c, const char *field, struct slice name,
    const struct catalog_model **m, struct err *e);

#endif
