/* verify.c - `assay verify`: scores a sample of a job's finished rows again, and compares the
 * float32 bits with those in the database.
 *
 * Token ids, pooling and results are read from the database in the data directory. The ids go to
 * the broker in the op `score`, under keys of their own, with explicit pooling. A row of several
 * sequences (responses, a pair) is sent as several rows, and their values are joined again. */
#include <limits.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/progress.h"
#include "broker/row.h"
#include "schema/log.h"
#include "schema/packed_rows.h"

#define CHUNK_SEQUENCES 256
#define CHUNK_BYTES (1u << 20)
#define SCORE_MS 10000 /* then it is asked again, as the broker may have restarted */

/* A row that is checked. */
struct check {
    uint32_t i;
    json_t *id;
    int32_t *ids;        /* only while it is being sent */
    float *stored, *now; /* [n_values] */
    uint32_t n_values, n_now;
    json_t *error; /* the row's error if it failed this time; NULL: none */
};

struct verify {
    const struct cli *cli;
    struct client *client;
    sqlite3 *db;
    char path[4200], prefix[40];
    int64_t job;
    char key[256];
    int64_t *rows; /* the sample, ascending */
    size_t n_rows;
    struct check *checks; /* [n_rows], of which n_checks are filled */
    size_t n_checks;
    int64_t n_other_mode;        /* scored under another checkpoint or mode */
    struct msg_writer sequences; /* rows of the request that is being built */
    struct check *whose[CHUNK_SEQUENCES];
    uint32_t n_sequences;
    int chunk, score_ms;
    size_t n_equal;
    struct progress progress;
    struct waiting waiting;
};

/* ---- the database ---- */

static int db_failed(struct verify *v, struct err *e)
{
    return err_set(
        e, ASSAY_EIO, "%s: %s", v->path, v->db ? sqlite3_errmsg(v->db) : "out of memory");
}

static sqlite3_stmt *query(struct verify *v, const char *sql, struct err *e)
{
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(v->db, sql, -1, &q, NULL) != SQLITE_OK)
        db_failed(v, e);
    return q;
}

