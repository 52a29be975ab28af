/* lines.c - writes a line's row as msgpack, then reads it back as the broker will (lines.h). */
#include "broker/cli/lines.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/input/columns.h"
#include "broker/cli/input/jsonl.h"
#include "broker/cli/input/renames.h"
#include "schema/alloc.h"
#include "schema/msg_json.h"
#include "schema/pooling.h"
#include "schema/request.h"

struct lines {
    struct jsonl *file;
    int32_t *ids;
    size_t ids_room;
    struct msg_writer row;
    const char *pool, *activation;
    long step_token;
    int is_batch; /* --format openai-batch */
    struct card *card;
    struct renames renames; /* of --field */
    json_t *options; /* what the others say of every row, under the names of a row's fields */
};

static int check_names(const struct lines *l)
{
    if (l->pool && pool_type_from_name(l->pool, strlen(l->pool)) < 0)
        return cli_usage("--pool: expected LAST, ALL, STEP, MEAN or CLS, found '%s'", l->pool);
    if (l->pool && strcmp(l->pool, "POSITIONS") == 0)
        return cli_usage(
            "--pool: POSITIONS differ from row to row; write them into each: \"pool\": "
            "{\"type\": \"POSITIONS\", \"positions\": [..]}");
    if (l->activation && activation_from_name(l->activation, strlen(l->activation)) < 0)
        return cli_usage(
            "--activation: expected none, softmax, sigmoid, class1 or config, found '%s'",
            l->activation);
    return 0;
}

/* An option that says how rows are cut is of no use where they are not. */
static int check_truncation(const struct cli *c)
{
    static const enum cli_option options[] = {CLI_MAX_LENGTH, CLI_TRUNCATION_SIDE, CLI_KEEP_LAST};
    for (int i = 0; i < 3; i++)
        if (c->value[options[i]] && !c->value[CLI_TRUNCATE])
            return cli_usage(
                "--%s: expected with --truncate, found without", cli_option_info(options[i])->name);
    return 0;
}

static void take_flag(const struct cli *c, enum cli_option option, json_t *all, const char *field)
{
    if (c->value[option])
        json_object_set_new(all, field, json_true());
}

static int take_options(const struct cli *c, json_t *all)
{
    const char *side = c->value[CLI_TRUNCATION_SIDE], *rule = c->value[CLI_PAD_RULE];
    long max_length = 0;
    int rc = check_truncation(c);
    if (rc == 0)
        rc = cli_number(c, CLI_MAX_LENGTH, 1, INT32_MAX, 0, &max_length);
    take_flag(c, CLI_TRUNCATE, all, "truncate");
    if (max_length > 0)
        json_object_set_new(all, "max_length", json_integer(max_length));
    if (side)
        json_object_set_new(all, "truncation_side", json_string(side));
    take_flag(c, CLI_KEEP_LAST, all, "keep_last_token");
    take_flag(c, CLI_SAFE_TEXT, all, "safe_text");
    if (rule)
        json_object_set_new(all, "hf_pad_rule", json_boolean(strcmp(rule, "on") == 0));
    take_flag(c, CLI_JOIN_CONTENT, all, "join_content");
    take_flag(c, CLI_GENERATION_PROMPT, all, "add_generation_prompt");
    return rc;
}

int lines_open(struct lines **out, const struct cli *c)
{
    struct lines *l = xcalloc(1, sizeof *l);
    struct err e = {0};
    msg_writer_init(&l->row);
    l->pool = c->value[CLI_POOL];
    l->activation = c->value[CLI_ACTIVATION];
    l->options = json_object();
    int rc = check_names(l);
    if (rc == 0)
        rc = cli_number(c, CLI_STEP_TOKEN, 0, INT32_MAX, POOL_NO_STEP_TOKEN, &l->step_token);
    if (rc == 0)
        rc = take_options(c, l->options);
    if (rc == 0 && c->value[CLI_FIELD] && renames_parse(&l->renames, c->value[CLI_FIELD], &e) != 0)
        rc = cli_usage("%s: %s", e.field, e.msg);
    if (rc == 0 && jsonl_open(&l->file, c->operand, &e) != 0) {
        cli_fail(&e);
        rc = EX_NOINPUT;
    }
    if (rc == 0 && jsonl_look(l->file, &e) != 0)
        rc = cli_fail(&e);
    l->is_batch = cli_is_batch(c);
    if (rc == 0 && !l->is_batch)
        jsonl_forgive(l->file, &l->renames);
    *out = l;
    if (rc != 0)
        lines_close(out);
    return rc;
}

