/* run.c - finds the last job under the run's keys, and decides whether to continue it, begin
 * anew or refuse (run.h). */
#include "broker/cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/cli/guard.h"
#include "broker/cli/lock.h"
#include "broker/cli/target.h"

#define MAX_GENERATIONS 10000

/* ---- the key ---- */

/* Options that change results but are not visible in the rows that are sent. */
static const enum cli_option unseen[] = {CLI_CHAT_TEMPLATE, CLI_TEMPLATE_DATE, CLI_MAX_LEN};

static int choose_key(struct run *r)
{
    const struct cli *c = r->cli;
    unsigned char digest[4];
    char hex[2 * sizeof digest + 1];
    crypto_generichash_state hash;
    r->generation = 1;
    if (c->value[CLI_KEY])
        return cli_path(r->key, sizeof r->key, "%s", c->value[CLI_KEY]);
    struct cli of_pipe = *c;
    of_pipe.operand = NULL;
    int rc = cli_default_key(r->from_pipe ? &of_pipe : c, r->family, sizeof r->family);
    crypto_generichash_init(&hash, NULL, 0, crypto_generichash_BYTES_MIN);
    for (size_t i = 0; i < sizeof unseen / sizeof unseen[0]; i++) {
        const char *value = c->value[unseen[i]] ? c->value[unseen[i]] : "";
        crypto_generichash_update(&hash, (const unsigned char *)value, strlen(value) + 1);
    }
    const char *models = c->value[CLI_MODELS];
    if (models) /* without them the key stays what it was before there were any */
        crypto_generichash_update(&hash, (const unsigned char *)models, strlen(models) + 1);
    unsigned char whole[crypto_generichash_BYTES_MIN];
    crypto_generichash_final(&hash, whole, sizeof whole);
    memcpy(digest, whole, sizeof digest);
    snprintf(r->base, sizeof r->base, "%s-%s", r->family,
        sodium_bin2hex(hex, sizeof hex, digest, sizeof digest));
    snprintf(r->key, sizeof r->key, "%s", r->base);
    return rc;
}

static void set_generation(struct run *r, int n)
{
    r->generation = n;
    if (n > 1)
        snprintf(r->key, sizeof r->key, "%s.%d", r->base, n);
    else
        snprintf(r->key, sizeof r->key, "%s", r->base);
}

/* Returns the key's generation; 0: another job's key. */
static int generation_of(const struct run *r, const char *key)
{
    size_t n = strlen(r->base);
    if (n == 0 || strncmp(key, r->base, n) != 0)
        return 0;
    if (key[n] == '\0')
        return 1;
    int generation = key[n] == '.' ? atoi(key + n + 1) : 0;
    return generation > 1 && generation < MAX_GENERATIONS ? generation : 0;
}

/* ---- the directory ---- */

/* Has the output no place for a directory beside it? True for stdout by any name, and for a
 * device. */
static int has_no_folder(const char *output)
{
    struct stat st;
    return !output || strcmp(output, "-") == 0 || target_names_descriptor(output) ||
           (stat(output, &st) == 0 && S_ISCHR(st.st_mode));
}

static int choose_data(struct run *r)
{
    const struct cli *c = r->cli;
    const char *output = c->value[CLI_OUTPUT], *tmp = getenv("TMPDIR");
    int to_stdout = has_no_folder(output);
    if (c->value[CLI_DATA])
        return cli_path(r->data, sizeof r->data, "%s", c->value[CLI_DATA]);
    if (!to_stdout || !r->from_pipe)
        return cli_path(r->data, sizeof r->data, "%s.assay", to_stdout ? c->operand : output);
    int rc = cli_path(r->data, sizeof r->data, "%s/assay-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (rc == 0 && !mkdtemp(r->data)) {
        struct err e;
        err_errno(&e, ASSAY_EIO, "cannot make a directory '%s'", r->data);
        return cli_fail(&e);
    }
    r->was_made = rc == 0;
    return rc;
}

static int make_directory(struct run *r, struct err *e)
{
    if (r->was_made || mkdir(r->data, 0700) == 0)
        r->was_made = 1;
    else if (errno != EEXIST)
        return err_errno(e, ASSAY_EIO, "cannot make the data directory '%s'", r->data);
    return 0;
}

static int lock_directory(struct run *r, struct err *e)
{
    char *path = r->lock_path, what[400];
    struct stat st;
    int is_own = r->cli->value[CLI_DATA] == NULL;
    snprintf(path, sizeof r->lock_path, "%s/%s", r->data, GUARD_MARK);
    r->is_marked = is_own && (r->was_made || lstat(path, &st) == 0);
    if (!r->is_marked)
        snprintf(path, sizeof r->lock_path, "%s/%s", r->data, GUARD_LOCK);
    snprintf(what, sizeof what, "the directory '%.300s', where this run keeps its work,", r->data);
    return lock_open(path, what, &r->lock, e);
}