static int open_database(struct verify *v, struct err *e)
{
    const struct cli *c = v->cli;
    const char *dir;
    int rc = cli_data_dir(c, &dir);
    if (rc == 0)
        rc = cli_path(v->path, sizeof v->path, "%s/assay.db", dir);
    if (rc != 0)
        return rc;
    if ((rc = cli_check_access(v->path, R_OK)) != 0)
        return rc;
    if (sqlite3_open_v2(v->path, &v->db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK) {
        db_failed(v, e);
        cli_fail(e);
        return EX_NOINPUT;
    }
    sqlite3_busy_timeout(v->db, 10000);
    return 0;
}

static int find_job(struct verify *v, struct err *e)
{
    const char *name = v->cli->operand;
    int is_number = name[strspn(name, "0123456789")] == '\0';
    sqlite3_stmt *q = query(v,
        is_number ? "select job, key from job where job = cast(? as integer)"
                  : "select job, key from job where key = ?",
        e);
    if (!q)
        return e->code;
    sqlite3_bind_text(q, 1, name, -1, SQLITE_STATIC);
    int found = sqlite3_step(q);
    int rc = 0;
    if (found == SQLITE_ROW) {
        v->job = sqlite3_column_int64(q, 0);
        snprintf(v->key, sizeof v->key, "%s", (const char *)sqlite3_column_text(q, 1));
    } else {
        rc = found == SQLITE_DONE
                 ? err_set(e, ASSAY_EUNKNOWNJOB, "%s has no job '%s'", v->path, name)
                 : db_failed(v, e);
    }
    sqlite3_finalize(q);
    return rc;
}

/* Chooses at most n finished rows at random. */
static int choose_sample(struct verify *v, long n, struct err *e)
{
    sqlite3_stmt *q = query(v,
        "select row from (select row from result where job = ? and error_code is null "
        "order by random() limit ?) order by row",
        e);
    size_t room = 0;
    int got;
    if (!q)
        return e->code;
    sqlite3_bind_int64(q, 1, v->job);
    sqlite3_bind_int64(q, 2, n);
    while ((got = sqlite3_step(q)) == SQLITE_ROW) {
        if (v->n_rows == room) {
            room = room ? 2 * room : 128;
            int64_t *rows = xcalloc(room, sizeof *rows);
            if (v->n_rows > 0)
                memcpy(rows, v->rows, v->n_rows * sizeof *rows);
            free(v->rows);
            v->rows = rows;
        }
        v->rows[v->n_rows++] = sqlite3_column_int64(q, 0);
    }
    int rc = got == SQLITE_DONE ? 0 : db_failed(v, e);
    sqlite3_finalize(q);
    v->checks = xcalloc(v->n_rows + 1, sizeof *v->checks);
    return rc;
}

/* ---- one chunk: out, and back ---- */

/* Takes the values of a result one after the other, whatever their shape. The JSON has at most nine
 * digits of each, which is enough to restore the float32. */
static void take_values(struct check *c, const json_t *value)
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

static void take_row(struct check *c, const json_t *row)
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

static int ask(struct verify *v, json_t **reply, struct err *e)
{
    char key[64];
    snprintf(key, sizeof key, "%s-%d", v->prefix, v->chunk);
    struct msg_writer *w = client_begin(v->client, "score", 4);
    msg_key_str(w, "key", key);
    msg_key_int(w, "timeout_ms", v->score_ms);
    msg_key_bool(w, "fresh", 1); /* a score from the cache would prove nothing */
    msg_str(w, "rows");
    msg_array(w, v->n_sequences);
    msg_raw(w, (struct slice){(const uint8_t *)v->sequences.buffer.data, v->sequences.buffer.size});
    return client_call_patiently(v->client, v->score_ms, reply, e);
}

/* Purges the chunk's job. A failure does not matter to the verification. */
static void forget_chunk(struct verify *v, const json_t *reply)
{
    json_t *purged = NULL;
    msg_key_int(client_begin(v->client, "purge", 1), "job",
        json_integer_value(json_object_get(reply, "job")));
    client_call(v->client, 0, &purged, NULL);
    json_decref(purged);
}

static int score_chunk(struct verify *v, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    int rc;
    if (v->n_sequences == 0)
        return 0;
    while ((rc = ask(v, &reply, e)) == ASSAY_ETIMEOUT)
        if (cli_interrupted())
            return rc;
    if (rc != 0)
        return rc;
    json_array_foreach(json_object_get(reply, "rows"), k, row)
    {
        if (k < v->n_sequences)
            take_row(v->whose[k], row);
    }
    forget_chunk(v, reply);
    json_decref(reply);
    msg_writer_clear(&v->sequences);
    v->n_sequences = 0;
    v->chunk++;
    progress_show(&v->progress, (int64_t)v->n_checks, 0, 0);
    return 0;
}

/* ---- rows ---- */

enum column {
    ID,
    POOL,
    ACTIVATION,
    STEP_TOKEN,
    FIRST, /* the first row of the pack in the columns after it */
    ROWS,
    IDS,
    POSITIONS,
    ENDS,
    SCORE,
    VECTOR,
    OTHER_MODE,
    N_TOKENS
};

#define ROW_SQL                                                                                    \
    "select client_id, pool_type, activation, step_token, row_input.row, rows, ids, positions, "   \
    "ends, score, vector, mode <> (select value from meta where name = 'mode'), n_tokens from "    \
    "row "                                                                                         \
    "join row_input on row_input.row = (select max(row) from row_input where row <= ?1) "          \
    "join result on result.row = row.row where row.row = ?1 and error_code is null"

static json_t *read_id(sqlite3_stmt *q)
{
    switch (sqlite3_column_type(q, ID)) {
    case SQLITE_NULL:
        return json_null();
    case SQLITE_INTEGER:
        return json_integer(sqlite3_column_int64(q, ID));
    default:
        return json_stringn(
            (const char *)sqlite3_column_text(q, ID), (size_t)sqlite3_column_bytes(q, ID));
    }
}

static void read_stored(struct check *c, sqlite3_stmt *q)
{
    int is_list = sqlite3_column_type(q, SCORE) == SQLITE_NULL;
    c->n_values = is_list ? (uint32_t)sqlite3_column_bytes(q, VECTOR) / sizeof(float) : 1;
    c->stored = xcalloc(c->n_values + 1, sizeof *c->stored);
    c->now = xcalloc(c->n_values + 1, sizeof *c->now);
    if (!is_list)
        c->stored[0] = (float)sqlite3_column_double(q, SCORE);
    else if (c->n_values > 0)
        memcpy(c->stored, sqlite3_column_blob(q, VECTOR), c->n_values * sizeof(float));
}

static void write_positions(struct msg_writer *w, const uint8_t *positions, uint32_t n)
{
    msg_str(w, "positions");
    msg_array(w, n);
    for (uint32_t k = 0; k < n; k++) {
        int32_t p;
        memcpy(&p, positions + k * sizeof p, sizeof p);
        msg_int(w, p);
    }
}

/* Writes a sequence as a row of the request: ids [from, to), and n_positions positions. */
static void write_sequence(struct msg_writer *w, sqlite3_stmt *q, const int32_t *ids, uint32_t from,
    uint32_t to, const uint8_t *positions, uint32_t n_positions)
{
    int type = n_positions > 0 ? POOL_POSITIONS : sqlite3_column_int(q, POOL);
    msg_map(w, 2);
    msg_str(w, "ids");
    msg_bin(w, ids + from, (to - from) * sizeof *ids);
    msg_str(w, "pool");
    msg_map(w, 2 + (uint32_t)(type == POOL_STEP) + (uint32_t)(n_positions > 0));
    msg_key_str(w, "type", pool_type_name(type));
    msg_key_str(w, "activation", activation_name(sqlite3_column_int(q, ACTIVATION)));
    if (type == POOL_STEP)
        msg_key_int(w, "step_token", sqlite3_column_int(q, STEP_TOKEN));
    if (n_positions > 0)
        write_positions(w, positions, n_positions);
}

static int add_sequence(struct verify *v, struct check *c, sqlite3_stmt *q, uint32_t from,
    uint32_t to, const uint8_t *positions, uint32_t n_positions, struct err *e)
{
    size_t bytes = v->sequences.buffer.size + (to - from) * sizeof(int32_t);
    int rc = 0;
    if (v->n_sequences == CHUNK_SEQUENCES || (v->n_sequences > 0 && bytes > CHUNK_BYTES))
        rc = score_chunk(v, e);
    if (rc != 0)
        return rc;
    v->whose[v->n_sequences++] = c;
    write_sequence(&v->sequences, q, c->ids, from, to, positions, n_positions);
    return 0;
}

/* Adds the sequences of the current row. If there are several, each has one position of its own, or
 * none. */
static int add_sequences(struct verify *v, struct check *c, sqlite3_stmt *q,
    const struct packed_input *in, struct err *e)
{
    uint32_t from = 0, to, each = in->n_positions > 0;
    if (in->n_ends == 0)
        return add_sequence(v, c, q, 0, in->n_tokens, in->positions, in->n_positions, e);
    int rc = 0;
    for (uint32_t part = 0; rc == 0 && part < in->n_ends; part++, from = to) {
        memcpy(&to, in->ends + part * sizeof to, sizeof to);
        if (to > in->n_tokens || to < from || (each && in->n_positions != in->n_ends))
            return err_set(e, ASSAY_EFORMAT, "%s: row %u of job %lld has no sound ends", v->path,
                c->i, (long long)v->job);
        const uint8_t *position = each ? in->positions + part * sizeof(int32_t) : NULL;
        rc = add_sequence(v, c, q, from, to, position, each, e);
    }
    return rc;
}

static struct slice column(sqlite3_stmt *q, int i)
{
    return (struct slice){sqlite3_column_blob(q, i), (size_t)sqlite3_column_bytes(q, i)};
}

/* Reads the row's input. c->ids is allocated, and freed once the sequences are written. */
static int read_input(
    struct verify *v, struct check *c, sqlite3_stmt *q, struct packed_input *in, struct err *e)
{
    struct packed_columns columns = {
        column(q, ROWS), column(q, IDS), column(q, POSITIONS), column(q, ENDS)};
    struct packed_rows pack;
    uint32_t n = (uint32_t)sqlite3_column_int64(q, N_TOKENS);
    int64_t k = (int64_t)c->i - row_index(sqlite3_column_int64(q, FIRST));
    int sound = packed_open(&pack, &columns, n) == 0 && k >= 0 && k < pack.n_rows;
    if (sound)
        *in = packed_input(&pack, (uint32_t)k);
    if (!sound || in->n_tokens != n)
        return err_set(e, ASSAY_EFORMAT,
            "%s: row %u of job %lld: expected the ids of %u tokens, found a record without them",
            v->path, c->i, (long long)v->job, n);
    c->ids = xcalloc(n + 1, sizeof *c->ids);
    packed_ids(&pack, in, c->ids);
    return 0;
}

static int check_row(struct verify *v, sqlite3_stmt *q, int64_t row, struct err *e)
{
    sqlite3_bind_int64(q, 1, row);
    int got = sqlite3_step(q), rc = 0;
    struct packed_input in;
    if (got == SQLITE_ROW) {
        struct check *c = &v->checks[v->n_checks++];
        c->i = row_index(row);
        c->id = read_id(q);
        read_stored(c, q);
        v->n_other_mode += sqlite3_column_int(q, OTHER_MODE);
        rc = read_input(v, c, q, &in, e);
        if (rc == 0)
            rc = add_sequences(v, c, q, &in, e);
        free(c->ids);
        c->ids = NULL;
    } else if (got != SQLITE_DONE) {
        rc = db_failed(v, e);
    }
    sqlite3_reset(q);
    return rc;
}

static int check_all(struct verify *v, struct err *e)
{
    sqlite3_stmt *q = query(v, ROW_SQL, e);
    int rc = q ? 0 : e->code;
    for (size_t k = 0; rc == 0 && k < v->n_rows && !cli_interrupted(); k++)
        rc = check_row(v, q, v->rows[k], e);
    if (rc == 0)
        rc = score_chunk(v, e);
    sqlite3_finalize(q);
    return rc;
}

/* ---- the report ---- */

static int is_equal(const struct check *c)
{
    return !c->error && c->n_now == c->n_values &&
           memcmp(c->stored, c->now, c->n_values * sizeof *c->now) == 0;
}

static json_t *float_list(const float *values, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t k = 0; k < n; k++)
        json_array_append_new(list, json_real((double)values[k]));
    return list;
}

