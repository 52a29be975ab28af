/* verify.c - `assay verify`: scores a sample of a job's finished rows again, and compares the
 * float32 bits with those in the database.
 *
 * Token ids, pooling and results are read from the database in the data directory. The ids go to
 * the broker in the op `score`, under keys of their own, with explicit pooling. A row of several
 * sequences (responses, a pair) is sent as several rows, and their values are joined again. */
#include <inttypes.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/progress.h"
#include "broker/cli/reply.h"
#include "broker/cli/verify_report.h"
#include "broker/row.h"
#include "broker/store/store.h"
#include "broker/text/buffer.h"
#include "schema/alloc.h"

#define CHUNK_SEQUENCES 256
#define CHUNK_BYTES (1u << 20)
#define SCORE_MS 10000 /* then it is asked again, as the broker may have restarted */

struct verify {
    const struct cli *cli;
    struct client *client;
    struct store *store;
    char path[4200], prefix[40];
    int64_t job;
    char key[256];
    int64_t *rows; /* the sample, ascending */
    size_t n_rows, rows_room;
    struct verify_check *checks; /* [n_rows], of which n_checks are filled */
    size_t n_checks, n_compared; /* those that have come back are the first */
    struct msg_writer sequences; /* rows of the request that is being built */
    struct verify_check *whose[CHUNK_SEQUENCES];
    uint32_t n_sequences;
    int chunk, score_ms;
    json_t *models; /* the broker's, as hello lists them */
    struct progress progress;
    struct waiting waiting;
};

/* ---- the database ---- */

static int open_database(struct verify *v, struct err *e)
{
    const struct cli *c = v->cli;
    const char *dir;
    int rc = cli_data_dir(c, &dir);
    if (rc == 0)
        rc = cli_path(v->path, sizeof v->path, "%s/assay.db", dir);
    if (rc != 0)
        return rc;
    if ((rc = cli_check_access(v->path, R_OK, cli_data_from(c))) != 0)
        return rc;
    if (store_open_reader(&v->store, dir, e) == 0)
        return 0;
    rc = cli_fail(e);
    return e->code == ASSAY_EIO ? EX_NOINPUT : rc;
}

static int find_job(struct verify *v, struct err *e)
{
    const char *name = v->cli->operand;
    struct store_job found;
    int is_number = name[strspn(name, "0123456789")] == '\0', rc = 1;
    if (is_number)
        v->job = strtoll(name, NULL, 10);
    else
        rc = store_find_job(
            v->store, (struct slice){(const uint8_t *)name, strlen(name)}, &v->job, e);
    if (rc == 1)
        rc = store_get_job(v->store, v->job, &found, e);
    if (rc == 1)
        snprintf(v->key, sizeof v->key, "%s", found.key);
    if (rc == 0)
        return err_set(e, ASSAY_EUNKNOWNJOB, "%s has no job '%s'", v->path, name);
    return rc < 0 ? rc : 0;
}

static void choose_row(void *arg, int64_t row)
{
    struct verify *v = arg;
    v->rows = list_grow(v->rows, v->n_rows, &v->rows_room, sizeof *v->rows);
    v->rows[v->n_rows++] = row;
}

/* ---- one chunk: out, and back ---- */

/* Takes the values of a result one after the other, whatever their shape. The JSON has at most nine
 * digits of each, which is enough to restore the float32. */
static void take_values(struct verify_check *c, const json_t *value)
{
    json_t *each;
    size_t k;
    char text[40];
    json_array_foreach(value, k, each)
    {
        take_values(c, each);
    }
    if (!json_is_number(value))
        return;
    snprintf(text, sizeof text, "%.9g", json_number_value(value));
    if (c->n_now < c->n_values)
        c->now[c->n_now] = strtof(text, NULL);
    c->n_now++;
}

static void take_row(struct verify_check *c, const json_t *row)
{
    const json_t *error = json_object_get(row, "error");
    if (!json_is_null(error)) {
        json_decref(c->error);
        c->error = json_incref((json_t *)error);
        return;
    }
    take_values(c, json_object_get(row, "score"));
    take_values(c, json_object_get(row, "scores"));
    take_values(c, json_object_get(row, "steps"));
}