void lines_close(struct lines **out)
{
    struct lines *l = *out;
    if (!l)
        return;
    jsonl_close(&l->file);
    msg_writer_release(&l->row);
    json_decref(l->options);
    free(l->ids);
    free(l);
    *out = NULL;
}

void lines_set_card(struct lines *l, struct card *card)
{
    l->card = card;
}

const struct stat *lines_opened(const struct lines *l)
{
    return jsonl_opened(l->file);
}

int lines_is_changed(const struct lines *l)
{
    return jsonl_is_changed(l->file);
}

int64_t lines_count(struct lines *l)
{
    return jsonl_count(l->file);
}

/* Returns `id` or `custom_id`, whichever is present and not null, else NULL. */
static json_t *find_id(const json_t *object, const char **key)
{
    json_t *id = json_object_get(object, *key = "id");
    if (!id || json_is_null(id))
        id = json_object_get(object, *key = "custom_id");
    return !id || json_is_null(id) ? NULL : id;
}

/* Is it an integer that a data frame wrote as a real number (7.0)? From 2^53 on, that is
 * ambiguous. */
static int is_whole(const json_t *id)
{
    double v = json_real_value(id);
    return json_is_real(id) && v > -9007199254740992.0 && v < 9007199254740992.0 &&
           v == (double)(json_int_t)v;
}

static int check_id(struct line *line, const char *key, const json_t *id, int large_ids)
{
    const char *text = json_string_value(id);
    if (large_ids & columns_is_id(key, strlen(key)))
        return err_field(&line->err, ASSAY_EBADREQ, key,
            "line %lld: expected an integer of at most 64 bits or a string, found %.40s%s; write "
            "it "
            "in quotes",
            (long long)line->number, text, strlen(text) > 40 ? ".." : "");
    if (!json_is_integer(id) && !json_is_string(id) && !is_whole(id))
        return err_field(&line->err, ASSAY_EBADREQ, key,
            "line %lld: expected an integer or a string, found %s%s", (long long)line->number,
            json_kind(id),
            json_is_real(id) ? "; one is taken where it is an integer below 2^53, as in 7.0" : "");
    if (json_is_string(id) && json_string_length(id) > REQUEST_ID_BYTES)
        return err_field(&line->err, ASSAY_EBADREQ, key,
            "line %lld: expected at most %d bytes, found %zu", (long long)line->number,
            REQUEST_ID_BYTES, json_string_length(id));
    return 0;
}

static void set_id(struct line *line, json_t *id)
{
    json_decref(line->id);
    line->id = is_whole(id) ? json_integer((json_int_t)json_real_value(id)) : json_incref(id);
}

/* Takes the line's id; without one, its number stays. */
static int take_id(struct line *line, const json_t *columns, int large_ids)
{
    const char *key;
    json_t *id = find_id(columns, &key);
    if (id && check_id(line, key, id, large_ids) != 0)
        return line->err.code;
    if (id)
        set_id(line, id);
    return 0;
}

/* Takes the id of a line that is not JSON, if it stands before the fault. If the line was not read
 * to its end, only `id` counts, because one may follow a `custom_id`. */
static void take_early_id(const struct lines *l, struct line *line, const struct jsonl_line *raw)
{
    struct line ignored = {.number = raw->number};
    struct err both;
    const char *key;
    json_t *columns = raw->beginning ? renames_apply(&l->renames, raw->beginning, &both) : NULL;
    json_t *id = find_id(columns, &key);
    if (id && check_id(&ignored, key, id, 0) == 0 && !(raw->is_cut && strcmp(key, "id") != 0))
        set_id(line, id);
    json_decref(columns);
}

/* ---- token ids ---- */

