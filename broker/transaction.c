/* transaction.c - the steps around the store's begin, commit and rollback, and what a failed
 * write puts off (transaction.h). */
#include "broker/transaction.h"

#include <sysexits.h>

#include "schema/log.h"

int transaction_begin(struct broker *b, struct err *e)
{
    if (b->in_transaction)
        return 0;
    int rc = store_begin_later(b->store, e);
    b->in_transaction = rc == 0;
    return rc;
}

int transaction_begin_synced(struct broker *b, struct err *e)
{
    int rc = transaction_commit(b, e);
    if (store_may_pass(rc)) /* that was for show */
        transaction_forgo(b, e);
    else if (rc != 0)
        return rc;
    rc = store_begin(b->store, e);
    b->in_transaction = rc == 0;
    return rc;
}

int transaction_commit(struct broker *b, struct err *e)
{
    if (!b->in_transaction)
        return 0;
    b->in_transaction = 0;
    int rc = store_commit(b->store, e);
    /* small ones may find room where held outcomes find none */
    if (rc == 0 && b->cannot_write != 0 && b->held.again_ms == 0) {
        log_info(
            "event=%s", b->cannot_write == ASSAY_EFULL ? "disk_has_room" : "database_unlocked");
        b->cannot_write = 0;
    }
    return rc;
}

void transaction_rollback(struct broker *b)
{
    if (b->in_transaction)
        store_rollback(b->store);
    b->in_transaction = 0;
}

_Noreturn void transaction_die(struct broker *b, const struct err *e)
{
    if (b->at_end)
        b->at_end(b, e->msg);
    if (e->code == ASSAY_EGONE)
        die(EX_OSFILE, "event=database_gone error=\"%s\"", e->msg);
    die(EX_IOERR, "event=database_failed outcome=unknown error=\"%s\"", e->msg);
}

void transaction_cannot_write(struct broker *b, const struct err *e)
{
    if (!store_may_pass(e->code))
        transaction_die(b, e);
    if (b->cannot_write != e->code)
        log_warn("event=%s error=\"%s\" action=\"work waits until it can be written\"",
            e->code == ASSAY_EFULL ? "disk_full" : "database_locked", e->msg);
    b->cannot_write = e->code;
}

void transaction_refuse(struct err *e)
{
    e->retry_after_ms = e->code == ASSAY_EFULL ? 5000 : 1000;
    e->code = ASSAY_EQUEUEFULL;
}

void transaction_forgo(struct broker *b, const struct err *e)
{
    transaction_rollback(b);
    transaction_cannot_write(b, e);
}
