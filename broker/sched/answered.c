/* answered.c - takes the answer of an equal row from the database: reads the rows that an index
 * names, compares the content, and copies the values or the error (answered.h). */
#include "broker/sched/answered.h"

#include <stdlib.h>
#include <string.h>

#include "broker/sched/content.h"
#include "schema/alloc.h"

static void forget_read(struct answered *a)
{
    while (a->n_read > 0)
        sequence_free(&a->read[--a->n_read]);
    a->read_row = 0;
}

static void keep_read(void *arg, struct sequence *r)
{
    struct answered *a = arg;
    if ((a->n_read & (a->n_read - 1)) == 0) { /* the array is full: 0, 1, 2, 4 .. */
        struct sequence **more = xcalloc(2 * (size_t)a->n_read + 1, sizeof *more);
        if (a->n_read > 0)
            memcpy(more, a->read, a->n_read * sizeof *more);
        free(a->read);
        a->read = more;
    }
    content_hash(r, a->seed);
    a->read[a->n_read++] = r;
}

static int by_hash(const void *a, const void *b)
{
    const struct sequence *x = *(struct sequence *const *)a, *y = *(struct sequence *const *)b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

/* Reads this row into a->read. A row's content never changes, so one read is enough. */
static int read_row(struct answered *a, int64_t row, struct err *e)
{
    if (a->read_row == row)
        return 0;
    forget_read(a);
    int rc = store_one_row(a->store, row, keep_read, a, e);
    a->read_row = rc == 0 ? row : 0;
    if (a->n_read > 1)
        qsort(a->read, a->n_read, sizeof(struct sequence *), by_hash);
    return rc;
}

/* Returns the index in a->read of the first sequence whose hash is not below this one. */
static uint32_t first_of_hash(const struct answered *a, uint64_t hash)
{
    uint32_t low = 0, high = a->n_read;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (a->read[middle]->hash < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void answered_make_room(struct sequence *r, enum row_origin origin)
{
    free(r->found_values);
    r->found_values = xcalloc(r->n_values + 1, sizeof *r->found_values);
    r->origin = origin;
    free(r->found_message);
    r->found_message = NULL;
    r->found_error = 0;
}

/* Takes an error that any equal row would get too. */
static int take_error(struct sequence *r, const struct store_answer *answer)
{
    static const int codes[] = {ASSAY_ENONFINITE, ASSAY_EKILLED};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (strcmp(answer->error_code, err_name(codes[i])) == 0) {
            r->found_error = codes[i];
            r->found_message = strdup(answer->error_message);
            return 1;
        }
    return 0;
}

/* Takes the value of `same`, which equals r, from the result of its row, one of several sequences:
 * 1 if it has one. The row's values are read once: an equal row would get the same at any time. */
static int take_of_values(
    struct answered *a, const struct sequence *same, struct sequence *r, struct err *e)
{
    uint32_t n = same->of->n_parts;
    if (a->values_row != same->row_id) {
        free(a->values);
        a->values = xcalloc(n, sizeof *a->values);
        a->values_row = 0;
        struct store_answer answer = {.n = n, .values = a->values};
        int rc = store_read_answer(a->store, same->row_id, same->of->mode, &answer, e);
        if (rc != 1 || answer.error_code[0] || answer.n_values != n)
            return rc < 0 ? rc : 0;
        a->values_row = same->row_id;
    }
    answered_make_room(r, ROW_COPIED);
    r->found_values[0] = a->values[same->part];
    return 1;
}

/* Takes the answer of `same`, the sequence of a finished row that equals r: 1 if it has one. */
static int take_answer(
    struct answered *a, const struct sequence *same, struct sequence *r, struct err *e)
{
    if (same->of)
        return take_of_values(a, same, r, e);
    answered_make_room(r, ROW_COPIED);
    struct store_answer answer = {.n = r->n_values, .values = r->found_values};
    int rc = store_read_answer(a->store, same->row_id, same->mode, &answer, e);
    if (rc != 1)
        return rc;
    if (answer.error_code[0])
        return take_error(r, &answer);
    if (answer.n_values != same->n_values)
        return 0;
    /* SQLite stores -0.0 as 0, which would show in a list. */
    return !r->of || r->found_values[0] != 0;
}

/* Takes the value of a sequence that is done, of a row that is still in flight. */
static int take_done(const struct row *line, const struct sequence *same, struct sequence *r)
{
    answered_make_room(r, ROW_COPIED);
    r->found_values[0] = line->values[same->part];
    return 1;
}

/* Whether the index could mean one of the sequences in a->read by r's hash. */
static int is_meant(const struct answered *a, const struct sequence *r)
{
    uint32_t k = 0;
    while (k < a->n_read && !dedupe_index_is_same(a->read[k]->hash, r->hash))
        k++;
    return k < a->n_read || (a->n_read == 1 && content_is_same(a->read[0], r));
}

/* Takes the answer from a->read, the row that the index names for r: 1 when it equals r and has an
 * answer. Of a row in flight only sequences that are done have one, of others all or none: so a row
 * of many equal sequences takes few looks. */
static int take_from_read(
    struct answered *a, struct dedupe_index *index, int64_t row, struct sequence *r, struct err *e)
{
    const struct row *line = a->rows ? table_find(a->rows, row) : NULL;
    uint32_t first = a->n_read > 1 ? first_of_hash(a, r->hash) : 0;
    int is_so = 0;
    for (uint32_t k = first; k < a->n_read && (k == first || a->read[k]->hash == r->hash); k++) {
        const struct sequence *same = a->read[k];
        is_so |= same->hash == r->hash;
        if ((line && (line->error_code || !line->done[same->part])) ||
            (row == r->row_id && same->part == r->part) || !content_is_same(same, r))
            continue;
        return line ? take_done(line, same, r) : take_answer(a, same, r, e);
    }
    if (!is_so && !is_meant(a, r)) /* the index is wrong: a row's content never changes */
        dedupe_index_distrust(index);
    return 0;
}

/* Moves r's own row, if it is among these, to the front: in flight, it is the one that is read
 * already. */
static void own_row_first(const struct sequence *r, uint32_t *found, uint32_t n)
{
    uint32_t k = 0;
    while (k < n && found[k] != row_index(r->row_id))
        k++;
    if (k < n) {
        found[k] = found[0];
        found[0] = row_index(r->row_id);
    }
}

int answered_find(struct answered *a, struct dedupe_index *index, struct sequence *r, struct err *e)
{
    uint32_t found[DEDUPE_INDEX_SAME], n = dedupe_index_find(index, r->hash, found);
    int rc = 0;
    own_row_first(r, found, n);
    for (uint32_t k = 0; rc == 0 && k < n; k++) {
        int64_t row = row_id_of(row_job(r->row_id), found[k]);
        if (row == r->row_id && !r->of)
            continue;
        rc = read_row(a, row, e);
        if (rc == 0)
            rc = take_from_read(a, index, row, r, e);
    }
    return rc;
}

void answered_release(struct answered *a)
{
    forget_read(a);
    free(a->read);
    free(a->values);
    *a = (struct answered){0};
}