int run_open(struct run *r, const struct cli *c)
{
    struct err e = {0};
    *r = (struct run){.cli = c, .lock = -1};
    struct stat st;
    r->from_pipe = !c->operand || strcmp(c->operand, "-") == 0 ||
                   (stat(c->operand, &st) == 0 && !S_ISREG(st.st_mode));
    int rc = choose_key(r);
    if (rc != 0 || !c->value[CLI_MODEL])
        return rc;
    if ((rc = choose_data(r)) != 0)
        return rc;
    int is_own = !c->value[CLI_DATA] && !r->was_made;
    if (guard_work(c, r->data, is_own, &e) == 0 && make_directory(r, &e) == 0 &&
        lock_directory(r, &e) == 0)
        return 0;
    rc = e.code == ASSAY_EBADREQ ? cli_usage("%s", e.msg) : cli_fail(&e);
    run_close(r, RUN_NOTHING, 0);
    return rc;
}

/* Has no service been started in the directory? One takes the lock's file away (data_dir_keep). */
static int is_ours(const struct run *r)
{
    return r->lock >= 0 && lock_is_current(r->lock, r->lock_path);
}

/* Returns 0 if the directory is removed. */
static int remove_directory(const struct run *r)
{
    char other[DATA_DIR_NAME_BYTES] = "";
    int rc = is_ours(r) ? data_dir_remove(r->data, other) : r->lock < 0 ? rmdir(r->data) : -1;
    if (*other)
        cli_say("'%s' is not removed, because of '%s' in it, which no run made", r->data, other);
    return rc;
}

int run_close(struct run *r, enum run_end end, int keep)
{
    int nothing = end == RUN_NOTHING && r->was_made, held = r->lock >= 0 || r->was_made;
    int over = r->is_marked && (end == RUN_WHOLE || (r->from_pipe && r->was_made));
    int removed = r->data[0] && held && !keep && (nothing || over) && remove_directory(r) == 0;
    if (r->lock >= 0)
        close(r->lock);
    r->lock = -1;
    return r->data[0] && !removed;
}

/* ---- the job ---- */

static int ask(
    struct client *client, const char *op, const char *key, json_t **reply, struct err *e)
{
    msg_key_str(client_begin(client, op, 1), "job", key);
    return client_call_patiently(client, 0, reply, e);
}

static int cancel(struct client *client, const char *key, struct err *e)
{
    json_t *reply = NULL;
    int rc = ask(client, "cancel", key, &reply, e);
    json_decref(reply);
    return rc;
}

/* Moves to the job's generation if it is later than the current one. A cancelled job cannot
 * continue, so its next key is taken. */
static void see_job(struct run *r, const char *key, const char *state)
{
    int generation = generation_of(r, key);
    if (generation == 0)
        return;
    generation += strcmp(state, "cancelled") == 0;
    if (generation > r->generation)
        set_generation(r, generation);
}

static int is_unfinished(const char *state)
{
    return strcmp(state, "done") != 0 && strcmp(state, "cancelled") != 0;
}

/* Cancels jobs that earlier runs left here, since they would compete with this one. */
static int end_others(struct run *r, struct client *client, struct err *e)
{
    json_t *jobs = json_array(), *job;
    size_t k;
    int rc = cli_list_jobs(client, 0, jobs, e), all = r->is_marked && is_ours(r);
    json_array_foreach(jobs, k, job)
    {
        see_job(r, json_string_value(json_object_get(job, "key")),
            json_string_value(json_object_get(job, "state")));
    }
    json_array_foreach(jobs, k, job)
    {
        const char *key = json_string_value(json_object_get(job, "key"));
        int is_own = all || (r->family[0] && strncmp(key, r->family, strlen(r->family)) == 0);
        if (rc == 0 && is_own && strcmp(key, r->key) != 0 &&
            is_unfinished(json_string_value(json_object_get(job, "state"))))
            rc = cancel(client, key, e);
    }
    json_decref(jobs);
    return rc;
}

/* Finds the last key that has a job, with a broker that has many jobs; the key after it if that job
 * was cancelled. */
static int find_last(struct run *r, struct client *client, struct err *e)
{
    int rc = 0, last = 1;
    for (int n = 1; rc == 0 && n < MAX_GENERATIONS; n++) {
        json_t *reply = NULL;
        set_generation(r, n);
        if ((rc = ask(client, "status", r->key, &reply, e)) == 0) {
            const char *state = json_string_value(json_object_get(reply, "state"));
            last = state && strcmp(state, "cancelled") == 0 ? n + 1 : n;
        }
        json_decref(reply);
    }
    set_generation(r, last);
    return rc == ASSAY_EUNKNOWNJOB ? 0 : rc;
}

int run_choose_job(struct run *r, struct client *client, struct err *e)
{
    if (!r->family[0] || r->from_pipe)
        return r->is_marked ? end_others(r, client, e) : 0;
    return r->data[0] ? end_others(r, client, e) : find_last(r, client, e);
}

int run_may_begin_anew(const struct run *r)
{
    return r->family[0] && !r->from_pipe;
}

int run_begin_anew(struct run *r, struct client *client, struct err *e)
{
    int rc = r->data[0] ? cancel(client, r->key, e) : 0;
    if (rc == 0)
        set_generation(r, r->generation + 1);
    return rc;
}
