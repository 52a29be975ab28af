/* scrub.h - reads and checks everything in a database (`assay scrub`).
 *
 * Changes nothing; a broker may use the database meanwhile. */
#ifndef ASSAY_STORE_SCRUB_H
#define ASSAY_STORE_SCRUB_H

#include <stdint.h>

#include "schema/err.h"

/* A part of the database that is not what was written. */
struct scrub_finding {
    int64_t job;     /* 0: no job's */
    const char *key; /* the job's, "" for none */
    int64_t i;       /* the row's index; -1: no row's */
    const char *what;
};

struct scrub_totals {
    int64_t jobs, rows, results;
    int64_t unchecked; /* rows and results without a checksum */
    int64_t damaged;   /* findings */
};

struct scrub_caller {
    void (*found)(void *arg, const struct scrub_finding *finding);
    /* Non-zero ends the scrub. done: rows and results of `total`; -1 while the file's pages are
     * read. */
    int (*progress)(void *arg, int64_t done, int64_t total);
    void *arg;
};

/* Scrubs the database in data_dir. Returns 0, even when something is damaged, 1 when the caller
 * ended it, or negative when the database cannot be opened or has another schema version. */
int store_scrub(const char *data_dir, const struct scrub_caller *caller,
    struct scrub_totals *totals, struct err *e);

#endif
