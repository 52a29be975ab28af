/* route.h - chooses the model, or models, that a row goes through, and has it judged and written
 * for each (admit.h).
 *
 * A row of several models, an ensemble, is stored as one row with a sequence for each; of responses,
 * documents or a pair with all sequences of the first model, then all of the second, and so on. */
#ifndef ASSAY_ROUTE_H
#define ASSAY_ROUTE_H

#include "broker/api/admit.h"

/* Finds the model of rows that name none: the one that the message names (or the first of several),
 * else `given` (CATALOG_NONE: the first of all). ASSAY_EMODEL. *id is 0 where there is no
 * catalog. */
int route_base(const struct admit *a, const struct request_models *of_message, uint32_t given,
    uint32_t *id, struct err *e);

/* Are all the models of the message's list served, and the adapters in it loaded? ASSAY_EMODEL or
 * ASSAY_EADAPTER, by name: else every row would fail for what is no fault of the rows. */
int route_check_list(const struct admit *a, const struct request_models *of_message, struct err *e);

/* admit_row for the row's model or models; base: route_base's. */
void route_row(struct admit *a, uint32_t base, const struct row_request *q, struct store_row *out);

#endif
