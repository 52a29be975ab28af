/* rows.c - reads rows: the queued ones, and finished ones for their duplicates.
 *
 * Every record read is checked: the checksums of the row and its input, lengths against what is
 * there, and that positions and ends lie within the row. A damaged queued row is given as one whose
 * answer is known, namely that it is damaged; so is one that this broker's workers would not take
 * (struct store_limits), as they would end. A damaged finished row is skipped: its result is
 * checked where that is read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/ids.h"
#include "schema/request.h"

#define MOST_ATTEMPTS 16 /* more than a row is ever tried */

/* ---- queued rows ---- */

/* A walk over rows, with the pack that holds the last one. */
struct reading {
    struct store *s;
    sqlite3_stmt *input; /* its current row holds the pack's columns */
    int64_t first;       /* number of the pack's first row; 0: none yet */
    struct packed_rows pack;
    struct slice sums; /* checksums of its rows' input; absent: none */
    store_row_visitor *visit;
    void *arg;
    uint32_t left;     /* rows still wanted */
    int skips_refused; /* skip rows that were born failed */
    int is_over;       /* rows in any state; skips those born failed or damaged */
    int checks;        /* the limits of the models (struct store_limits) */
    int64_t last;      /* the last row read or skipped */
    int64_t job, mode; /* of which the last row was, and its model's mode */
    /* the last route named, and its modes; all rows are of one job */
    char route[STORE_ROUTE_BYTES];
    int64_t route_mode;
    struct store_members modes;
};

/* The row that is being read. */
struct found {
    int64_t row;
    struct row_record record;
    struct store_members modes; /* of each sequence, or one for all */
    int64_t mode;               /* of the result */
    uint32_t each;              /* sequences of each model; 0: one, or all, of one */
    uint32_t n_tokens, attempts;
    struct packed_input in;
};

/* Makes sequence `part` of the row: n tokens starting at `from`. */
static struct sequence *read_part(const struct reading *rd, const struct found *f, struct row *line,
    uint32_t part, uint32_t from, uint32_t n)
{
    uint32_t n_positions = f->in.n_positions;
    const uint8_t *positions = f->in.positions;
    struct packed_input ids = {.from = f->in.from + from, .n_tokens = n};
    if (line && n_positions > 0) { /* one for each sequence */
        n_positions = 1;
        positions += part * sizeof(int32_t);
    }
    struct sequence *r = sequence_new(n, n_positions);
    r->row_id = f->row;
    r->pool = f->record.pool;
    r->n_values = line ? 1 : (uint32_t)f->record.n_values;
    r->attempts = f->attempts;
    r->mode = f->modes.modes[f->each ? part / f->each : 0];
    r->of = line;
    r->part = part;
    if (line)
        line->refs++;
    packed_ids(&rd->pack, &ids, r->ids);
    if (n_positions > 0)
        memcpy(r->positions, positions, n_positions * sizeof *r->positions);
    return r;
}

/* Whether what was checked on arrival still holds: the sequence has tokens, and its positions lie
 * among them. */
static int is_sound(const struct sequence *r)
{
    int sound = r->n_tokens > 0;
    for (uint32_t i = 0; i < r->n_positions; i++)
        sound &= (uint32_t)r->positions[i] < r->n_tokens;
    return sound;
}

static struct slice column(sqlite3_stmt *q, int i)
{
    return (struct slice){sqlite3_column_blob(q, i), (size_t)sqlite3_column_bytes(q, i)};
}

/* Loads the pack of the row, which has n_tokens: 1, 0 when it is not there or is damaged, or
 * negative. */
static int read_packed(struct reading *rd, int64_t row, uint32_t n_tokens, struct err *e)
{
    if (rd->first != 0 && row - rd->first < rd->pack.n_rows)
        return 1;
    rd->first = 0;
    rd->input = store_prepare(rd->s,
        "select rows, ids, positions, ends, row, sums from row_input where row between ? and ? "
        "order by row desc limit 1",
        "ii", row - (PACKED_ROWS - 1), row);
    int rc = store_step(rd->s, rd->input, e);
    if (rc != 1)
        return rc;
    struct packed_columns c = {
        column(rd->input, 0), column(rd->input, 1), column(rd->input, 2), column(rd->input, 3)};
    int64_t first = sqlite3_column_int64(rd->input, 4);
    rd->sums = column(rd->input, 5);
    if (packed_open(&rd->pack, &c, n_tokens) != 0 || first > row ||
        row - first >= rd->pack.n_rows ||
        (rd->sums.at && rd->sums.len != rd->pack.n_rows * sizeof(int64_t)))
        return 0;
    rd->first = first;
    return 1;
}

