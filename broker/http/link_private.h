/* link_private.h - the link's state (link.h), and what its files need of each other: link.c has the
 * thread and what others call, link_jobs.c jobs and the messages about them, link_replies.c what
 * the broker says, link_left.c rows of clients that have left. All of it runs in the link's thread. */
#ifndef ASSAY_HTTP_LINK_PRIVATE_H
#define ASSAY_HTTP_LINK_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "broker/http/jobs.h"
#include "broker/http/link.h"

/* Of messages. Those of `info` are below 0: when it was asked, monotonic, in microseconds. */
enum { ID_NONE, ID_STALE, ID_FIRST_JOB };

/* One model's requests and jobs. */
struct lane {
    struct lane *next;
    char *name; /* the broker's of the model */
    struct coalesce waiting;
    struct coalesce_load load;
    double done_us, done_bytes;    /* of jobs that have ended, halved by each that does; 0: none */
    uint32_t n_waiting, n_running; /* requests; under the link's lock */
};

struct link {
    struct link_options options;
    pthread_t thread;
    int wake_fd;
    /* Shared, under the lock. */
    pthread_mutex_t lock;
    struct ticket *inbox, **inbox_end;
    struct card *card;
    long long heard_ms, asked_us; /* when the card came; when its broker was asked for it */
    struct link_counts counts;
    int stops, is_over; /* is_over: nobody takes the inbox any more */
    atomic_int looks;   /* a ticket's client has left */
    atomic_int wants;   /* somebody waits for a newer card */
    /* The thread's own. */
    void *zmq, *socket;
    struct lane *lanes; /* one is added under the lock, and none goes before the end */
    struct job *jobs;
    int64_t next_id;
    uint32_t max_rows;
    size_t max_bytes;
    long long info_due_ms, info_sent_ms;
    struct ticket *asking;   /* they wait for a newer card */
    int64_t stale_before_ms; /* the broker's clock */
    long long stale_due_ms;  /* when they are asked for; 0: at once */
    char run[JOB_RUN_BYTES]; /* random, in each key */
    struct left *left;       /* requests whose clients have left (link_left.c) */
    int n_left;
    size_t left_bytes;
};

/* An operation with at most one field, `job`, whose answer is not waited for. */
void link_send(struct link *l, const char *op, int64_t id, const char *key);
/* `info`. */
void link_send_info(struct link *l);
/* Sends it soon: at once, or where one was sent a moment ago, a moment later. */
void link_want_info(struct link *l);
void link_send_job(struct link *l, struct job *job);
/* The lane of a model, made where there is none yet. */
struct lane *link_lane(struct link *l, const char *name);
/* Makes a job of a list of tickets, and sends it. */
struct job *link_start_job(struct link *l, struct ticket *list);
/* Forgets a job without tickets; the broker purges it. */
void link_end_job(struct link *l, struct job *job);
/* Ends the job and its tickets. */
void link_fail_job(struct link *l, struct job *job, const struct err *e);
void link_split_job(struct link *l, struct job *job);
/* A ticket that no job has yet. */
void link_take_new(struct link *l, struct ticket *t);
/* Has its client left, or its time or the broker's passed? Sets the ticket's error then. */
int link_is_over(const struct link *l, struct ticket *t, long long now_us);
/* e: NULL where the ticket has its own. */
void link_finish(struct ticket *t, const struct err *e);
/* Returns 0, or ASSAY_ENOTREADY when the broker was started anew, with another checkpoint or mode
 * under the model's name than the ticket was decoded under. One without the name refuses it itself,
 * and what a running broker loads is told from its reply. */
int link_check_card(const struct link *l, const struct ticket *t, struct err *e);
/* Has the broker the same of an ensemble's models, the first one aside, which a reply tells of? Returns
 * 0, or ASSAY_ENOTREADY. */
int link_check_all(const struct link *l, const struct ticket *t, struct err *e);
/* When a lane's next job is due. */
long long link_due_us(struct link *l, struct lane *lane);

/* ---- link_left.c ---- */
/* Takes a ticket with an error out of its job. Where its client may send the request again, its rows
 * stay in the job for some seconds. */
void link_leave_job(struct link *l, struct job *job, struct ticket *t);
int link_is_left(const struct ticket *t); /* is it a stand-in, whose rows' bytes are gone? */
/* Returns 1 where the ticket's rows are with the broker already, and have taken it over, or where its
 * results are there and the broker is asked whether they still hold; else 0. */
int link_come_back(struct link *l, struct ticket *t);
/* There is a new card: gives results to those who came for them before it was asked for, forgets what
 * does not hold any more. */
void link_check_left(struct link *l);
/* Forgets results that nobody came for. */
void link_expire_left(struct link *l, long long now_us);
/* Takes stand-ins off their lanes' counts of running requests. */
void link_count_left(const struct link *l);
/* Forgets all; those who wait get the error. */
void link_end_left(struct link *l, const struct err *e);

void link_take_replies(struct link *l);
/* Asks for jobs that a process which has ended left behind. */
void link_ask_stale(struct link *l, int64_t after);

#endif
