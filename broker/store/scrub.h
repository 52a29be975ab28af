/* scrub.h - everything that a database holds, read and checked (`assay scrub`). Changes nothing; a broker may
 * work on it meanwhile. */
#ifndef ASSAY_STORE_SCRUB_H
#define ASSAY_STORE_SCRUB_H

#include <stdint.h>

#include "schema/err.h"

/* Something that is not what was written. */
struct scrub_finding {
    int64_t job;     /* 0: of no job */
    const char *key; /* of the job, "" for none */
    int64_t i;       /* the row's index; -1: of no row */
    const char *what;
};

struct scrub_totals {
    int64_t jobs, rows, results;
    int64_t unchecked; /* rows and results that have no checksum */
    int64_t damaged;   /* findings */
};

struct scrub_caller {
    void (*found)(void *arg, const struct scrub_finding *finding);
    /* Non-zero ends it. done: rows and results of `total`; -1 while the file's pages are read. */
    int (*progress)(void *arg, int64_t done, int64_t total);
    void *arg;
};

/* 0 also where something is damaged; 1 it was ended; or negative: the database cannot be opened. */
int store_scrub(const char *data_dir, const struct scrub_caller *caller,
    struct scrub_totals *totals, struct err *e);

#endif