/* Whether the row's input is what was written. `ids` are all its tokens. */
static int has_sum(const struct reading *rd, const struct found *f, const int32_t *ids)
{
    struct input_hash h = store_hash_input(&(struct row_input){
        ids, f->in.positions, f->in.ends, f->n_tokens, f->in.n_positions, f->in.n_ends});
    int64_t sum = store_sum_input(f->row, &h);
    if (!rd->sums.at)
        return row_job(f->row) < rd->s->sums_from;
    return memcmp(rd->sums.at + (size_t)(f->row - rd->first) * sizeof sum, &sum, sizeof sum) == 0;
}

/* ---- rows whose answer is known ---- */

/* Gives the row as one sequence that fails without being computed. */
static void give_failed(struct reading *rd, int64_t row, uint32_t n_tokens, const struct err *why)
{
    struct sequence *r = sequence_new(n_tokens, 0);
    r->row_id = row;
    r->mode = rd->mode;
    r->pool = (struct pooling){POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN};
    r->origin = ROW_COPIED; /* not computed */
    r->found_error = why->code;
    r->found_values = xcalloc(1, sizeof *r->found_values);
    r->found_message = strdup(why->msg);
    rd->visit(rd->arg, r);
}

/* Gives a queued row that the database no longer holds. */
static int give_damaged(struct reading *rd, int64_t row, uint32_t n_tokens)
{
    struct err why = {0};
    if (rd->is_over)
        return 0;
    err_set(&why, ASSAY_EDAMAGED, "%s", STORE_ROW_DAMAGED);
    give_failed(rd, row, n_tokens, &why);
    return 0;
}

/* How many values the sequence has under this head. */
static uint64_t values_of(const struct sequence *r, uint32_t n_labels)
{
    uint64_t each = activation_values(r->pool.activation, n_labels);
    return r->pool.type == POOL_MEAN ? each : sequence_pooled(r) * each;
}

/* The job goes on without what the row names. */
static int is_gone(const struct slice *route, struct err *e)
{
    if (memchr(route->at, '/', route->len))
        return err_set(e, ASSAY_EMODEL,
            "model: expected what is served, found '%.*s'; the row was accepted while it was",
            (int)route->len, (const char *)route->at);
    return err_set(e, ASSAY_EADAPTER,
        "adapter: expected one that is loaded, found '%.*s'; the row was accepted while it was",
        (int)route->len, (const char *)route->at);
}

/* Whether the workers take this sequence: 0, or the row's error. */
static int check_limits(
    const struct reading *rd, const struct found *f, const struct sequence *r, struct err *e)
{
    uint32_t k;
    char text[40];
    const char *name = row_shape_part(
        (int)f->record.shape, f->each ? r->part % f->each : r->part, text, sizeof text);
    const struct slice *route = &f->record.adapter;
    const struct store_served *v = store_served_of(rd->s, r->mode, &k);
    const struct store_limits *l = v && rd->checks ? &v->is.limits : NULL;
    if (rd->checks && r->mode == 0)
        return is_gone(route, e);
    if (l && l->max_len && r->n_tokens > l->max_len)
        return err_set(e, ASSAY_ETOOLONG,
            "%sexpected at most %u tokens (this broker's --max-len), found %u; the row was "
            "accepted under a larger limit",
            name, l->max_len, r->n_tokens);
    if (l && l->vocab_size && !ids_are_below(r->ids, r->n_tokens, l->vocab_size))
        return err_set(e, ASSAY_EBADTOKEN,
            "%sexpected ids from 0 to %u, found a larger one; the row was accepted for a "
            "checkpoint "
            "with more tokens",
            name, l->vocab_size - 1);
    if (l && l->n_labels && r->n_values != values_of(r, l->n_labels))
        return err_set(e, ASSAY_EBADREQ,
            "%sexpected %llu values under this checkpoint's head, found %u; the row was accepted "
            "for another head, send it again",
            name, (unsigned long long)values_of(r, l->n_labels), r->n_values);
    return 0;
}

/* ---- rows to compute ---- */

/* Gives the row's only sequence: 1, or 0 when it is damaged. */
static int give_whole(struct reading *rd, const struct found *f)
{
    struct err why = {0};
    struct sequence *r = read_part(rd, f, NULL, 0, 0, f->n_tokens);
    int sound = has_sum(rd, f, r->ids) && is_sound(r);
    if (sound && check_limits(rd, f, r, &why) == 0) {
        rd->visit(rd->arg, r);
        return 1;
    }
    sequence_free(&r);
    if (sound)
        give_failed(rd, f->row, f->n_tokens, &why);
    return sound;
}

/* Whether the ends are valid: each sequence has at least a token, together they have all tokens,
 * and each model has as many. */