static void name_chunk(const struct verify *v, char key[64])
{
    snprintf(key, 64, "%s-%d", v->prefix, v->chunk);
}

static int ask(struct verify *v, json_t **reply, struct err *e)
{
    char key[64];
    name_chunk(v, key);
    struct msg_writer *w = client_begin(v->client, "score", 4);
    msg_key_str(w, "key", key);
    msg_key_int(w, "timeout_ms", v->score_ms);
    msg_key_bool(w, "fresh", 1); /* a score from the cache would prove nothing */
    msg_str(w, "rows");
    msg_array(w, v->n_sequences);
    msg_raw(w, (struct slice){(const uint8_t *)v->sequences.buffer.data, v->sequences.buffer.size});
    return client_call_patiently(v->client, v->score_ms, reply, e);
}

/* Asks for something about the chunk's job. The caller owns the reply, NULL if there is none. */
static json_t *ask_about_chunk(struct verify *v, const char *op)
{
    char key[64];
    json_t *reply = NULL;
    name_chunk(v, key);
    msg_key_str(client_begin(v->client, op, 1), "job", key);
    client_call(v->client, 0, &reply, NULL);
    return reply;
}

/* Reports what keeps the chunk from being scored. */
static void tell_what_blocks(struct verify *v)
{
    json_t *status = ask_about_chunk(v, "status");
    if (status)
        waiting_tell_what_blocks(&v->waiting, status, 0);
    json_decref(status);
}

/* Purges the chunk's job, cancelled where it is not done. A failure does not matter to the
 * verification. */
static void forget_chunk(struct verify *v, int is_done)
{
    if (!is_done)
        json_decref(ask_about_chunk(v, "cancel"));
    json_t *purged = ask_about_chunk(v, "purge");
    if (!purged && !is_done)
        cli_say("job '%s-%d' of this verification may be left; `assay cancel` and `assay purge` "
                "remove it",
            v->prefix, v->chunk);
    json_decref(purged);
}

/* Scores what was added, of which the first n_whole checks have all their sequences in it or before
 * it. */
static int score_chunk(struct verify *v, size_t n_whole, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    int rc;
    if (v->n_sequences == 0)
        return 0;
    while ((rc = ask(v, &reply, e)) == ASSAY_ETIMEOUT && !cli_interrupted())
        tell_what_blocks(v);
    if (rc != 0 && rc != ASSAY_ENOTREADY) /* with that, nobody would answer */
        forget_chunk(v, 0);
    if (rc != 0)
        return rc;
    json_array_foreach(json_object_get(reply, "rows"), k, row)
    {
        if (k < v->n_sequences)
            take_row(v->whose[k], row);
    }
    json_decref(reply);
    forget_chunk(v, 1);
    msg_writer_clear(&v->sequences);
    v->n_sequences = 0;
    v->n_compared = n_whole;
    v->chunk++;
    progress_show(&v->progress, (int64_t)v->n_compared, 0, 0);
    return 0;
}

/* ---- rows ---- */

static json_t *read_id(struct slice id)
{
    struct msg_reader r;
    struct slice text = {0};
    int64_t number;
    uint64_t large = 0;
    if (!id.at)
        return json_null();
    msg_reader_init(&r, id.at, id.len);
    if (msg_read_str(&r, "", &text, NULL) == 0)
        return json_stringn((const char *)text.at, text.len);
    msg_reader_init(&r, id.at, id.len);
    if (msg_read_int(&r, "", INT64_MIN, INT64_MAX, &number, NULL) == 0)
        return json_integer(number);
    msg_reader_init(&r, id.at, id.len);
    msg_read_uint64(&r, "", &large, NULL);
    return json_sprintf("%" PRIu64, large);
}

/* The store's visitor of the result of v->checks[v->n_checks]. */
static int take_stored(void *arg, const struct store_result_row *row)
{
    struct verify *v = arg;
    struct verify_check *c = &v->checks[v->n_checks++];
    c->i = row->i;
    c->id = read_id(row->client_id);
    c->n_values = row->n_values;
    c->stored = xcalloc(c->n_values + 1, sizeof *c->stored);
    c->now = xcalloc(c->n_values + 1, sizeof *c->now);
    if (c->n_values > 0)
        memcpy(c->stored, row->values, c->n_values * sizeof *c->stored);
    c->is_other_mode = row->is_other_mode;
    return 0;
}