static json_t *difference(const struct check *c)
{
    json_t *now = c->error ? json_null()
                           : float_list(c->now, c->n_now < c->n_values ? c->n_now : c->n_values);
    return json_pack("{s:I, s:O, s:o, s:o, s:O?}", "i", (json_int_t)c->i, "id", c->id, "stored",
        float_list(c->stored, c->n_values), "now", now, "error", c->error);
}

static void print_difference(const struct check *c)
{
    printf("row %u, id ", c->i);
    json_print(stdout, c->id, 0);
    printf(": ");
    if (c->error) {
        printf("stored a score, now %s\n", json_string_value(json_object_get(c->error, "code")));
        return;
    }
    if (c->n_now != c->n_values) {
        printf("stored %u values, now %u\n", c->n_values, c->n_now);
        return;
    }
    uint32_t k = 0;
    while (memcmp(&c->stored[k], &c->now[k], sizeof c->now[k]) == 0)
        k++;
    if (c->n_values > 1)
        printf("value %u of %u: ", k, c->n_values);
    printf("stored %.9g, now %.9g\n", (double)c->stored[k], (double)c->now[k]);
}

static int report(struct verify *v)
{
    json_t *differ = json_array();
    struct err e = {0};
    int as_json = v->cli->value[CLI_JSON] != NULL, rc = EX_OK;
    for (size_t k = 0; k < v->n_checks; k++) {
        if (is_equal(&v->checks[k]))
            v->n_equal++;
        else if (as_json)
            json_array_append_new(differ, difference(&v->checks[k]));
        else
            print_difference(&v->checks[k]);
    }
    if (as_json) {
        json_t *all = json_pack("{s:I, s:s, s:I, s:I, s:I, s:O}", "job", (json_int_t)v->job, "key",
            v->key, "compared", (json_int_t)v->n_checks, "equal", (json_int_t)v->n_equal,
            "other_mode", (json_int_t)v->n_other_mode, "differ", differ);
        rc = json_print_line(stdout, all, &e) == 0 ? EX_OK : cli_fail(&e);
        json_decref(all);
    } else {
        printf("job %lld: %zu rows scored again, %zu equal in every bit, %zu not\n",
            (long long)v->job, v->n_checks, v->n_equal, v->n_checks - v->n_equal);
        if (v->n_other_mode > 0)
            printf("%lld of them were scored under another checkpoint or mode than the broker has "
                   "now\n",
                (long long)v->n_other_mode);
    }
    json_decref(differ);
    return rc == EX_OK && v->n_equal < v->n_checks ? EX_ROWS_FAILED : rc;
}

