/* send.c - asks the store how far it is synced, and sends the replies and events made until then
 * (send.h). */
#include "broker/api/send.h"

#include "broker/api/progress.h"
#include "broker/transaction.h"

#define REPLY_BYTES (64u << 20) /* of waiting replies; beyond, no more requests are taken */
/* The same as a count. They all leave at once, perhaps to one client, for which libzmq keeps a
 * thousand: it would drop the rest, however fast the client reads. */
#define REPLIES_HELD 512

int replies_are_full(const struct broker *b)
{
    return outbox_bytes(b->outbox) > REPLY_BYTES || outbox_held(b->outbox) > REPLIES_HELD;
}

void send_replies(struct broker *b)
{
    struct err e = {0};
    uint64_t synced;
    if (store_synced(b->store, &synced, &e) != 0)
        transaction_die(b, &e);
    int waiting = outbox_send(b->outbox, store_written(b->store), synced);
    waiting |= progress_send(b, store_written(b->store), synced);
    if (waiting)
        store_want_synced(b->store);
}
