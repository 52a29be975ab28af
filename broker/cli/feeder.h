/* feeder.h - JSONL lines into a job, chunk by chunk.
 *
 * Chunk borders depend on the input alone (FEEDER_ROWS rows or FEEDER_BYTES bytes, whichever comes
 * first; a quarter of what the broker takes in a message, where that is less), so that the same input sent again under the same key is the same chunks: the broker
 * answers each as it did before and stores nothing twice. A row that no message can hold is its line's
 * error. */
#ifndef ASSAY_FEEDER_H
#define ASSAY_FEEDER_H

#include "broker/cli/client.h"
#include "broker/cli/lines.h"

#define FEEDER_ROWS 512
#define FEEDER_BYTES (1u << 20)
#define FEEDER_LINES 8192 /* read at a time, bad ones included */

/* Told of each line in input order, before its chunk is sent. i: its row's index in the job, -1 for
 * a bad line. Takes what it wants out of *line (id, object) by nulling it there. */
typedef void feeder_line(void *arg, struct line *line, int64_t i);

struct feeder {
    struct client *client;
    struct lines *lines;
    const char *key;
    int priority;
    int keeps_bad; /* a bad line is a row that fails, instead of none */
    feeder_line *on_line;
    void *on_line_arg;
    uint32_t chunk;
    int64_t n_rows;     /* sent so far */
    int64_t n_bad;      /* read so far */
    int sealed;         /* the end was sent */
    int paused;         /* the broker said that the job is paused or held */
    int cancelled;      /* it said that of the job: no row of it will be scored */
    int n;              /* rows of the chunk that is gathered and not taken yet */
    int is_full;        /* it is to be sent */
    int end;            /* it is the last */
    uint64_t max_bytes; /* of a message; 0: the broker was not asked, as all is small so far */
    struct msg_writer rows;
};

void feeder_init(struct feeder *f, struct client *client, struct lines *lines, const char *key);
void feeder_release(struct feeder *f);
#define FEEDER_BUSY 1
/* Read and submit one chunk (with the seal at the end of the input); or only read, where so many lines are
 * bad that there is none yet. FEEDER_BUSY when the broker cannot take it for now, for the reason in *e (waiting.h): the next call tries the same chunk again. */
int feeder_step(struct feeder *f, struct err *e);

#endif
