/* batches_private.h - the state of batches, and what its files need of each other: batches.c has
 * the table, the thread and what others call; batch_new.c reads what a batch is to be; batch_run.c
 * works on one; batch_check.c reads its lines before; batch_job.c has its job in the broker,
 * batch_rows.c its rows and results, batch_lines.c and batch_output.c its files. */
#ifndef ASSAY_HTTP_BATCHES_PRIVATE_H
#define ASSAY_HTTP_BATCHES_PRIVATE_H

#include <pthread.h>
#include <time.h>

#include "broker/ask/ask.h"
#include "broker/http/batch_lines.h"
#include "broker/http/batch_output.h"
#include "broker/http/batches.h"
#include "broker/http/call.h"
#include "broker/http/jobs.h"
#include "broker/http/routes.h"

/* Results of a line that are not all there. */
struct part {
    uint32_t n, room;
    struct row_result *rows;
};

/* What the thread has of a batch that it works on; made anew after a start. */
struct run {
    struct batch_lines lines;
    struct card *card;  /* held from the first on; its model is the batch's */
    long long began_us; /* lines are read under a card that was asked for since */
    const struct route *route;
    const struct card_model *model; /* of the lines that are validated; in the card */
    struct card_choice all[CARD_MOST_CHOSEN];
    int n_all;                  /* .. an ensemble's models, the first among them; 0: none */
    json_t *adapters;           /* .. a set: those that lines name, as MODEL/ADAPTER */
    uint32_t checked;           /* lines that are validated; at the end, that are written */
    struct seen *seen;          /* their ids */
    json_t *errors;             /* what is wrong with them */
    struct msg_writer rows;     /* of the next chunk, while the broker has not taken it */
    uint32_t n_rows, until;     /* .. how many, and the line behind its last */
    uint32_t refused;           /* .. lines in it that are none */
    uint32_t *rows_of;          /* [lines]: how many a line has; 0: not known */
    struct part **parts;        /* [lines] */
    unsigned char *is_answered; /* [lines] */
    uint64_t after;             /* the cursor in the results */
    int is_cancelled;           /* the broker knows that it is to end */
    int is_read;                /* all results are */
    long long submit_due_ms;    /* the queue was full */
    long long status_due_ms;
    struct output output, errors_output;
    uint32_t completed, failed;
};

struct batch {
    struct batch *next;
    char id[FOLDER_ID_BYTES];
    json_t *object; /* OpenAI's; under the lock */
    json_t *own;    /* what a later process must know; under the lock */
    int is_over, holds_input;
    /* The thread's: */
    struct run *run;  /* NULL: not begun, or put aside */
    int is_held;      /* its job waits for another checkpoint or adapter */
    int n_tries;      /* in which a file could not be read or written */
    long long due_ms; /* nothing is to be done before */
};

struct batches {
    struct batches_options options;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct batch *first, **end; /* the oldest first */
    struct call *call;
    int stops, has_thread;
};

/* ---- batches.c ---- */
/* Sets fields of the batch (a new map, taken over) and of what is its own (NULL: none), and writes
 * the record. Returns 0, or a code: then the record on the disk is the old one. */
int batch_set(struct batches *bs, struct batch *b, json_t *fields, json_t *own, struct err *e);
/* The same without writing: what may be lost. */
void batch_show(struct batches *bs, struct batch *b, json_t *fields);
/* Its values; a text is copied into [size]. */
int64_t batch_number(struct batches *bs, struct batch *b, int is_own, const char *name);
void batch_text(
    struct batches *bs, struct batch *b, int is_own, const char *name, char *text, size_t size);
int64_t batch_completed(struct batches *bs, struct batch *b); /* as its counts say */
/* A list of one error, as `errors` has it. */
json_t *batch_errors(const char *code, const char *message);

/* ---- batch_new.c ---- */
/* The batch that a body asks for. Returns 0 with both, or ASSAY_EBADREQ. */
int batch_from_body(
    const json_t *body, const char *id, json_t **object, json_t **own, struct err *e);
/* The route of an endpoint that batches may have; NULL: none. */
const struct route *batch_route(const char *url);

/* ---- batch_run.c ---- */
#define BATCH_POLL_MS 100
#define BATCH_FULL_MS 10000 /* after a write that failed */
/* Does a little. Returns 1 where there is more to do at once, 0 where not before b->due_ms; so do all
 * whose result is said to be a step's. */
int batch_step(struct batches *bs, struct batch *b);
/* Nothing is to be done for so long: a step's 0. */
int batch_wait(struct batch *b, long long ms);
/* The batch is over, with this status and these fields (taken over): a step's result. */
int batch_end(struct batches *bs, struct batch *b, const char *status, json_t *fields);
int batch_fail(struct batches *bs, struct batch *b, const char *code, const char *message);
/* Forgets results, which can be read again. */
void run_forget(struct batches *bs, struct run *run);
void run_free(struct run **run);

static inline json_int_t now_s(void)
{
    return (json_int_t)time(NULL);
}

/* ---- batch_check.c ---- */
/* Reads some lines; after the last the batch goes on or fails. Returns a step's result. */
int batch_check(struct batches *bs, struct batch *b);

/* ---- batch_job.c ---- */
/* Has the batch the card that it was begun with, and may its lines be sent? A batch without rows may
 * be made one to validate (chunk_rows 0), unless it `ends`. */
int batch_take_card(struct batches *bs, struct batch *b, int ends);
/* What became of the job, asked now and then. Returns 0 or a code. */
int batch_ask_status(struct batches *bs, struct batch *b, struct err *e);
/* What is the batch's own while none of its rows were sent: a new map. */
json_t *batch_unsent(void);
/* The broker does not know the job, since its data are new: all is sent again. */
int batch_send_again(struct batches *bs, struct batch *b, struct err *e);
int batch_cancel_job(struct batches *bs, struct batch *b, struct err *e);
/* Deletes what the broker has of a batch that is over. Returns a step's result. */
int batch_purge(struct batches *bs, struct batch *b);

/* ---- batch_rows.c ---- */
/* Each returns 1: something was done; 0: nothing can be now; or a code that ends the batch. */
int batch_submit(struct batches *bs, struct batch *b, struct err *e);
int batch_collect(struct batches *bs, struct batch *b, struct err *e);
/* Decodes a line's request. The caller releases the ask. */
int batch_decode(struct batches *bs, struct batch *b, const struct batch_line *line, uint32_t k,
    struct ask *ask, struct err *e);
/* Writes the line's answer, if it was refused as it is; else the error of one that never came. */
int batch_answer_rest(struct batches *bs, struct batch *b, uint32_t k, const char *code,
    const char *message, struct err *e);
void parts_free(struct run *run);
/* Writes the job's key. */
void batch_key(const struct batch *b, char key[JOB_KEY_BYTES]);

#endif
