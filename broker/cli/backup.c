/* backup.c - `assay backup`: copies the database of a broker that works. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/progress.h"
#include "broker/cli/signals.h"
#include "broker/store/backup.h"

static int show(void *arg, int done, int total)
{
    struct progress *p = arg;
    p->total = total;
    progress_show(p, done, 0, 0);
    return cli_interrupted();
}

static int end(const struct cli *c, int64_t jobs)
{
    if (c->value[CLI_JSON])
        printf("{\"jobs\":%" PRId64 "}\n", jobs);
    else
        printf("%" PRId64 " job%s copied; `assayd --data` with the copy's directory goes on from "
               "there\n",
            jobs, cli_s(jobs));
    return EX_OK;
}

int verb_backup(const struct cli *c)
{
    struct progress progress;
    struct err e = {0};
    char path[4200];
    const char *dir;
    int64_t jobs = 0;
    int rc = cli_data_dir(c, &dir);
    if (rc == 0)
        rc = cli_path(path, sizeof path, "%s/assay.db", dir);
    if (rc == 0)
        rc = cli_check_access(path, R_OK, cli_data_from(c));
    if (rc != 0)
        return rc;
    if (access(path, R_OK) != 0) {
        err_errno(&e, ASSAY_EIO, "%s", path);
        cli_fail(&e);
        return EX_NOINPUT;
    }
    cli_catch_signals();
    cli_catch_failed_writes();
    progress_init(&progress, c->stderr_tty, -1);
    rc = store_backup(dir, c->operand, show, &progress, &jobs, &e);
    progress_end(&progress);
    if (rc < 0)
        e.code = rc; /* damage is known by it */
    if (rc == ASSAY_EBADREQ)
        return cli_usage("backup: %s", e.msg);
    if (rc == 1)
        return cli_say("stopped; nothing is kept"), EX_TEMPFAIL;
    return rc != 0 ? cli_fail(&e) : end(c, jobs);
}
