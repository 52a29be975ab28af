/* scrub.c - `assay scrub`: finds damage in the database. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/progress.h"
#include "broker/cli/screen.h"
#include "broker/cli/signals.h"
#include "broker/store/scrub.h"

struct scrub_run {
    struct progress progress;
    int64_t found;
    json_t *list; /* with --json; else NULL */
};

static void print_finding(const struct scrub_finding *f)
{
    if (f->job != 0) {
        printf("job %" PRId64 " (", f->job);
        print_safely(stdout, f->key);
        printf(")");
        if (f->i >= 0)
            printf(", row %" PRId64, f->i);
        printf(": ");
    }
    print_safely(stdout, f->what);
    putchar('\n');
}

static void found(void *arg, const struct scrub_finding *f)
{
    struct scrub_run *run = arg;
    run->found++;
    if (!run->list) {
        progress_end(&run->progress);
        print_finding(f);
        return;
    }
    json_array_append_new(run->list,
        json_pack("{s:o, s:o, s:o, s:s}", "job", f->job ? json_integer(f->job) : json_null(), "key",
            f->job ? json_string(f->key) : json_null(), "i",
            f->i >= 0 ? json_integer(f->i) : json_null(), "what", f->what));
}

static int show_progress(void *arg, int64_t done, int64_t total)
{
    struct scrub_run *run = arg;
    if (done < 0) {
        progress_note(&run->progress, "reading the file's pages");
    } else {
        progress_note(&run->progress, NULL);
        run->progress.total = total;
        progress_show(&run->progress, done, run->found, 0);
    }
    return cli_interrupted();
}

static void print_totals(const struct scrub_run *run, const struct scrub_totals *t)
{
    if (run->list) {
        json_t *all = json_pack("{s:I, s:I, s:I, s:I, s:O}", "jobs", (json_int_t)t->jobs, "rows",
            (json_int_t)t->rows, "results", (json_int_t)t->results, "without_checksum",
            (json_int_t)t->unchecked, "damaged", run->list);
        json_dumpf(all, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(all);
        return;
    }
    printf("%" PRId64 " job%s, %" PRId64 " row%s, %" PRId64 " result%s: ", t->jobs, cli_s(t->jobs),
        t->rows, cli_s(t->rows), t->results, cli_s(t->results));
    if (t->damaged == 0)
        printf("all as written\n");
    else
        printf("%" PRId64 " damaged\n", t->damaged);
    if (t->unchecked > 0)
        printf("%" PRId64 " record%s of before version 6 without a checksum\n", t->unchecked,
            cli_s(t->unchecked));
}

int verb_scrub(const struct cli *c)
{
    const char *dir;
    char path[4200];
    struct scrub_run run = {0};
    struct scrub_caller caller = {found, show_progress, &run};
    struct scrub_totals totals;
    struct err e = {0};
    int rc = cli_data_dir(c, &dir);
    if (rc == 0)
        rc = cli_path(path, sizeof path, "%s/assay.db", dir);
    if (rc != 0)
        return rc;
    if ((rc = cli_check_access(path, R_OK, cli_data_from(c))) != 0)
        return rc;
    if (access(path, R_OK) != 0) {
        err_errno(&e, ASSAY_EIO, "%s", path);
        cli_fail(&e);
        return EX_NOINPUT;
    }
    progress_init(&run.progress, c->stderr_tty, -1);
    run.list = c->value[CLI_JSON] ? json_array() : NULL;
    rc = store_scrub(dir, &caller, &totals, &e);
    progress_end(&run.progress);
    if (rc < 0)
        rc = cli_fail(&e);
    else if (rc == 0)
        print_totals(&run, &totals);
    json_decref(run.list);
    return rc == 1 ? EX_TEMPFAIL : rc != 0 ? rc : totals.damaged > 0 ? EX_DATAERR : EX_OK;
}