static int take_token(struct lines *l, struct line *line, const json_t *id, size_t i)
{
    json_int_t v = json_integer_value(id);
    char field[48];
    snprintf(field, sizeof field, "input_ids[%zu]", i);
    if (!json_is_integer(id))
        return err_field(&line->err, ASSAY_EBADREQ, field,
            "line %lld: expected an integer, found %s", (long long)line->number, json_kind(id));
    if (v < INT32_MIN || v > INT32_MAX)
        return err_field(&line->err, ASSAY_EBADTOKEN, field,
            "line %lld: expected a token id, found %lld", (long long)line->number, (long long)v);
    l->ids[i] = (int32_t)v;
    return 0;
}

static int write_ids(struct lines *l, struct line *line, const json_t *ids)
{
    size_t n = json_array_size(ids);
    int rc = 0;
    if (!json_is_array(ids))
        return err_field(&line->err, ASSAY_EBADREQ, "input_ids",
            "line %lld: expected an array, found %s", (long long)line->number, json_kind(ids));
    if (n > l->ids_room) {
        free(l->ids);
        l->ids = xcalloc(n, sizeof *l->ids);
        l->ids_room = n;
    }
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = take_token(l, line, json_array_get(ids, i), i);
    msg_str(&l->row, "ids");
    msg_bin(&l->row, l->ids, n * sizeof *l->ids);
    return rc;
}

/* ---- rows ---- */

static void write_pool(struct lines *l)
{
    uint32_t n = (l->pool != NULL) + (l->activation != NULL) + (l->step_token >= 0);
    msg_str(&l->row, "pool");
    msg_map(&l->row, n);
    if (l->pool)
        msg_key_str(&l->row, "type", l->pool);
    if (l->activation)
        msg_key_str(&l->row, "activation", l->activation);
    if (l->step_token >= 0)
        msg_key_int(&l->row, "step_token", l->step_token);
}

static int writes_pool(const struct lines *l)
{
    return l->pool || l->activation || l->step_token >= 0;
}

/* Reads the row as the broker will; what the broker would refuse is this line's error. */
static int check_row(const struct lines *l, struct line *line)
{
    struct msg_reader r;
    struct row_request row;
    struct err why = {0};
    msg_reader_init(&r, (const uint8_t *)l->row.buffer.data, l->row.buffer.size);
    int rc = request_next_row(&r, 0, &row, &why);
    const char *field = strchr(why.field, '.');
    if (rc != 0)
        err_field(&line->err, ASSAY_EBADREQ, field ? field + 1 : "", "line %lld: %s",
            (long long)line->number, why.msg);
    return rc;
}

/* Writes each of the columns' fields under its name. */
static int write_fields(struct lines *l, struct line *line, const json_t *fields)
{
    const char *key;
    json_t *v;
    int rc = 0;
    json_object_foreach((json_t *)fields, key, v)
    {
        if (strcmp(key, "input_ids") == 0) {
            rc = write_ids(l, line, v);
        } else {
            msg_str(&l->row, key);
            msg_json(&l->row, v);
        }
    }
    return rc;
}

/* Puts "line 7: " in front of a column's error. */
static int in_line(struct line *line, const struct err *why)
{
    return err_field(
        &line->err, why->code, why->field, "line %lld: %s", (long long)line->number, why->msg);
}

/* Sets *n to how many fields the options add to the line's own. A line may say the same as an
 * option, but not otherwise. */
static int count_options(
    const struct lines *l, struct line *line, const json_t *fields, uint32_t *n)
{
    const char *key, *wrong = writes_pool(l) && json_object_get(fields, "pool") ? "pool" : NULL;
    json_t *v;
    *n = writes_pool(l);
    json_object_foreach(l->options, key, v)
    {
        const json_t *own = json_object_get(fields, key);
        *n += !own;
        if (own && !json_equal(own, v))
            wrong = wrong ? wrong : key;
    }
    return !wrong ? 0
                  : err_field(&line->err, ASSAY_EBADREQ, wrong,
                        "line %lld: found one in the line and another by an option; expected one "
                        "of them",
                        (long long)line->number);
}

