/* link.h - the thread that speaks with the broker, over a DEALER socket that is its own.
 *
 * It sends requests' rows as `score` jobs (coalesce.h), asks for `info` every second, gives results
 * to their tickets, and purges a job when its results are delivered. A message without an answer is
 * sent again: when the broker has been started anew, which its info shows, and when it has been
 * silent for longer than it may be. The key stays the same, so nothing is computed twice.
 *
 * A broker may also load another checkpoint under a model's name while it runs. So each reply with
 * scores says which one they are of, and a ticket takes none but those of the checkpoint and mode
 * that its request was decoded under. */
#ifndef ASSAY_HTTP_LINK_H
#define ASSAY_HTTP_LINK_H

#include "broker/ask/card.h"
#include "broker/http/ticket.h"

struct link;

struct link_options {
    const char *endpoint;     /* as zmq_connect takes it */
    const char *const *names; /* of the model; borrowed */
    int n_names;
};

/* Starts the thread. Returns 0, or ASSAY_EIO. */
int link_new(struct link **link, const struct link_options *options, struct err *e);
/* Ends the thread: tickets that are in it, and those that come later, end as not_ready. */
void link_stop(struct link *link);
void link_free(struct link **link);

/* From any thread. Takes the ticket until its `done` is called. */
void link_submit(struct link *link, struct ticket *t);
/* The same of one without rows: `done` is called when there is a card that the broker was asked for
 * since. */
void link_await_card(struct link *link, struct ticket *t);
/* The ticket's client has left: `done` is called soon, and what is only computed for it is
 * cancelled, unless the same request comes again within some seconds (link_left.c). */
void link_abandon(struct link *link, struct ticket *t);

/* The last card, held for the caller: NULL while the broker has not answered, or not for
 * LINK_SILENT_MS. */
#define LINK_SILENT_MS 5000
struct card *link_card(struct link *link);
/* The last card, where the broker was asked for it since then (now_mono_us), so that it says what the
 * broker had at that time or later; else NULL, and the broker is asked soon. */
struct card *link_card_since(struct link *link, long long us);

struct link_counts {
    uint64_t n_jobs, n_rows;       /* sent since the start */
    uint32_t n_waiting, n_running; /* requests: not sent yet; with the broker */
    long long full_until_ms;       /* until then the broker, or its disk, has no room; monotonic */
};
void link_count(struct link *link, struct link_counts *counts);
/* The requests for one model, by the broker's name of it. */
void link_count_model(
    struct link *link, const char *name, uint32_t *n_waiting, uint32_t *n_running);

#endif
