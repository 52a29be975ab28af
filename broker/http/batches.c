/* batches.c - see batches.h and batches_private.h. */
#include "broker/http/batches_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define TICK_MS 100
#define SWEEP_MS 10000 /* how often is looked for what has expired */

/* ---- records ---- */

static int is_over(const json_t *object)
{
    static const char *const over[] = {"completed", "failed", "expired", "cancelled"};
    const char *status = json_string_value(json_object_get(object, "status"));
    for (size_t i = 0; status && i < sizeof over / sizeof over[0]; i++)
        if (strcmp(status, over[i]) == 0)
            return 1;
    return 0;
}

static int write_record(struct batches *bs, struct batch *b, struct err *e)
{
    char name[FOLDER_NAME_BYTES];
    snprintf(name, sizeof name, "%s.json", b->id);
    json_t *record = json_pack("{s:O, s:O}", "batch", b->object, "own", b->own);
    char *text = json_dumps(record, JSON_COMPACT);
    json_decref(record);
    int rc = text ? folder_write(bs->options.folder, name, text, e)
                  : err_set(e, ASSAY_EINTERNAL, "the batch's record cannot be written as JSON");
    free(text);
    return rc;
}

/* Under the lock. */
static void note_input(struct batches *bs, struct batch *b)
{
    const char *input = json_string_value(json_object_get(b->object, "input_file_id"));
    b->is_over = is_over(b->object);
    if (b->holds_input == !b->is_over)
        return;
    b->holds_input = !b->is_over;
    (b->holds_input ? files_hold : files_release)(bs->options.files, input ? input : "");
}

/* A batch that is to be cancelled does not go on, whatever the thread was about to say. */
static void keep_cancelling(const json_t *old, json_t *object)
{
    const char *was = json_string_value(json_object_get(old, "status"));
    if (was && strcmp(was, "cancelling") == 0 && !is_over(object))
        json_object_set_new(object, "status", json_string("cancelling"));
}

int batch_set(struct batches *bs, struct batch *b, json_t *fields, json_t *own, struct err *e)
{
    pthread_mutex_lock(&bs->lock);
    json_t *object = json_deep_copy(b->object), *old = b->object;
    json_t *mine = json_deep_copy(b->own), *old_own = b->own;
    json_object_update(object, fields);
    keep_cancelling(old, object);
    if (own)
        json_object_update(mine, own);
    b->object = object;
    b->own = mine;
    int rc = write_record(bs, b, e);
    if (rc != 0) {
        b->object = old;
        b->own = old_own;
    }
    json_decref(rc == 0 ? old : object);
    json_decref(rc == 0 ? old_own : mine);
    note_input(bs, b);
    pthread_mutex_unlock(&bs->lock);
    json_decref(fields);
    json_decref(own);
    return rc;
}

void batch_show(struct batches *bs, struct batch *b, json_t *fields)
{
    pthread_mutex_lock(&bs->lock);
    json_object_update(b->object, fields);
    pthread_mutex_unlock(&bs->lock);
    json_decref(fields);
}

int64_t batch_number(struct batches *bs, struct batch *b, int is_own, const char *name)
{
    pthread_mutex_lock(&bs->lock);
    int64_t n = json_integer_value(json_object_get(is_own ? b->own : b->object, name));
    pthread_mutex_unlock(&bs->lock);
    return n;
}

int64_t batch_completed(struct batches *bs, struct batch *b)
{
    pthread_mutex_lock(&bs->lock);
    const json_t *counts = json_object_get(b->object, "request_counts");
    int64_t n = json_integer_value(json_object_get(counts, "completed"));
    pthread_mutex_unlock(&bs->lock);
    return n;
}

void batch_text(
    struct batches *bs, struct batch *b, int is_own, const char *name, char *text, size_t size)
{
    pthread_mutex_lock(&bs->lock);
    const char *found = json_string_value(json_object_get(is_own ? b->own : b->object, name));
    snprintf(text, size, "%s", found ? found : "");
    pthread_mutex_unlock(&bs->lock);
}

json_t *batch_errors(const char *code, const char *message)
{
    return json_pack("{s:s, s:[{s:s, s:s, s:n, s:n}]}", "object", "list", "data", "code", code,
        "message", message, "line", "param");
}

/* ---- the table ---- */

static struct batch *add(struct batches *bs, const char *id, json_t *object, json_t *own)
{
    struct batch *b = xcalloc(1, sizeof *b);
    snprintf(b->id, sizeof b->id, "%s", id);
    b->object = object;
    b->own = own;
    *bs->end = b;
    bs->end = &b->next;
    note_input(bs, b);
    return b;
}

static void remove_batch(struct batches *bs, struct batch *b)
{
    struct batch **at = &bs->first;
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    if (bs->end == &b->next)
        bs->end = at;
    run_free(&b->run);
    json_decref(b->object);
    json_decref(b->own);
    free(b);
}