static void write_positions(struct msg_writer *w, const struct sequence *r)
{
    msg_str(w, "positions");
    msg_array(w, r->n_positions);
    for (uint32_t k = 0; k < r->n_positions; k++)
        msg_int(w, r->positions[k]);
}

static int has_recipe(const struct verify *v, const char *name)
{
    json_t *m, *found = json_array_get(v->models, 0);
    size_t k;
    json_array_foreach(v->models, k, m) if (strcmp(reply_text(m, "name"), name) == 0) found = m;
    return json_is_string(json_object_get(json_object_get(found, "model"), "recipe"));
}

/* The row pools what it pooled: a recipe's rule about pad tokens decides that for LAST; else the
 * positions that were kept do, or where there are none the last token, whatever the rule is now. */
static void write_sequence(const struct verify *v, struct msg_writer *w, const struct sequence *r,
    const struct store_names *names)
{
    int is_last = r->pool.type == POOL_LAST, by_recipe = is_last && has_recipe(v, names->model);
    int at_positions = r->n_positions > 0 && !by_recipe;
    int type = at_positions ? POOL_POSITIONS : r->pool.type;
    int no_rule = is_last && !at_positions && !by_recipe;
    msg_map(w, 2 + (uint32_t)no_rule + (names->model[0] != 0) + (names->adapter[0] != 0));
    if (no_rule)
        msg_key_bool(w, "hf_pad_rule", 0);
    if (names->model[0])
        msg_key_str(w, "model", names->model);
    if (names->adapter[0])
        msg_key_str(w, "adapter", names->adapter);
    msg_str(w, "ids");
    msg_bin(w, r->ids, r->n_tokens * sizeof *r->ids);
    msg_str(w, "pool");
    msg_map(w, 2 + (uint32_t)(type == POOL_STEP) + (uint32_t)at_positions);
    msg_key_str(w, "type", pool_type_name(type));
    msg_key_str(w, "activation", activation_name(r->pool.activation));
    if (type == POOL_STEP)
        msg_key_int(w, "step_token", r->pool.step_token);
    if (at_positions)
        write_positions(w, r);
}

static int add_sequence(
    struct verify *v, struct verify_check *c, const struct sequence *r, struct err *e)
{
    struct store_names names;
    int rc = store_read_names(v->store, r, &names, e);
    if (rc != 0)
        return rc;
    size_t bytes = v->sequences.buffer.size + r->n_tokens * sizeof *r->ids;
    if (v->n_sequences == CHUNK_SEQUENCES || (v->n_sequences > 0 && bytes > CHUNK_BYTES))
        rc = score_chunk(v, v->n_checks - 1, e);
    if (rc != 0)
        return rc;
    v->whose[v->n_sequences++] = c;
    write_sequence(v, &v->sequences, r, &names);
    return 0;
}

/* The sequences of a row, in order. */
struct parts {
    struct sequence *first, **end;
};

static void keep_part(void *arg, struct sequence *r)
{
    struct parts *parts = arg;
    *parts->end = r;
    parts->end = &r->next;
}

/* Adds the row to the checks, unless it was purged or queued again meanwhile. Its result is read
 * after its input, so a row with a result but no input is damaged. */
static int check_row(struct verify *v, int64_t row, struct err *e)
{
    struct parts parts = {.end = &parts.first};
    struct verify_check *c = &v->checks[v->n_checks];
    int rc = store_one_row(v->store, row, keep_part, &parts, e), found = 0;
    if (rc == 0)
        rc = found = store_result_as_kept(v->store, row, take_stored, v, e);
    if (found == 1)
        rc = parts.first ? 0
                         : err_set(e, ASSAY_EFORMAT,
                               "%s: row %u of job %lld: expected its token ids as they were kept, "
                               "found a record that is damaged",
                               v->path, row_index(row), (long long)v->job);
    for (struct sequence *r = parts.first, *next; r; r = next) {
        next = r->next;
        if (found == 1 && rc == 0)
            rc = add_sequence(v, c, r, e);
        sequence_free(&r);
    }
    return rc;
}