static int has_ends(const struct found *f)
{
    uint32_t from = 0, end;
    for (uint32_t part = 0; part < f->in.n_ends; part++, from = end) {
        memcpy(&end, f->in.ends + part * sizeof end, sizeof end);
        if (end <= from || end > f->n_tokens)
            return 0;
    }
    return from == f->n_tokens && (f->in.n_positions == 0 || f->in.n_positions == f->in.n_ends) &&
           (f->modes.n < 2 || f->in.n_ends % f->modes.n == 0);
}

/* Gives the row's sequences, split by `ends`: 1, or 0 and none of them when one is damaged. */
static int give_parts(struct reading *rd, struct found *f)
{
    struct err why = {0};
    if (!has_ends(f))
        return 0;
    f->each = f->modes.n > 1 ? f->in.n_ends / f->modes.n : 0;
    int32_t *ids = xcalloc(f->n_tokens, sizeof *ids);
    struct sequence **parts = xcalloc(f->in.n_ends, sizeof(struct sequence *));
    struct row *line = row_new(f->in.n_ends, f->n_tokens);
    line->mode = f->mode;
    uint32_t from = 0, end, n = f->in.n_ends;
    packed_ids(&rd->pack, &f->in, ids);
    int sound = has_sum(rd, f, ids);
    line->refs = 1; /* ours, until all are made: a sequence that is visited may be freed at once */
    for (uint32_t part = 0; part < n; part++, from = end) {
        memcpy(&end, f->in.ends + part * sizeof end, sizeof end);
        parts[part] = read_part(rd, f, line, part, from, end - from);
        sound &= is_sound(parts[part]);
        if (!why.code)
            check_limits(rd, f, parts[part], &why);
    }
    for (uint32_t part = 0; part < n; part++)
        if (sound && !why.code)
            rd->visit(rd->arg, parts[part]);
        else
            sequence_free(&parts[part]);
    if (sound && why.code)
        give_failed(rd, f->row, f->n_tokens, &why);
    row_unref(line);
    free(parts);
    free(ids);
    return sound;
}

/* Reads the mode of the job's model. */
static int read_job_mode(struct reading *rd, int64_t job, struct err *e)
{
    if (rd->job == job)
        return 0;
    rd->job = job;
    return store_integer(rd->s, 0, &rd->mode, e, "select mode from job where job = ?", "i", job);
}

/* The modes that the row is scored under; 0: it names what its job has to do without. */
static int read_modes(struct reading *rd, struct found *f, struct err *e)
{
    const struct slice *name = &f->record.adapter;
    int rc = read_job_mode(rd, row_job(f->row), e);
    f->mode = rd->mode;
    f->modes = (struct store_members){.n = 1, .modes = {rd->mode}};
    if (rc != 0 || !name->at)
        return rc;
    if (strlen(rd->route) != name->len || memcmp(rd->route, name->at, name->len) != 0) {
        rc = store_wanted_mode(rd->s, row_job(f->row), *name, &rd->route_mode, e);
        if (rc == 0)
            rc = store_members_of(rd->s, rd->route_mode, &rd->modes, e);
        if (rc != 0)
            return rc;
        snprintf(rd->route, sizeof rd->route, "%.*s", (int)name->len, (const char *)name->at);
    }
    f->modes = rd->modes;
    f->mode = rd->route_mode;
    return 0;
}

/* Reads the row that q is at: one sequence, or more. */
static int read_row(struct reading *rd, sqlite3_stmt *q, struct err *e)
{
    struct found f = {.row = sqlite3_column_int64(q, 0)};
    int64_t attempts = sqlite3_column_int64(q, 1);
    int given = 0;
    rd->left--;
    rd->last = f.row;
    int sound = store_read_record(rd->s, f.row, q, 2, &f.record);
    int rc = read_modes(rd, &f, e);
    if (rc < 0)
        return rc;
    if ((rd->is_over || (rd->skips_refused && sound)) && f.record.n_values == 0)
        return 0; /* born failed */
    f.n_tokens = sound ? (uint32_t)f.record.n_tokens : 0;
    f.attempts = attempts > 0 && attempts < MOST_ATTEMPTS ? (uint32_t)attempts : 0;
    rc = sound && f.record.n_values > 0 ? read_packed(rd, f.row, f.n_tokens, e) : 0;
    if (rc < 0)
        return rc;
    if (rc == 1)
        f.in = packed_input(&rd->pack, (uint32_t)(f.row - rd->first));
    if (rc == 1 && f.in.n_tokens == f.n_tokens)
        given = f.in.n_ends > 0 ? give_parts(rd, &f) : give_whole(rd, &f);
    return given ? 0 : give_damaged(rd, f.row, f.n_tokens <= PACKED_TOKENS ? f.n_tokens : 0);
}

