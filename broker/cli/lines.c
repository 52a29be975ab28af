/* lines.c - see lines.h. */
#include "broker/cli/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/log.h"
#include "schema/pooling.h"

struct lines {
    FILE *file;
    const char *name;
    int64_t number, total;
    char *text;
    size_t text_bytes, text_len;
    int32_t *ids;
    size_t ids_room;
    struct msg_writer row;
    const char *pool, *activation;
    long step_token;
    int truncate;
};

static int64_t count_lines(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    static const size_t room = 1 << 16;
    char *bytes = xcalloc(1, room), last = '\n';
    int64_t n = 0;
    for (ssize_t got; (got = read(fd, bytes, room)) > 0; last = bytes[got - 1])
        for (char *p = bytes; (p = memchr(p, '\n', (size_t)(bytes + got - p))) != NULL; p++)
            n++;
    free(bytes);
    close(fd);
    return n + (last != '\n');
}

static int check_names(const struct lines *l)
{
    if (l->pool && pool_type_from_name(l->pool, strlen(l->pool)) < 0)
        return cli_usage("--pool: expected LAST, ALL, STEP, MEAN or CLS, found '%s'", l->pool);
    if (l->pool && strcmp(l->pool, "POSITIONS") == 0)
        return cli_usage("--pool: POSITIONS differ from row to row; send them in a submit message");
    if (l->activation && activation_from_name(l->activation, strlen(l->activation)) < 0)
        return cli_usage(
            "--activation: expected none, softmax or sigmoid, found '%s'", l->activation);
    return 0;
}

int lines_open(struct lines **out, const struct cli *c)
{
    struct lines *l = xcalloc(1, sizeof *l);
    const char *path = c->operand && strcmp(c->operand, "-") != 0 ? c->operand : NULL;
    msg_writer_init(&l->row);
    l->name = path ? path : "stdin";
    l->total = path ? count_lines(path) : -1;
    l->file = path ? fopen(path, "rbe") : stdin;
    l->pool = c->value[CLI_POOL];
    l->activation = c->value[CLI_ACTIVATION];
    l->truncate = c->value[CLI_TRUNCATE] != NULL;
    int rc = check_names(l);
    if (rc == 0)
        rc = cli_number(c, CLI_STEP_TOKEN, 0, INT32_MAX, POOL_NO_STEP_TOKEN, &l->step_token);
    if (rc == 0 && !l->file) {
        fprintf(stderr, "assay: cannot read '%s': %s\n", path, strerror(errno));
        rc = EX_NOINPUT;
    }
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
    if (l->file && l->file != stdin)
        fclose(l->file);
    msg_writer_release(&l->row);
    free(l->text);
    free(l->ids);
    free(l);
    *out = NULL;
}

int64_t lines_count(const struct lines *l)
{
    return l->total;
}

static int grow_text(struct lines *l)
{
    size_t bytes = l->text_bytes ? l->text_bytes * 2 : 4096;
    char *text = realloc(l->text, bytes);
    if (!text)
        return -1;
    l->text = text;
    l->text_bytes = bytes;
    return 0;
}

/* The next line without its newline into l->text: 1, 0 at the end of the file, 2 when it is beyond
 * LINES_MAX_BYTES. */
static int read_line(struct lines *l)
{
    int byte, too_long = 0;
    l->text_len = 0;
    while ((byte = getc_unlocked(l->file)) != EOF && byte != '\n') {
        if (l->text_len == l->text_bytes && !too_long)
            too_long = l->text_len >= LINES_MAX_BYTES || grow_text(l) != 0;
        if (!too_long)
            l->text[l->text_len++] = (char)byte;
    }
    if (too_long)
        return 2;
    return byte != EOF || l->text_len > 0;
}

static int is_blank(const struct lines *l)
{
    for (size_t i = 0; i < l->text_len; i++)
        if (!strchr(" \t\r", l->text[i]))
            return 0;
    return 1;
}