static void load(void *arg, const char *id, const char *text)
{
    json_t *all = arg, *record = json_loads(text, 0, NULL);
    const json_t *object = json_object_get(record, "batch");
    const char *name = json_string_value(json_object_get(object, "id"));
    if (!name || strcmp(name, id) != 0 || !json_is_object(json_object_get(record, "own")))
        log_warn("event=batch_ignored id=%s reason=\"its record is not one\"", id);
    else
        json_object_set_new(
            record, "created_at", json_incref(json_object_get(object, "created_at"))),
            json_object_set(all, id, record);
    json_decref(record);
}

static int load_all(struct batches *bs, struct err *e)
{
    json_t *all = json_object(), *record;
    const char *id;
    int rc = folder_each(bs->options.folder, FOLDER_BATCH, load, all, e);
    all = objects_by_age(all);
    json_object_foreach(all, id, record)
    {
        add(bs, id, json_incref(json_object_get(record, "batch")),
            json_incref(json_object_get(record, "own")));
    }
    json_decref(all);
    return rc;
}

static int64_t ended_at(const json_t *object)
{
    static const char *const times[] = {"completed_at", "failed_at", "expired_at", "cancelled_at"};
    int64_t at = 0;
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        int64_t t = json_integer_value(json_object_get(object, times[i]));
        at = t > at ? t : at;
    }
    return at;
}

/* Removes records of batches that have long been over. */
static void sweep(struct batches *bs)
{
    struct err e = {0};
    int n = 0;
    files_expire(bs->options.files);
    pthread_mutex_lock(&bs->lock);
    for (struct batch *b = bs->first, *next; b; b = next) {
        char name[FOLDER_NAME_BYTES];
        next = b->next;
        if (!b->is_over || b->run || ended_at(b->object) + BATCHES_KEPT_S > time(NULL))
            continue;
        snprintf(name, sizeof name, "%s.json", b->id);
        folder_drop(bs->options.folder, name);
        remove_batch(bs, b);
        n++;
    }
    pthread_mutex_unlock(&bs->lock);
    if (n > 0 && folder_sync(bs->options.folder, &e) != 0)
        log_warn("event=batches_not_synced reason=\"%s\"", e.msg);
}

/* ---- the thread ---- */

static int is_stopped(struct batches *bs)
{
    pthread_mutex_lock(&bs->lock);
    int stops = bs->stops;
    pthread_mutex_unlock(&bs->lock);
    return stops;
}

static void wait_a_tick(struct batches *bs)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += TICK_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&bs->lock);
    if (!bs->stops)
        pthread_cond_timedwait(&bs->wake, &bs->lock, &until);
    pthread_mutex_unlock(&bs->lock);
}

static struct batch *next_of(struct batches *bs, struct batch *b)
{
    pthread_mutex_lock(&bs->lock);
    struct batch *next = b ? b->next : bs->first;
    pthread_mutex_unlock(&bs->lock);
    return next;
}

/* Records go in this thread alone, so a batch stays while its turn is. */
static void *run(void *arg)
{
    struct batches *bs = arg;
    long long swept_ms = 0;
    while (!is_stopped(bs)) {
        int does = 0;
        for (struct batch *b = next_of(bs, NULL); b && !is_stopped(bs); b = next_of(bs, b))
            if (now_mono_ms() >= b->due_ms)
                does |= batch_step(bs, b);
        if (now_mono_ms() - swept_ms >= SWEEP_MS) {
            sweep(bs);
            swept_ms = now_mono_ms();
        }
        if (!does)
            wait_a_tick(bs);
    }
    return NULL;
}

int batches_new(struct batches **out, const struct batches_options *options, struct err *e)
{
    struct batches *bs = xcalloc(1, sizeof *bs);
    bs->options = *options;
    bs->end = &bs->first;
    pthread_mutex_init(&bs->lock, NULL);
    pthread_cond_init(&bs->wake, NULL);
    int rc = load_all(bs, e);
    if (rc == 0)
        rc = call_new(&bs->call, options->endpoint, e);
    if (rc == 0 && (errno = pthread_create(&bs->thread, NULL, run, bs)) != 0)
        rc = err_errno(e, ASSAY_EIO, "a thread for batches");
    bs->has_thread = rc == 0;
    *out = bs;
    if (rc != 0)
        batches_free(out);
    return rc;
}

void batches_stop(struct batches *bs)
{
    pthread_mutex_lock(&bs->lock);
    bs->stops = 1;
    pthread_cond_signal(&bs->wake);
    pthread_mutex_unlock(&bs->lock);
    if (bs->call)
        call_stop(bs->call);
    if (bs->has_thread)
        pthread_join(bs->thread, NULL);
    bs->has_thread = 0;
}

void batches_free(struct batches **out)
{
    struct batches *bs = *out;
    *out = NULL;
    if (!bs)
        return;
    batches_stop(bs);
    for (struct batch *b = bs->first; b; b = b->next) {
        if (!b->run)
            continue;
        output_drop(&b->run->output, bs->options.folder);
        output_drop(&b->run->errors_output, bs->options.folder);
    }
    while (bs->first)
        remove_batch(bs, bs->first);
    call_free(&bs->call);
    pthread_cond_destroy(&bs->wake);
    pthread_mutex_destroy(&bs->lock);
    free(bs);
}