/* Writes them. A job's rows must be the same bytes each time: the order of the fields stays. */
static void write_options(struct lines *l, const json_t *fields)
{
    const char *key;
    json_t *v;
    if (writes_pool(l))
        write_pool(l);
    json_object_foreach(l->options, key, v)
    {
        if (json_object_get(fields, key))
            continue;
        msg_str(&l->row, key);
        msg_json(&l->row, v);
    }
}

static int write_all(struct lines *l, struct line *line, const json_t *fields)
{
    uint32_t n;
    int rc = count_options(l, line, fields, &n);
    if (rc != 0)
        return rc;
    msg_map(&l->row, 1 + (uint32_t)json_object_size(fields) + n);
    msg_str(&l->row, "id");
    msg_json(&l->row, line->id);
    rc = write_fields(l, line, fields);
    write_options(l, fields);
    return rc;
}

static int write_row(struct lines *l, struct line *line, const json_t *columns)
{
    struct err why = {0};
    json_t *fields = columns_take(columns, &why);
    if (!fields)
        return in_line(line, &why);
    msg_writer_clear(&l->row);
    int rc = write_all(l, line, fields);
    json_decref(fields);
    return rc == 0 ? check_row(l, line) : rc;
}

/* Takes the line's id and its row. A column that was renamed is named in an error, too. */
static int take_row(struct lines *l, struct line *line, int large_ids)
{
    struct err why = {0};
    json_t *columns = renames_apply(&l->renames, line->object, &why);
    int rc = columns ? take_id(line, columns, large_ids) : in_line(line, &why);
    if (rc == 0)
        rc = write_row(l, line, columns);
    const char *column = rc != 0 ? renames_column(&l->renames, line->err.field) : NULL;
    size_t n = strlen(line->err.msg);
    if (columns && column)
        snprintf(line->err.msg + n, sizeof line->err.msg - n, " (its column is %s)", column);
    json_decref(columns);
    return rc;
}

struct slice lines_refused(struct lines *l, const struct line *line)
{
    char message[ERR_FIELD_BYTES + ERR_MESSAGE_BYTES + 4];
    snprintf(message, sizeof message, "%s%s%s", line->err.field, line->err.field[0] ? ": " : "",
        line->err.msg);
    msg_writer_clear(&l->row);
    msg_map(&l->row, 2);
    msg_str(&l->row, "id");
    msg_json(&l->row, line->id);
    msg_str(&l->row, "error");
    msg_map(&l->row, 2);
    msg_key_str(&l->row, "code", err_name(line->err.code));
    msg_key_str(&l->row, "message", message);
    return (struct slice){(const uint8_t *)l->row.buffer.data, l->row.buffer.size};
}

/* The line as a request. Its object is not kept. */
static int take_request(struct lines *l, const struct jsonl_line *raw, struct line *line)
{
    *line = (struct line){.number = raw->number, .bytes = raw->bytes, .err = raw->err};
    if (asked_new(&line->asked, l->card, raw->object, raw->number, &line->err) == 0 && raw->object)
        line->row = asked_rows(line->asked);
    const char *id = asked_custom_id(line->asked);
    line->id = id ? json_string(id) : json_integer(raw->number);
    line->n_rows = asked_n_rows(line->asked);
    json_decref(raw->object);
    json_decref(raw->beginning);
    return 1;
}

int lines_next(struct lines *l, struct line *line, struct err *e)
{
    struct jsonl_line raw;
    int got = jsonl_next(l->file, &raw, e);
    if (got != 1)
        return got;
    if (l->is_batch)
        return take_request(l, &raw, line);
    *line = (struct line){.number = raw.number,
        .n_rows = 1,
        .bytes = raw.bytes,
        .id = json_integer(raw.number),
        .object = raw.object,
        .err = raw.err};
    take_early_id(l, line, &raw);
    json_decref(raw.beginning);
    if (line->object && take_row(l, line, raw.large_ids) == 0)
        line->row = (struct slice){(const uint8_t *)l->row.buffer.data, l->row.buffer.size};
    return 1;
}

void line_release(struct line *line)
{
    json_decref(line->id);
    json_decref(line->object);
    asked_free(&line->asked);
    *line = (struct line){0};
}