static int check_all(struct verify *v, struct err *e)
{
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < v->n_rows && !cli_interrupted(); k++)
        rc = check_row(v, v->rows[k], e);
    return rc == 0 && !cli_interrupted() ? score_chunk(v, v->n_checks, e) : rc;
}

/* ---- the report ---- */

static int report(const struct verify *v)
{
    return verify_report(v->cli, &(struct verify_result){v->job, v->key, v->checks, v->n_compared});
}

/* Reports as far as it came. Returns the exit code. */
static int end_early(struct verify *v, const struct err *e)
{
    int rc = cli_interrupted() ? EX_TEMPFAIL : cli_fail(e);
    cli_say("%s after %zu of %zu row%s", cli_interrupted() ? "stopped" : "given up", v->n_compared,
        v->n_rows, cli_s((int64_t)v->n_rows));
    if (v->n_compared > 0)
        report(v);
    return rc;
}

/* ---- all ---- */

static int verify_open(struct verify *v, long n, struct err *e)
{
    unsigned char random[6];
    char hex[2 * sizeof random + 1];
    int rc = open_database(v, e);
    if (rc != 0)
        return rc;
    if (find_job(v, e) != 0 ||
        store_sample_rows(v->store, v->job, (uint32_t)n, choose_row, v, e) != 0)
        return cli_fail(e);
    v->checks = xcalloc(v->n_rows + 1, sizeof *v->checks);
    if (sodium_init() < 0)
        return cli_usage("libsodium cannot start");
    randombytes_buf(random, sizeof random);
    snprintf(v->prefix, sizeof v->prefix, "verify-%s",
        sodium_bin2hex(hex, sizeof hex, random, sizeof random));
    msg_writer_init(&v->sequences);
    return cli_connect(v->cli, &v->client);
}

/* Checks that a broker answers, and asks for its models. The time for scoring the rows comes on top of --timeout. */
static int greet(struct verify *v, struct err *e)
{
    json_t *reply = NULL;
    client_begin(v->client, "hello", 0);
    int rc = client_call_patiently(v->client, 0, &reply, e);
    v->models = json_incref(json_object_get(reply, "models"));
    json_decref(reply);
    return rc;
}

static void verify_close(struct verify *v)
{
    for (size_t k = 0; k < v->n_checks; k++) {
        json_decref(v->checks[k].id);
        json_decref(v->checks[k].error);
        free(v->checks[k].stored);
        free(v->checks[k].now);
    }
    free(v->checks);
    free(v->rows);
    json_decref(v->models);
    if (v->prefix[0])
        msg_writer_release(&v->sequences);
    client_free(&v->client);
    store_close_reader(&v->store);
}

int verb_verify(const struct cli *c)
{
    struct verify v = {.cli = c};
    struct err e = {0};
    long n, timeout_s;
    if (!c->value[CLI_CONNECT] && !c->value[CLI_DATA] && c->endpoint && !c->state_is_named)
        return cli_usage(
            "verify: expected --data DIR, or ASSAY_DATA, beside ASSAY_ENDPOINT: it reads the "
            "stored results from the broker's database");
    if (c->value[CLI_CONNECT] && !c->value[CLI_DATA] && !c->state_is_named)
        return cli_usage(
            "verify: expected --data DIR beside --connect: it reads the stored results "
            "from the broker's database");
    int rc = cli_number(c, CLI_SAMPLE, 1, INT_MAX, 100, &n);
    if (rc == 0)
        rc = cli_number(c, CLI_TIMEOUT, 1, 86400, 15, &timeout_s);
    if (rc == 0)
        v.score_ms = timeout_s * 1000 < SCORE_MS ? (int)timeout_s * 1000 : SCORE_MS;
    if (rc == 0)
        rc = verify_open(&v, n, &e);
    if (rc == 0) {
        progress_init(&v.progress, c->stderr_tty, (int64_t)v.n_rows);
        v.waiting.progress = &v.progress;
        client_set_waiting(v.client, &v.waiting);
        int failed = greet(&v, &e) != 0 || check_all(&v, &e) != 0;
        progress_end(&v.progress);
        rc = failed || cli_interrupted() ? end_early(&v, &e) : report(&v);
    }
    verify_close(&v);
    return rc;
}
