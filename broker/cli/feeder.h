/* feeder.h - sends the lines of a JSONL file to a job, chunk by chunk.
 *
 * Chunk borders depend on the input alone, so the same input sent again under the same key makes
 * the same chunks: the broker answers each as before and stores nothing twice. A chunk ends at
 * FEEDER_ROWS rows or FEEDER_BYTES bytes, or at a quarter of the broker's message limit if that is
 * less; a line of several rows is in one chunk, by itself where it has more rows than that. A row that fits in no message is an error of its line; so is one whose column `model` names
 * another of the broker's models than the one that scores it. */
#ifndef ASSAY_FEEDER_H
#define ASSAY_FEEDER_H

#include "broker/cli/client.h"
#include "broker/cli/lines.h"

#define FEEDER_ROWS 512
#define FEEDER_BYTES (1u << 20)
#define FEEDER_LINES 8192 /* lines read per step, bad ones included */

/* Called for each line in input order, before its chunk is sent. i: the row's index in the job, -1
 * for a bad line. To keep *line's id or object, take it and set it to NULL there. */
typedef void feeder_line(void *arg, struct line *line, int64_t i);

struct feeder {
    struct client *client;
    struct lines *lines;
    const char *key;
    int priority;
    const char *models; /* the names of the broker's that score the rows, with commas; NULL: none */
    /* without `models`: says the name of the broker's first where it has several, so that rows do
     * not go to a job of another one */
    int names_first;
    int keeps_bad; /* a bad line becomes a row that fails, instead of no row */
    feeder_line *on_line;
    void *on_line_arg;
    uint32_t chunk;
    int64_t job;        /* its number; 0: no chunk was taken yet */
    int64_t n_rows;     /* sent so far */
    int64_t n_bad;      /* read so far */
    int sealed;         /* the end was sent */
    int paused;         /* the broker reported the job paused or held */
    int done;           /* the broker reported the job finished */
    int cancelled;      /* the broker reported the job cancelled: no row will be scored */
    int lost;           /* the job was purged, and its key is another job's */
    struct line held;   /* read, and not in the chunk, where its rows have no room .. */
    int is_held;        /* .. if there is one */
    int n;              /* rows gathered for the chunk that the broker has not taken yet */
    int is_full;        /* the gathered chunk is ready to be sent */
    int end;            /* the gathered chunk is the last */
    uint64_t max_bytes; /* message limit; 0: not asked yet, as all rows were small */
    struct msg_writer rows;
    json_t *served; /* the broker's models, as hello lists them; NULL: not asked yet; owned */
};

void feeder_init(struct feeder *f, struct client *client, struct lines *lines, const char *key);
void feeder_release(struct feeder *f);
/* Has it read lines for a chunk that the broker has not taken? Then feeder_step is to be called until
 * it has: nothing else brings the results that those lines wait for. */
int feeder_has_begun(const struct feeder *f);
#define FEEDER_BUSY 1
/* Reads and submits one chunk, sealing the job at the end of the input. After many bad lines it may
 * only read. FEEDER_BUSY, with the reason in *e (waiting.h), when the broker cannot take the chunk
 * now: the next call tries the same chunk again. ASSAY_EUNKNOWNJOB when the job was purged
 * meanwhile: the chunk went to a new job, which lacks those before it. */
int feeder_step(struct feeder *f, struct err *e);

#endif
