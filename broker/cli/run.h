/* run.h - what a run of `assay score` goes on with: the job's key, and where a private broker keeps it.
 *
 * The key follows from the paths of input, output and model, and from options that no row shows, so the
 * same command finds the same job. Where that job turns out to be of another input, or of another
 * checkpoint or mode, the run begins anew under the next key: KEY, KEY.2, KEY.3 ..; a key that was chosen
 * (--key) is kept, and that is an error.
 *
 * A private broker's directory is OUTPUT.assay (INPUT.assay when the output is stdout or a device, one under TMPDIR
 * when the input is a pipe as well), held by one process at a time. It is removed when all went well, or
 * when nothing came of it; never one that was there before without our mark in it, and not that of --data. One that
 * was there with other files in it, or is a symbolic link, is refused (guard.h). */
#ifndef ASSAY_RUN_H
#define ASSAY_RUN_H

#include "broker/cli/client.h"
#include "broker/cli/connect.h"

struct run {
    const struct cli *cli;
    char data[4096]; /* of the private broker; empty: there is none */
    char family
        [40]; /* what the keys of input, output and model begin with; empty: a key was chosen */
    char base[64]; /* the first key of this run's options */
    char key[256];
    int generation; /* 1: base, n: base.n */
    int from_pipe;  /* the input cannot be read again */
    int is_marked;  /* the directory is ours, of this run or an earlier one */
    int was_made;   /* of this run */
    int lock;
};

/* Choose, make the directory and lock it. 0, or an exit code told on stderr. */
int run_open(struct run *r, const struct cli *c);
/* The broker answers: which of the keys is it? Other jobs that a private directory still holds end. */
int run_choose_job(struct run *r, struct client *client, struct err *e);
/* Can a job that is another one's be left for a new one? */
int run_may_begin_anew(const struct run *r);
/* Leave the job and take the next key. */
int run_begin_anew(struct run *r, struct client *client, struct err *e);

enum run_end {
    RUN_WHOLE, /* every row has a score */
    RUN_FAILED, /* some have none, or it did not come to its end: what is there may be gone on with */
    RUN_NOTHING, /* the broker never answered */
};
/* The broker has gone. `keep`: whatever came of it. Returns whether the directory is still there. */
int run_close(struct run *r, enum run_end end, int keep);

#endif