/* Gives as damaged the queued rows that have no record. */
static void read_missing(struct reading *rd, int64_t block, uint64_t bits)
{
    for (; bits != 0 && rd->left > 0 && !rd->is_over; bits &= bits - 1) {
        rd->left--;
        rd->last = (block << 6) + __builtin_ctzll(bits);
        give_damaged(rd, rd->last, 0);
    }
}

/* Reads the rows of one block whose bits are set. */
static int read_block(struct reading *rd, int64_t block, uint64_t bits, struct err *e)
{
    int64_t low = (block << 6) + __builtin_ctzll(bits);
    int64_t high = (block << 6) + 63 - __builtin_clzll(bits);
    sqlite3_stmt *q = store_prepare(rd->s,
        "select row, attempts, " STORE_ROW_COLUMNS
        "from row where row between ? and ? order by row",
        "ii", low, high);
    int rc = 1;
    while (rd->left > 0 && (rc = store_step(rd->s, q, e)) == 1) {
        uint64_t bit = row_bit(sqlite3_column_int64(q, 0)), wanted = bits & bit;
        read_missing(rd, block, bits & (bit - 1));
        bits &= ~(bit | (bit - 1));
        if (wanted && rd->left > 0 && (rc = read_row(rd, q, e)) != 0)
            break;
    }
    sqlite3_reset(q);
    if (rc == 0)
        read_missing(rd, block, bits);
    return rc < 0 ? rc : 0;
}

static void end_reading(struct reading *rd)
{
    if (rd->input)
        sqlite3_reset(rd->input);
}

/* Reads the job's rows after `after` that are queued, or those that are not, in the blocks that
 * `sql` selects. */
static int read_job(struct reading *rd, const char *sql, int64_t job, int64_t after, struct err *e)
{
    int64_t first = after < row_id_of(job, 0) ? row_id_of(job, 0) : after + 1;
    int rc = store_keep_blocks(rd->s, e);
    if (rc != 0)
        return rc;
    sqlite3_stmt *q =
        store_prepare(rd->s, sql, "ii", block_number(first), block_number(row_last(job)));
    while (rd->left > 0 && (rc = store_step(rd->s, q, e)) == 1) {
        if ((rc = store_block_is_sound(rd->s, q, e)) != 0)
            break;
        int64_t block = sqlite3_column_int64(q, 0);
        uint64_t queued = (uint64_t)sqlite3_column_int64(q, 1);
        uint64_t bits = rd->is_over ? ~queued : queued;
        if (block == block_number(first))
            bits &= ~(row_bit(first) - 1);
        if (bits != 0 && (rc = read_block(rd, block, bits, e)) != 0)
            break;
    }
    sqlite3_reset(q);
    end_reading(rd);
    return rc < 0 ? rc : 0;
}

int store_queued_rows(struct store *s, const struct store_page *page, store_row_visitor *visit,
    void *arg, struct err *e)
{
    struct reading rd = {.s = s, .visit = visit, .arg = arg, .left = page->limit, .checks = 1};
    return read_job(&rd,
        STORE_BLOCK_COLUMNS " from block indexed by block_queued "
                            "where queued <> 0 and block >= ? and block <= ? order by block",
        page->job, (int64_t)page->after, e);
}

/* ---- rows that are over ---- */

int store_finished_rows(
    struct store *s, struct store_page *page, store_row_visitor *visit, void *arg, struct err *e)
{
    struct reading rd = {.s = s,
        .visit = visit,
        .arg = arg,
        .left = page->limit,
        .is_over = 1,
        .last = (int64_t)page->after};
    int rc = read_job(&rd,
        STORE_BLOCK_COLUMNS " from block where queued <> -1 and block >= ? and block <= ? "
                            "order by block",
        page->job, (int64_t)page->after, e);
    page->after = (uint64_t)rd.last;
    return rc == 0 ? rd.left == 0 : rc;
}

int store_one_row(struct store *s, int64_t row, store_row_visitor *visit, void *arg, struct err *e)
{
    struct reading rd = {.s = s, .visit = visit, .arg = arg, .left = 1, .is_over = 1};
    int rc = read_block(&rd, block_number(row), row_bit(row), e);
    end_reading(&rd);
    return rc;
}

/* ---- all rows ---- */

int store_rows_between(struct store *s, int64_t first, int64_t last, store_row_visitor *visit,
    void *arg, struct err *e)
{
    struct reading rd = {
        .s = s, .visit = visit, .arg = arg, .left = UINT32_MAX, .skips_refused = 1};
    int rc = 0;
    for (int64_t k = block_number(first); rc == 0 && k <= block_number(last); k++) {
        uint64_t bits = UINT64_MAX;
        if (k == block_number(first))
            bits &= ~(row_bit(first) - 1);
        if (k == block_number(last))
            bits &= row_bit(last) | (row_bit(last) - 1);
        rc = read_block(&rd, k, bits, e);
    }
    end_reading(&rd);
    return rc;
}
