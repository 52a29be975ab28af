/* placing.c - makes rows ready to be stored, and places them into their job.
 *
 * Most of the work needs no store: packing ids, hashing inputs. It is done when the rows are made
 * ready, on any thread. What is left for the store's thread is a record for each row, whose number
 * is known only now, and one for each pack. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/request.h"

#define DIGITS 24

/* A row, all but its number. */
struct ready_row {
    struct slice client_id; /* as in struct store_row */
    int shape;
    struct pooling pool;
    uint32_t n_tokens, n_values;
    struct slice adapter; /* its route, in a struct noted_route; absent: none */
    int error_code;
    char *error_message; /* owned; NULL: none */
    struct input_hash input;
};

/* One of the different routes that rows have. */
struct noted_route {
    struct store_route route; /* its text is in `text` */
    int counts;               /* a row that was not born failed has it */
    struct noted_route *next;
    uint8_t text[];
};

/* Rows `first` and following, packed; the columns are in `bytes`. */
struct ready_pack {
    uint32_t first, n_rows;
    struct packed_columns columns;
    struct ready_pack *next;
    uint8_t bytes[];
};

struct store_rows {
    struct ready_row *rows;
    uint32_t n, room;
    struct ready_pack *packs, **packs_end;
    struct packed_writer *writer; /* the pack that is being filled; NULL: all are */
    size_t pack_bytes;            /* memory of the packs */
    int64_t truncation;           /* of its rows (store_join_truncation) */
    struct noted_route *routes;
    uint32_t n_failed; /* born failed */
};

/* ---- made ready, on any thread ---- */

struct store_rows *store_rows_new(struct packed_writer *scratch)
{
    struct store_rows *r = xcalloc(1, sizeof *r);
    r->writer = scratch;
    packed_clear(scratch);
    r->packs_end = &r->packs;
    return r;
}

size_t store_rows_bytes(const struct store_rows *r)
{
    return r ? sizeof *r + r->room * sizeof *r->rows + r->pack_bytes : 0;
}

uint32_t store_rows_failed(const struct store_rows *r)
{
    return r ? r->n_failed : 0;
}