/* ---- all ---- */

static int verify_open(struct verify *v, long n, struct err *e)
{
    unsigned char random[6];
    char hex[2 * sizeof random + 1];
    int rc = open_database(v, e);
    if (rc != 0)
        return rc;
    if (find_job(v, e) != 0 || choose_sample(v, n, e) != 0)
        return cli_fail(e);
    if (sodium_init() < 0)
        return cli_usage("libsodium cannot start");
    randombytes_buf(random, sizeof random);
    snprintf(v->prefix, sizeof v->prefix, "verify-%s",
        sodium_bin2hex(hex, sizeof hex, random, sizeof random));
    msg_writer_init(&v->sequences);
    return cli_connect(v->cli, &v->client);
}

/* Checks that a broker answers. The time for scoring the rows comes on top of --timeout. */
static int greet(struct verify *v, struct err *e)
{
    json_t *reply = NULL;
    client_begin(v->client, "hello", 0);
    int rc = client_call_patiently(v->client, 0, &reply, e);
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
    if (v->prefix[0])
        msg_writer_release(&v->sequences);
    client_free(&v->client);
    sqlite3_close(v->db);
}

int verb_verify(const struct cli *c)
{
    struct verify v = {.cli = c};
    struct err e = {0};
    long n, timeout_s;
    if (c->value[CLI_CONNECT] && !c->value[CLI_DATA])
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
        rc = cli_interrupted() ? EX_TEMPFAIL : failed ? cli_fail(&e) : report(&v);
    }
    verify_close(&v);
    return rc;
}