/* ---- what clients ask ---- */

/* Under the lock, as all that reads an object. */
static struct batch *find(
    struct batches *bs, const struct asker *asker, const char *id, struct err *e)
{
    for (struct batch *b = bs->first; b; b = b->next)
        if (strcmp(b->id, id) == 0 && asker_sees(asker, object_owner(b->object)))
            return b;
    err_field(e, ASSAY_EGONE, "id", "No such Batch object: %.60s", id);
    return NULL;
}

static int check_room(struct batches *bs, struct err *e)
{
    int n = 0, n_active = 0;
    pthread_mutex_lock(&bs->lock);
    for (struct batch *b = bs->first; b; b = b->next) {
        n++;
        n_active += !b->is_over;
    }
    pthread_mutex_unlock(&bs->lock);
    if (n < BATCHES_MOST && n_active < BATCHES_ACTIVE)
        return folder_has_room(bs->options.folder, 0, e);
    return err_set(e, ASSAY_EQUEUEFULL,
        "expected at most %d batches under way and %d in all, found %d and %d", BATCHES_ACTIVE,
        BATCHES_MOST, n_active, n);
}

/* Must be there, and be for batches. */
static int check_input(
    struct batches *bs, const struct asker *asker, const json_t *object, struct err *e)
{
    const char *input = json_string_value(json_object_get(object, "input_file_id"));
    json_t *file = files_get(bs->options.files, asker, input, e);
    const char *purpose = json_string_value(json_object_get(file, "purpose"));
    int is_input = purpose && strcmp(purpose, "batch") == 0;
    json_decref(file);
    if (is_input)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "input_file_id",
        "`input_file_id`: expected a file that was uploaded with the purpose batch, found '%.60s'",
        input);
}

json_t *batches_create(
    struct batches *bs, const struct asker *asker, const json_t *body, struct err *e)
{
    char id[FOLDER_ID_BYTES];
    json_t *object = NULL, *own = NULL, *copy = NULL;
    folder_new_id(id, FOLDER_BATCH);
    int rc = check_room(bs, e);
    if (rc == 0)
        rc = batch_from_body(body, id, &object, &own, e);
    if (rc == 0)
        rc = check_input(bs, asker, object, e);
    object_set_owner(object, rc == 0 ? asker->name : NULL);
    struct batch b = {.object = object, .own = own};
    snprintf(b.id, sizeof b.id, "%s", id);
    if (rc == 0)
        rc = write_record(bs, &b, e);
    if (rc == 0) {
        copy = object_shown(object);
        pthread_mutex_lock(&bs->lock);
        add(bs, id, object, own);
        pthread_cond_signal(&bs->wake);
        pthread_mutex_unlock(&bs->lock);
        return copy;
    }
    json_decref(object);
    json_decref(own);
    return NULL;
}

json_t *batches_get(struct batches *bs, const struct asker *asker, const char *id, struct err *e)
{
    pthread_mutex_lock(&bs->lock);
    const struct batch *b = find(bs, asker, id, e);
    json_t *object = b ? object_shown(b->object) : NULL;
    pthread_mutex_unlock(&bs->lock);
    return object;
}

json_t *batches_cancel(struct batches *bs, const struct asker *asker, const char *id, struct err *e)
{
    json_t *object = NULL;
    pthread_mutex_lock(&bs->lock);
    struct batch *b = find(bs, asker, id, e);
    const char *status = b ? json_string_value(json_object_get(b->object, "status")) : "";
    int rc = b && b->is_over
                 ? err_field(e, ASSAY_ESTATE, "id", "Cannot cancel a batch that is %s.", status)
                 : 0;
    int is_new = b && rc == 0 && strcmp(status, "cancelling") != 0;
    json_t *old = is_new ? json_deep_copy(b->object) : NULL;
    if (is_new) {
        json_object_set_new(b->object, "status", json_string("cancelling"));
        json_object_set_new(b->object, "cancelling_at", json_integer((json_int_t)time(NULL)));
        rc = write_record(bs, b, e);
    }
    if (b && rc == 0)
        object = object_shown(b->object);
    else if (is_new)
        json_object_update(b->object, old);
    json_decref(old);
    pthread_cond_signal(&bs->wake);
    pthread_mutex_unlock(&bs->lock);
    return object;
}

json_t *batches_list(struct batches *bs, const struct page_of *page, struct err *e)
{
    json_t *all = json_object();
    pthread_mutex_lock(&bs->lock);
    for (struct batch *b = bs->first; b; b = b->next)
        json_object_set(all, b->id, b->object);
    json_t *list = page_of_objects(all, page, e);
    pthread_mutex_unlock(&bs->lock);
    json_decref(all);
    return list;
}
