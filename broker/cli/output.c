/* output.c - keeps the lines whose turn has not come, and writes each entry once it is complete
 * (output.h). */
#include "broker/cli/output.h"

#include <stdlib.h>
#include <string.h>

#include "broker/cli/json_print.h"
#include "schema/alloc.h"

#define MAX_LINES 50000
#define MAX_KEPT_BYTES (32u << 20) /* parsed, some times as much */

int output_open(struct output *o, const struct cli *c, struct err *e)
{
    *o = (struct output){.keep_input = c->value[CLI_KEEP_INPUT] != NULL};
    const char *order = c->value[CLI_ORDER];
    o->by_completion = order && strcmp(order, "completion") == 0;
    return target_open(&o->target, c->value[CLI_OUTPUT], c->operand, c, e);
}

/* bytes: what the entry keeps from now on. */
static void weigh(struct output *o, struct output_entry *entry, size_t bytes)
{
    o->kept_bytes = o->kept_bytes - entry->bytes + bytes;
    entry->bytes = bytes;
}

static void clear_entry(struct output *o, struct output_entry *entry)
{
    weigh(o, entry, 0);
    json_decref(entry->id);
    json_decref(entry->object);
    json_decref(entry->result);
    asked_free(&entry->asked);
}

static void clear_entries(struct output *o)
{
    for (size_t k = o->head; k < o->end; k++)
        clear_entry(o, &o->entries[k]);
    o->head = o->end = 0;
}

int output_begin_anew(struct output *o, struct err *e)
{
    int rc = o->n_written > 0 ? target_begin_anew(&o->target, e) : 0;
    clear_entries(o);
    o->next_i = o->n_written = o->n_failed = 0;
    return rc;
}

void output_release(struct output *o)
{
    clear_entries(o);
    free(o->entries);
    target_release(&o->target);
    *o = (struct output){.target.fd = -1};
}

/* Makes room for one more entry. Entries move to the front first; the array grows only when it is
 * really full. */
static void make_room(struct output *o)
{
    if (o->end < o->room)
        return;
    size_t n = o->end - o->head;
    if (o->head > o->room / 2) {
        memmove(o->entries, o->entries + o->head, n * sizeof *o->entries);
    } else {
        o->room = o->room ? o->room * 2 : 1024;
        struct output_entry *entries = xcalloc(o->room, sizeof *entries);
        if (n > 0)
            memcpy(entries, o->entries + o->head, n * sizeof *entries);
        free(o->entries);
        o->entries = entries;
    }
    o->head = 0;
    o->end = n;
}

static json_t *bad_line(const struct line *line)
{
    char message[ERR_FIELD_BYTES + ERR_MESSAGE_BYTES + 4];
    snprintf(message, sizeof message, "%s%s%s", line->err.field, line->err.field[0] ? ": " : "",
        line->err.msg);
    return json_pack("{s:O, s:n, s:i, s:{s:s, s:s}}", "id", line->id, "score", "n_tokens", 0,
        "error", "code", err_name(line->err.code), "message", message);
}

void output_expect(struct output *o, struct line *line, int64_t i)
{
    make_room(o);
    struct output_entry *entry = &o->entries[o->end++];
    *entry = (struct output_entry){.i = o->next_i, .n = i < 0 ? 0 : line->n_rows};
    if (i < 0)
        entry->result = line->asked ? asked_refusal(line->asked, &line->err) : bad_line(line);
    else
        o->next_i = i + line->n_rows;
    if (line->asked && i >= 0) {
        asked_is_sent(line->asked, line->bytes);
        entry->asked = line->asked;
        weigh(o, entry, asked_bytes(entry->asked));
        line->asked = NULL;
    }
    entry->id = line->id;
    line->id = NULL;
    if (o->keep_input) {
        entry->object = line->object;
        weigh(o, entry, line->bytes);
        line->object = NULL;
    }
}

json_t *output_line(const json_t *row, json_t *id)
{
    json_t *line = json_object();
    const char *key;
    json_t *value;
    json_object_set(line, "id", id);
    json_object_foreach(
        (json_t *)row, key, value) if (strcmp(key, "i") != 0 && strcmp(key, "id") != 0)
        json_object_set(line, key, value);
    return line;
}

/* Returns the waiting entry that has row i. Entries are ordered by i, and a bad line comes just before
 * the row after it. */
static struct output_entry *find(struct output *o, int64_t i)
{
    size_t low = o->head, high = o->end;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct output_entry *entry = &o->entries[middle];
        if (entry->i + entry->n <= i)
            low = middle + 1;
        else
            high = middle;
    }
    return low < o->end && o->entries[low].i <= i ? &o->entries[low] : NULL;
}

static void note_failure(struct output *o, const struct output_entry *entry)
{
    const json_t *error = json_object_get(entry->result, "error");
    if (json_is_null(error) || o->n_failed++ > 0)
        return;
    char *id = json_dumps(entry->id, JSON_ENCODE_ANY);
    const json_t *inner = json_object_get(error, "error"); /* of a request */
    const char *message = json_string_value(json_object_get(inner ? inner : error, "message"));
    snprintf(o->first_failure, sizeof o->first_failure, "%.32s: %s", id ? id : "",
        message ? message : "");
    free(id);
}

static int write_entry(struct output *o, struct output_entry *entry, struct err *e)
{
    /* nested under `input`, because both have keys such as steps and chosen */
    int rc = entry->object ? json_print_with_input(o->target.file, entry->result, entry->object, e)
                           : json_print_line(o->target.file, entry->result, e);
    o->n_written++;
    note_failure(o, entry);
    entry->written = 1;
    return rc;
}

int output_result(struct output *o, int64_t i, json_t *row, struct err *e)
{
    struct output_entry *entry = find(o, i);
    if (!entry)
        return err_set(e, ASSAY_EINTERNAL,
            "the broker gave a result for row %lld, which is not waited for", (long long)i);
    int rc = entry->asked ? asked_take(entry->asked, (uint32_t)(i - entry->i), row, e) : 1;
    if (entry->asked)
        weigh(o, entry, asked_bytes(entry->asked));
    if (rc != 1)
        return rc;
    json_decref(entry->result);
    entry->result = entry->asked ? asked_answer(entry->asked) : output_line(row, entry->id);
    return o->by_completion ? write_entry(o, entry, e) : 0;
}

int output_flush(struct output *o, struct err *e)
{
    int rc = 0;
    for (; rc == 0 && o->head < o->end && o->entries[o->head].result; o->head++) {
        if (!o->entries[o->head].written)
            rc = write_entry(o, &o->entries[o->head], e);
        clear_entry(o, &o->entries[o->head]);
    }
    if (rc == 0 && fflush(o->target.file) != 0)
        rc = err_errno(e, ASSAY_EIO, "cannot write '%s'", o->target.path);
    return rc;
}

size_t output_waiting(const struct output *o)
{
    return o->end - o->head;
}

int output_is_full(const struct output *o)
{
    return output_waiting(o) >= MAX_LINES || o->kept_bytes >= MAX_KEPT_BYTES;
}

int output_finish(struct output *o, struct err *e)
{
    return target_finish(&o->target, e);
}
