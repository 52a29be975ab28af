/* jobs.h - a job that was sent to the broker: the bytes of its `score`, to send again, and whose
 * rows it has. */
#ifndef ASSAY_HTTP_JOBS_H
#define ASSAY_HTTP_JOBS_H

#include "broker/http/coalesce.h"

#define JOB_KEY_BYTES 64
#define JOB_RUN_BYTES 17           /* a process's random digits, in each of its keys */
#define JOB_SCORE_TIMEOUT_MS 60000 /* then the broker says so, and is asked again */
#define JOB_MESSAGE_ROOM 1024      /* of a message, beside its rows */

struct lane;

struct job {
    struct job *next;
    struct lane *lane; /* the link's, of its model */
    int64_t id;        /* of the message */
    char key[JOB_KEY_BYTES];
    struct msg_writer message;
    struct job_row *rows; /* in the order in which they were sent; a ticket is NULL once gone */
    uint32_t n_rows, n_tickets; /* n_tickets: those that still wait for it */
    int takes_place;            /* counts (coalesce.h) */
    int is_done;                /* its results are there */
    int is_shared;              /* by several tickets, at its start */
    int waits_for_card;         /* its results are of another checkpoint than a ticket's, or of an
                                   ensemble: it waits for a new card, and is asked for again */
    long long sent_us;          /* 0: not yet */
    long long began_us;         /* when it was sent first */
};

/* A job's key: "assay-http/", the process's digits, a dash, a number. Nobody else has such keys, so
 * jobs that a process left behind are known by them. */
void job_key_write(char key[JOB_KEY_BYTES], const char run[JOB_RUN_BYTES], int64_t number);
int job_key_is(const char *key);

/* Makes a job of a list of tickets for one model, at least one, which then are in it. */
struct job *job_new(struct ticket *list, int64_t id, const char *key);
void job_free(struct job **job);

/* Gives the rows of a reply to their tickets. Returns 0, or ASSAY_EBADMSG with nothing given. */
int job_give(struct job *job, struct slice rows, struct err *e);
/* Takes a ticket out; its rows are computed for nobody. */
void job_leave(struct job *job, struct ticket *t);
/* Puts one ticket in the place of another, for the same rows. */
void job_swap(struct job *job, struct ticket *from, struct ticket *to);
/* Takes any ticket out that is still in; NULL when there is none. */
struct ticket *job_pop(struct job *job);

#endif
