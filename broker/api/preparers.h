/* preparers.h - threads that prepare large messages (prepare.h) while the loop goes on, and release
 * their memory.
 *
 * The loop gives a message and later takes it back. In between it belongs to the threads. Each
 * thread has its own struct admit. */
#ifndef ASSAY_PREPARERS_H
#define ASSAY_PREPARERS_H

#include "broker/api/prepare.h"

#define PREPARERS_THREADS 2

/* What a thread works on. The caller's, part of something larger. */
struct task {
    struct prepared prepared;
    struct slice message;
    /* done instead of preparing the message; NULL: prepare it */
    void (*work)(struct task *t, const struct preparing *with);
    int is_urgent; /* it comes first: it releases memory */
    int *is_done;  /* NULL: it is a message's; else set to 1 once it is taken back (inbox.h) */
    struct task *next;
};

struct preparers;

/* Starts the threads; they have the caller's signal mask. The pointers must outlive them. model,
 * text: of messages without a catalog; may be NULL where all have one. Returns 0, or ASSAY_EIO. */
int preparers_new(struct preparers **p, const struct model_info *model,
    const struct text_model *text, const struct request_limits *limits, struct err *e);
void preparers_free(struct preparers **p); /* stops them; NULL-safe */
void preparers_give(struct preparers *p, struct task *t);
/* Returns a task that is done, in the order in which they became ready; NULL: none is. */
struct task *preparers_take(struct preparers *p);
int preparers_fd(const struct preparers *p); /* readable while preparers_take has one */
/* Ends the threads, at their next row at the latest. No task is the threads' after that, whether it
 * is prepared or not. */
void preparers_stop(struct preparers *p);

#endif
