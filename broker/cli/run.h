/* run.h - what lets `assay score` continue an earlier run: the job's key and the private broker's
 * directory.
 *
 * The key is derived from the paths of input, output and model, and from options that no row shows,
 * so the same command finds the same job. If that job has another input, checkpoint or mode, or is
 * not of the models that the command's names mean now, the run starts over under the next key: KEY, KEY.2, KEY.3 ..; with --key or a pipe as the input, that
 * is an error instead.
 *
 * A private broker's directory is OUTPUT.assay (INPUT.assay if the output is stdout or a device;
 * one under TMPDIR if the input is a pipe too). One process at a time holds it. A directory with
 * our mark is removed when all rows were scored; one that this run made also when the broker never
 * answered, or, unless --data names it, when the input is a pipe. It stays where a service has been
 * started in it, and where there are files that no broker or run made. One that held other files
 * before, or is a symbolic link, is refused unless --data names it (guard.h). */
#ifndef ASSAY_RUN_H
#define ASSAY_RUN_H

#include "broker/cli/client.h"
#include "broker/cli/connect.h"

struct run {
    const struct cli *cli;
    char data[4096]; /* the private broker's directory; empty: no private broker */
    /* what all keys of this input, output and model begin with; empty: --key was given */
    char family[40];
    char base[64]; /* the first key for this run's options */
    char key[256];
    int generation; /* 1: base, n: base.n */
    int from_pipe;  /* the input cannot be read again */
    int is_marked;  /* made by this run or an earlier one, and not that of --data */
    int was_made;   /* the directory was made by this run */
    int lock;
    char lock_path[4200];
};

/* Chooses the key, makes the directory and locks it. Returns 0, or an exit code after printing an
 * error to stderr. */
int run_open(struct run *r, const struct cli *c);
/* Chooses among the keys, once the broker answers. Cancels other jobs that a private directory
 * still holds. */
int run_choose_job(struct run *r, struct client *client, struct err *e);
/* May the run leave a job that turns out to be another one's and start a new one? */
int run_may_begin_anew(const struct run *r);
/* Takes the next key; cancels the job first if the broker is private. */
int run_begin_anew(struct run *r, struct client *client, struct err *e);

enum run_end {
    RUN_WHOLE,   /* every row has a score */
    RUN_FAILED,  /* some rows have none, or the run was cut short: it can be continued */
    RUN_NOTHING, /* the broker never answered */
};
/* Removes the directory under the conditions above, unless `keep` is set; call it after the broker
 * has stopped. Returns whether the directory is still there. */
int run_close(struct run *r, enum run_end end, int keep);

#endif