static const char *json_kind(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

/* The line's id: `id` or `custom_id`, else the line number. */
static int take_id(struct line *line)
{
    const char *key = "id";
    json_t *id = json_object_get(line->object, key);
    if (!id)
        id = json_object_get(line->object, key = "custom_id");
    if (!id)
        return 0;
    if (!json_is_integer(id) && !json_is_string(id))
        return err_field(&line->err, ASSAY_EBADREQ, key,
            "line %lld: expected an integer or a string, found %s", (long long)line->number,
            json_kind(id));
    if (json_is_string(id) && json_string_length(id) > 250)
        return err_field(&line->err, ASSAY_EBADREQ, key,
            "line %lld: expected at most 250 bytes, found %zu", (long long)line->number,
            json_string_length(id));
    json_decref(line->id);
    line->id = json_incref(id);
    return 0;
}

static const json_t *find_ids(struct line *line)
{
    const json_t *ids = json_object_get(line->object, "input_ids");
    if (!ids)
        ids = json_object_get(line->object, "ids");
    if (!ids)
        err_field(&line->err, ASSAY_EUNSUPPORTED, "input_ids",
            "line %lld: expected input_ids, an array of token ids; found none (text is not read by "
            "this version)",
            (long long)line->number);
    else if (!json_is_array(ids))
        err_field(&line->err, ASSAY_EBADREQ, "input_ids", "line %lld: expected an array, found %s",
            (long long)line->number, json_kind(ids));
    return json_is_array(ids) ? ids : NULL;
}

/* Fills l->ids; returns how many, or -1 with line->err. */
static int64_t take_ids(struct lines *l, struct line *line)
{
    const json_t *ids = find_ids(line);
    if (!ids)
        return -1;
    size_t n = json_array_size(ids);
    if (n > l->ids_room) {
        free(l->ids);
        l->ids = xcalloc(n, sizeof *l->ids);
        l->ids_room = n;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t v = json_integer_value(id);
        char field[48];
        snprintf(field, sizeof field, "input_ids[%zu]", i);
        if (!json_is_integer(id))
            return err_field(&line->err, ASSAY_EBADREQ, field,
                       "line %lld: expected an integer, found %s", (long long)line->number,
                       json_kind(id)),
                   -1;
        if (v < INT32_MIN || v > INT32_MAX)
            return err_field(&line->err, ASSAY_EBADTOKEN, field,
                       "line %lld: expected a token id, found %lld", (long long)line->number,
                       (long long)v),
                   -1;
        l->ids[i] = (int32_t)v;
    }
    return (int64_t)n;
}

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

static void write_row(struct lines *l, struct line *line, int64_t n_ids)
{
    int has_pool = l->pool || l->activation || l->step_token >= 0;
    msg_writer_clear(&l->row);
    msg_map(&l->row, 2 + (uint32_t)has_pool + (uint32_t)l->truncate);
    msg_str(&l->row, "id");
    if (json_is_string(line->id))
        msg_str_len(&l->row, json_string_value(line->id), json_string_length(line->id));
    else
        msg_int(&l->row, json_integer_value(line->id));
    msg_str(&l->row, "ids");
    msg_bin(&l->row, l->ids, (size_t)n_ids * sizeof *l->ids);
    if (has_pool)
        write_pool(l);
    if (l->truncate)
        msg_key_bool(&l->row, "truncate", 1);
    line->row = (struct slice){(const uint8_t *)l->row.buffer.data, l->row.buffer.size};
}

static void parse_line(struct lines *l, struct line *line)
{
    json_error_t why;
    json_t *value =
        json_loadb(l->text, l->text_len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!value) {
        err_set(&line->err, ASSAY_EBADREQ, "line %lld: not JSON: %s at byte %d",
            (long long)line->number, why.text, why.position);
        return;
    }
    if (!json_is_object(value)) {
        err_set(&line->err, ASSAY_EBADREQ, "line %lld: expected an object, found %s",
            (long long)line->number, json_kind(value));
        json_decref(value);
        return;
    }
    line->object = value;
    if (take_id(line) != 0)
        return;
    int64_t n = take_ids(l, line);
    if (n >= 0)
        write_row(l, line, n);
}

int lines_next(struct lines *l, struct line *line, struct err *e)
{
    int got;
    do {
        got = read_line(l);
        l->number++;
    } while (got == 1 && is_blank(l));
    if (ferror(l->file))
        return err_errno(e, ASSAY_EIO, "cannot read '%s'", l->name);
    if (got == 0)
        return 0;
    *line = (struct line){.number = l->number, .id = json_integer(l->number)};
    if (got == 2)
        err_set(&line->err, ASSAY_ETOOLARGE, "line %lld: expected at most %u bytes, found more",
            (long long)l->number, LINES_MAX_BYTES);
    else
        parse_line(l, line);
    return 1;
}

void line_release(struct line *line)
{
    json_decref(line->id);
    json_decref(line->object);
    *line = (struct line){0};
}