void store_rows_free(struct store_rows **out)
{
    struct store_rows *r = *out;
    if (!r)
        return;
    for (uint32_t i = 0; i < r->n; i++)
        free(r->rows[i].error_message);
    for (struct ready_pack *p = r->packs, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    for (struct noted_route *p = r->routes, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    free(r->rows);
    free(r);
    *out = NULL;
}

static void *must_have(void *p, size_t bytes)
{
    if (!p)
        die(EX_OSERR, "event=out_of_memory wanted=%zu bytes of rows", bytes);
    return p;
}

static struct slice copy_to(uint8_t **at, struct slice s)
{
    struct slice copy = {s.at ? *at : NULL, s.len};
    if (s.len > 0)
        memcpy(*at, s.at, s.len);
    *at += s.len;
    return copy;
}

/* Ends the pack of rows so far; the row after them is r->n. */
static void end_pack(struct store_rows *r)
{
    uint32_t n_rows = r->writer->n_rows;
    if (n_rows == 0)
        return;
    struct packed_columns c = packed_encode(r->writer);
    size_t bytes =
        sizeof(struct ready_pack) + c.rows.len + c.ids.len + c.positions.len + c.ends.len;
    struct ready_pack *p = must_have(malloc(bytes), bytes);
    uint8_t *at = p->bytes;
    *p = (struct ready_pack){.first = r->n - n_rows, .n_rows = n_rows};
    p->columns = (struct packed_columns){
        copy_to(&at, c.rows), copy_to(&at, c.ids), copy_to(&at, c.positions), copy_to(&at, c.ends)};
    *r->packs_end = p;
    r->packs_end = &p->next;
    r->pack_bytes += bytes;
    packed_clear(r->writer);
}

/* Whether rows of this shape have a list of sequences, even if only one. */
static int is_list_shape(int shape)
{
    return row_shape_is_choice(shape) || shape == ROW_PAIR;
}

/* A row that is born failed has no input: it is empty within a pack, and no pack begins with it. */
static struct input_hash add_input(struct store_rows *r, const struct store_row *row)
{
    struct row_input in = {.ids = row->ids};
    if (row->error_code == 0) {
        int has_ends = row->n_parts > 1 || is_list_shape(row->shape);
        in = (struct row_input){row->ids, row->positions, row->ends, row->n_tokens,
            row->n_positions, has_ends ? row->n_parts : 0};
    }
    if (!packed_has_room(r->writer, in.n_tokens))
        end_pack(r);
    if (row->error_code != 0 && r->writer->n_rows == 0)
        return (struct input_hash){0};
    packed_add(r->writer, &in);
    return store_hash_input(&in);
}

static struct ready_row *make_room(struct store_rows *r)
{
    if (r->n == r->room) {
        r->room = r->room ? 2 * r->room : 16;
        size_t bytes = r->room * sizeof *r->rows;
        r->rows = must_have(realloc(r->rows, bytes), bytes);
    }
    return &r->rows[r->n];
}

/* The row's own truncation: its longest sequence decides. */
static int64_t truncation_of(const struct store_row *row)
{
    uint32_t longest = 0, from = 0;
    if (row->error_code || !row->truncates)
        return 0;
    for (uint32_t part = 0; row->n_parts > 1 && part < row->n_parts; from = row->ends[part++])
        longest = row->ends[part] - from > longest ? row->ends[part] - from : longest;
    longest = row->n_parts > 1 ? longest : row->n_tokens;
    return row->is_cut ? -(int64_t)longest : longest;
}

/* Notes the row's route, and returns its text. */
static struct slice note_route(struct store_rows *r, const struct store_row *row)
{
    struct noted_route **at = &r->routes;
    if (!row->adapter.at)
        return (struct slice){0};
    while (*at && (!slice_is_same((*at)->route.text, row->adapter) ||
                      memcmp((*at)->route.ids, row->models, sizeof row->models) != 0))
        at = &(*at)->next;
    if (!*at) {
        struct noted_route *new = xcalloc(1, sizeof *new + row->adapter.len + 1);
        memcpy(new->text, row->adapter.at, row->adapter.len);
        new->route.text = (struct slice){new->text, row->adapter.len};
        memcpy(new->route.ids, row->models, sizeof row->models);
        *at = new;
    }
    (*at)->counts |= row->error_code == 0;
    return (*at)->route.text;
}

void store_rows_add(struct store_rows *r, const struct store_row *row)
{
    struct ready_row *ready = make_room(r);
    *ready = (struct ready_row){.client_id = row->client_id,
        .shape = row->shape,
        .pool = row->pool,
        .n_tokens = row->n_tokens,
        .n_values = row->error_code ? 0 : row->n_values,
        .adapter = note_route(r, row),
        .error_code = row->error_code,
        .input = add_input(r, row)};
    if (row->error_code && row->error_message)
        ready->error_message =
            must_have(strdup(row->error_message), strlen(row->error_message) + 1);
    r->truncation = store_join_truncation(r->truncation, truncation_of(row));
    r->n_failed += row->error_code != 0;
    r->n++;
}

void store_rows_end(struct store_rows *r)
{
    end_pack(r);
    r->writer = NULL;
}

struct store_rows *store_damaged_rows(uint32_t n)
{
    static const struct store_row damaged = {
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .error_code = ASSAY_EDAMAGED,
        .error_message = STORE_ROW_DAMAGED};
    struct packed_writer scratch = {0};
    struct store_rows *rows = store_rows_new(&scratch);
    for (uint32_t i = 0; i < n; i++)
        store_rows_add(rows, &damaged);
    store_rows_end(rows);
    packed_writer_release(&scratch);
    return rows;
}

/* ---- placed, on the store's thread ---- */

/* Decodes the client's id, an integer or a text, from msgpack. An integer too large for SQLite
 * becomes a blob of its digits, written into `digits`. */
static struct client_id decode_id(struct slice id, char digits[DIGITS])
{
    struct msg_reader r;
    struct client_id out = {.type = SQLITE_NULL};
    uint64_t large;
    msg_reader_init(&r, id.at, id.len);
    struct msg_reader again = r;
    if (!id.at)
        return out;
    if (msg_peek(&r) == MSG_INT &&
        msg_read_int(&r, "id", INT64_MIN, INT64_MAX, &out.number, NULL) == 0) {
        out.type = SQLITE_INTEGER;
    } else if (msg_peek(&again) == MSG_INT && msg_read_uint64(&again, "id", &large, NULL) == 0) {
        int n = snprintf(digits, DIGITS, "%llu", (unsigned long long)large);
        out = (struct client_id){SQLITE_BLOB, 0, {(const uint8_t *)digits, (size_t)n}};
    } else if (msg_peek(&r) == MSG_STR && msg_read_str(&r, "id", &out.text, NULL) == 0) {
        out.type = SQLITE_TEXT;
    }
    return out;
}

static void bind_id(sqlite3_stmt *q, int at, const struct client_id *id)
{
    if (id->type == SQLITE_INTEGER)
        sqlite3_bind_int64(q, at, id->number);
    else if (id->type == SQLITE_BLOB)
        sqlite3_bind_blob64(q, at, id->text.at, id->text.len, SQLITE_STATIC);
    else if (id->type == SQLITE_TEXT)
        sqlite3_bind_text64(
            q, at, (const char *)id->text.at, id->text.len, SQLITE_STATIC, SQLITE_UTF8);
    else
        sqlite3_bind_null(q, at); /* not the previous row's value */
}

/* Rows being placed into a job, and what to add to its counters once all are there. */
struct placing {
    int64_t job;
    int64_t first_row;          /* the number of the first of them */
    int64_t next_row, next_seq; /* the next row's number, the next result's cursor */
    int64_t truncation;         /* of the job's rows so far */
    int64_t mode;               /* the job's */
    int64_t placed, failed, tokens;
};

/* A row that is born failed gets its result at once. */
static int add_failed(
    struct store *s, const struct placing *p, const struct ready_row *r, struct err *e)
{
    struct result_record record = {.job = p->job,
        .seq = p->next_seq,
        .row = p->next_row,
        .mode = p->mode,
        .finished_ms = now_wall_ms(),
        .error_code = store_text(err_name(r->error_code)),
        .error_message = store_text(r->error_message)};
    return store_insert_result(s, &record, NULL, e);
}

static int add_pack(struct store *s, int64_t first_row, const struct store_rows *rows,
    const struct ready_pack *pack, struct err *e)
{
    int64_t sums[PACKED_ROWS], first = first_row + pack->first;
    const struct packed_columns *c = &pack->columns;
    for (uint32_t i = 0; i < pack->n_rows; i++)
        sums[i] = store_sum_input(first + i, &rows->rows[pack->first + i].input);
    return store_run(s, e,
        "insert into row_input(row, rows, ids, positions, ends, sums) values (?, ?, ?, ?, ?, ?)",
        "ibbbbb", first, c->rows, c->ids, c->positions, c->ends,
        (struct slice){(const uint8_t *)sums, pack->n_rows * sizeof sums[0]});
}

static int insert_row(struct store *s, int64_t row, const struct ready_row *r, struct err *e)
{
    char digits[DIGITS];
    struct row_record c = {
        r->shape, r->n_tokens, r->n_values, r->pool, decode_id(r->client_id, digits), r->adapter};
    sqlite3_stmt *q = store_prepare(s,
        "insert into row(row, shape, n_tokens, pool_type, activation, step_token, n_values, sum, "
        "adapter, client_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?10)",
        "iiiiiiiit", row, c.shape, c.n_tokens, (int64_t)c.pool.type, (int64_t)c.pool.activation,
        (int64_t)c.pool.step_token, c.n_values, store_sum_row(row, &c), c.adapter);
    bind_id(q, 10, &c.id);
    return store_step(s, q, e);
}

static int add_row(
    struct store *s, struct placing *p, const struct ready_row *r, int is_written, struct err *e)
{
    int failed = r->error_code != 0;
    int rc = is_written ? 0 : insert_row(s, p->next_row, r, e);
    if (rc == 0 && failed)
        rc = add_failed(s, p, r, e);
    if (rc == 0)
        rc = store_row_is_placed(s, p->next_row, failed, e);
    p->next_row++;
    p->next_seq += failed;
    p->placed++;
    p->failed += failed;
    p->tokens += failed ? 0 : r->n_tokens;
    return rc;
}

static int begin_placing(struct store *s, int64_t job, struct placing *p, struct err *e)
{
    *p = (struct placing){.job = job};
    sqlite3_stmt *q = store_prepare(
        s, "select placed, next_seq, truncation, mode from job where job = ?", "i", job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc < 0 ? rc : err_set(e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)job);
    p->first_row = p->next_row = row_id_of(job, (uint32_t)sqlite3_column_int64(q, 0));
    p->next_seq = sqlite3_column_int64(q, 1);
    p->truncation = sqlite3_column_int64(q, 2);
    p->mode = sqlite3_column_int64(q, 3);
    sqlite3_reset(q);
    return 0;
}

static int end_placing(struct store *s, const struct placing *p, struct err *e)
{
    s->queued_tokens += p->tokens;
    int rc = store_run_job(s, p->job, JOB_COUNTED, e,
        "update job set placed = placed + ?1, tokens_left = tokens_left + ?2, "
        "next_seq = next_seq + ?3, done = done + ?3, failed = failed + ?3 where job = ?4",
        "iiii", p->placed, p->tokens, p->failed, p->job);
    return rc == 0 && p->failed > 0 ? store_set_finished(s, p->job, e) : rc;
}

/* Notes the rows' routes and truncation with their job. */
static int keep_conditions(
    struct store *s, const struct placing *p, const struct store_rows *rows, struct err *e)
{
    int64_t all = store_join_truncation(p->truncation, rows->truncation);
    for (const struct noted_route *r = rows->routes; r; r = r->next) {
        int rc = r->counts ? store_note_route(s, p->job, &r->route, e) : 0;
        if (rc != 0)
            return rc;
    }
    return all == p->truncation
               ? 0
               : store_run_job(s, p->job, JOB_SAID, e,
                     "update job set truncation = ? where job = ?", "ii", all, p->job);
}

int store_check_routes(struct store *s, int64_t job, const struct store_rows *rows, struct err *e)
{
    int rc = 0;
    for (const struct noted_route *r = rows->routes; rc == 0 && r; r = r->next) {
        int64_t wanted = 0;
        rc = r->counts ? store_wanted_mode(s, job, r->route.text, &wanted, e) : 0;
        int same = rc == 0 && wanted > 0 ? store_route_is(s, &r->route, wanted, e) : rc == 0;
        if (same < 0)
            return same;
        if (rc == 0 && !same)
            rc = err_field(e, ASSAY_ESTATE, "model",
                "expected what '%.*s' was in the rows of this job before, found another "
                "checkpoint or adapter of that name",
                (int)r->route.text.len, (const char *)r->route.text.at);
    }
    return rc;
}

/* How many rows are not written ahead: those in the block that the rows before them are in. */
static uint32_t n_not_ahead(int64_t first_row)
{
    return (uint32_t)(-first_row & 63);
}

/* Writes a row, or a pack once its rows are written. */
static int write_next(struct store *s, int64_t first_row, const struct store_rows *rows,
    struct store_written *w, struct err *e)
{
    const struct ready_pack *pack = w->pack;
    uint32_t i = w->n_rows;
    if (i < rows->n && (!pack || i < pack->first + pack->n_rows)) {
        w->n_rows++;
        return i < n_not_ahead(first_row) ? 0 : insert_row(s, first_row + i, &rows->rows[i], e);
    }
    w->pack = pack->next;
    w->n_packs++;
    return add_pack(s, first_row, rows, pack, e);
}

int store_write_rows(struct store *s, int64_t first_row, const struct store_rows *rows,
    struct store_written *w, long long until_us, struct err *e)
{
    int rc = 0;
    if (w->n_rows == 0 && w->n_packs == 0)
        w->pack = rows->packs;
    while (rc == 0 && (w->n_rows < rows->n || w->pack)) {
        rc = write_next(s, first_row, rows, w, e);
        if (rc == 0 && w->n_rows % 16 == 0 && now_mono_us() >= until_us)
            break;
    }
    return rc < 0 ? rc : w->n_rows < rows->n || w->pack;
}

/* Where the run of rows ends that begins with row i: a pack, or rows before the next one. Its input
 * is written with it, so no row is placed without. */
static uint32_t end_of_run(const struct store_rows *rows, const struct ready_pack *pack, uint32_t i)
{
    uint32_t end = i + PACKED_ROWS < rows->n ? i + PACKED_ROWS : rows->n;
    if (!pack)
        return end;
    if (i >= pack->first)
        return pack->first + pack->n_rows;
    return end < pack->first ? end : pack->first;
}

/* Places the next run. */
static int place_run(struct store *s, struct placing *p, const struct store_rows *rows,
    struct store_written *w, int ahead, struct err *e)
{
    const struct ready_pack *pack = w->pack;
    int64_t first_row = p->next_row - w->n_rows;
    uint32_t end = end_of_run(rows, pack, w->n_rows);
    int rc = 0;
    for (; rc == 0 && w->n_rows < end; w->n_rows++)
        rc = add_row(s, p, &rows->rows[w->n_rows], ahead && w->n_rows >= n_not_ahead(first_row), e);
    if (!pack || end <= pack->first)
        return rc;
    w->pack = pack->next;
    return rc == 0 && !ahead ? add_pack(s, first_row, rows, pack, e) : rc;
}

static int place_rows(struct store *s, struct placing *p, const struct store_rows *rows,
    struct store_written *w, int ahead, long long until_us, struct err *e)
{
    int rc = 0;
    assert(!rows->writer); /* store_rows_end was called */
    if (w->n_rows == 0)
        w->pack = rows->packs;
    while (rc == 0 && w->n_rows < rows->n) {
        rc = place_run(s, p, rows, w, ahead, e);
        if (now_mono_us() >= until_us)
            break;
    }
    if (rc == 0)
        rc = keep_conditions(s, p, rows, e);
    if (rc == 0)
        rc = end_placing(s, p, e);
    return rc == 0 ? w->n_rows < rows->n : rc;
}

int store_place_rows(struct store *s, int64_t job, const struct store_rows *rows,
    struct store_written *w, long long until_us, struct err *e)
{
    struct placing p;
    int rc = begin_placing(s, job, &p, e);
    return rc == 0 ? place_rows(s, &p, rows, w, 0, until_us, e) : rc;
}

int store_add_rows(struct store *s, int64_t job, const struct store_rows *rows, struct err *e)
{
    struct placing p;
    struct store_written w = {0};
    int rc = begin_placing(s, job, &p, e);
    int ahead = rc == 0 ? store_take_ahead(s, job, p.first_row, rows, e) : rc;
    return ahead < 0 ? ahead : place_rows(s, &p, rows, &w, ahead, INT64_MAX, e);
}
