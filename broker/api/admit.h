/* admit.h - judges one row's content and resolves its defaults: turns a requested row into one for
 * the store.
 *
 * Wrong content does not fail the request: the row is stored with its error and no work is done for
 * it. */
#ifndef ASSAY_ADMIT_H
#define ASSAY_ADMIT_H

#include "broker/api/catalog.h"
#include "broker/workers/model_info.h"
#include "broker/store/store.h"
#include "broker/text/compose.h"
#include "schema/request.h"

/* Most values that one row may give, so that a slot's output has a bound. */
#define ADMIT_MAX_VALUES (1u << 26)

/* Buffers that grow and are reused from row to row. Zero-initialize; release at the end. */
struct admit {
    const struct model_info *model;
    struct composer *composer; /* text to ids */
    int32_t *ids, *positions;
    uint32_t *ends; /* where each of the row's sequences ends in ids */
    uint32_t
        n_in_place; /* first tokens of the row's last sequence that a cut left at their place */
    struct composed composed; /* the row as it was before it is cut */
    uint32_t ids_room, positions_room, ends_room;
    struct packed_writer packed; /* for the rows that it judges: store_rows_new */
    /* route.h, between admit_use and admit_leave; catalog NULL: rows are for `model` */
    const struct catalog *catalog;
    const struct catalog_pins *pins;          /* NULL: none */
    struct composer *composers[CATALOG_MOST]; /* made as they are used; `composer` is one of them */
    uint64_t composers_of;                    /* the version of the catalog that they are for */
    char route[STORE_ROUTE_BYTES];
    int32_t *joined; /* an ensemble's ids */
    uint32_t joined_room, joined_parts_room;
    uint32_t *joined_ends; /* where each of its sequences ends in them */
    int32_t *joined_positions;
    char message[ERR_MESSAGE_BYTES];
};

void admit_release(struct admit *a);

/* Rows may name these models from now on, until admit_leave. Borrowed. NULL: rows are for
 * a->model. */
void admit_use(struct admit *a, const struct catalog *catalog, const struct catalog_pins *pins);
void admit_leave(struct admit *a);

/* Fills *out with q's row, or with its error. The pointers in *out are into q's message and the
 * buffers of `a`, valid until the next call. With truncate its sequences are cut
 * (truncation.h). */
void admit_row(struct admit *a, const struct row_request *q, struct store_row *out);

#endif
