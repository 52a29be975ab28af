/* batch_job.c - a batch's job in the broker: whether it may be made, what became of it, and its end
 * (batches_private.h). */
#include <stdio.h>
#include <string.h>

#include "broker/http/batches_private.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/msg_json.h"

#define STATUS_MS 1000
#define PURGE_MS 10000

static void show_held(struct batches *bs, struct batch *b, const char *reason)
{
    if (!reason && !b->is_held)
        return;
    b->is_held = reason != NULL;
    batch_show(
        bs, b, json_pack("{s:o}", "errors", reason ? batch_errors("held", reason) : json_null()));
}

/* The card that the batch was begun with: lines are read, and answers written, as its model has
 * them, whatever the broker serves by now. */
static struct card *own_card(struct batches *bs, struct batch *b)
{
    const char *names[CARD_MAX_NAMES];
    struct card *card = NULL;
    struct err e = {0};
    json_t *name;
    size_t k;
    pthread_mutex_lock(&bs->lock);
    json_t *info = json_deep_copy(json_object_get(b->own, "info"));
    pthread_mutex_unlock(&bs->lock);
    json_array_foreach(json_object_get(info, "names"), k, name)
    {
        if (k < CARD_MAX_NAMES)
            names[k] = json_string_value(name); /* lies in the card's own info */
    }
    int n = (int)(k < CARD_MAX_NAMES ? k : CARD_MAX_NAMES);
    if (card_new(&card, info, names, n, &e) != 0)
        log_warn("event=batch_record id=%s reason=\"%s\"", b->id, e.msg);
    return card;
}

/* Does the card have each of the batch's models and adapters, by `has`? */
static int has_all(const struct card *now, const struct card *own,
    int (*has)(const struct card_choice *, const struct card *))
{
    int all = own != NULL;
    for (int k = 0; all && k < own->n_models; k++) {
        struct card_choice choice = {&own->models[k], NULL};
        all = has(&choice, now);
        for (size_t i = 0; all && (choice.adapter = card_adapter(&own->models[k], i)); i++)
            all = has(&choice, now);
    }
    return all;
}

static int is_served(struct batches *bs, struct batch *b,
    int (*has)(const struct card_choice *, const struct card *))
{
    struct card *now = link_card(bs->options.link), *own = own_card(bs, b);
    int is_it = now && has_all(now, own, has);
    card_release(&own);
    card_release(&now);
    return is_it;
}

/* Asks for an operation on the job. */
static int ask(
    struct batches *bs, const struct batch *b, const char *op, struct slice *reply, struct err *e)
{
    char key[JOB_KEY_BYTES];
    batch_key(b, key);
    msg_key_str(call_begin(bs->call, op, 1), "job", key);
    return call_send(bs->call, reply, e);
}

/* Deletes the job. Returns 0 once it is not there. */
static int drop(struct batches *bs, const struct batch *b, struct err *e)
{
    struct slice reply;
    int rc = ask(bs, b, "cancel", &reply, e);
    if (rc == 0)
        rc = ask(bs, b, "purge", &reply, e);
    return rc == ASSAY_EUNKNOWNJOB ? 0 : rc;
}

json_t *batch_unsent(void)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i}", "next_line", 0, "chunk", 0, "rows", 0, "refused",
        0, "sealed", 0);
}

/* The broker loaded another checkpoint between the card and the job. Nothing of the job counts: it is
 * deleted, and the lines are read under a newer card. Returns a code that lets the batch wait. */
static int validate_again(struct batches *bs, struct batch *b, struct err *e)
{
    int rc = drop(bs, b, e);
    if (rc != 0)
        return err_set(e, ASSAY_ENOTREADY, "a job of another checkpoint is still there");
    json_t *own = batch_unsent();
    json_object_set_new(own, "chunk_rows", json_integer(0));
    rc =
        batch_set(bs, b, json_pack("{s:s, s:n}", "status", "validating", "in_progress_at"), own, e);
    show_held(bs, b, NULL);
    return rc != 0 ? rc : err_set(e, ASSAY_ENOTREADY, "the lines are read again");
}

/* A job is made only while the checkpoint is served. Where another has its name before any row was
 * sent, the lines are read anew for that one: it may have come while they were read. Once the
 * job is there the broker sees to it: a job is of one checkpoint, and is held without it. */
int batch_take_card(struct batches *bs, struct batch *b, int ends)
{
    struct run *r = b->run;
    struct err e = {0};
    if (!r->card)
        r->card = own_card(bs, b);
    if (batch_number(bs, b, 1, "chunk") > 0 || is_served(bs, b, card_choice_stands))
        return r->card != NULL;
    int may_change = !ends && !batch_number(bs, b, 1, "is_resent");
    if (may_change && is_served(bs, b, card_choice_is_named))
        validate_again(bs, b, &e);
    else
        show_held(bs, b,
            "the broker has another checkpoint or mode of the model than the batch was begun with, "
            "or has not the model");
    return 0;
}

/* The broker does not know the job, since its data are new: all is sent again. */
int batch_send_again(struct batches *bs, struct batch *b, struct err *e)
{
    struct run *r = b->run;
    run_forget(bs, r);
    msg_writer_clear(&r->rows);
    r->n_rows = r->until = r->refused = 0;
    json_t *own = batch_unsent();
    json_object_set_new(own, "is_resent", json_integer(1));
    json_object_set_new(own, "checked", json_integer(0));
    return batch_set(bs, b, json_object(), own, e);
}

static const char *text_in(const json_t *map, const char *key)
{
    return json_string_value(json_object_get(map, key));
}

/* A job's status tells of its own model. Of an ensemble's others, and of adapters, the broker is asked
 * once the job has rows: from then on it holds the job where one of them is another. Returns 1 where
 * they are as they were, 0 where not, or a code. */
static int ask_others(struct batches *bs, struct batch *b, struct err *e)
{
    struct card *now = NULL;
    struct slice reply;
    struct msg_reader r;
    json_t *info = NULL;
    if (batch_number(bs, b, 1, "chunk") == 0)
        return 1;
    call_begin(bs->call, "info", 0);
    int rc = call_send(bs->call, &reply, e);
    if (rc != 0)
        return rc;
    msg_reader_init(&r, reply.at, reply.len);
    if (msg_read_json(&r, &info, e) != 0 || card_new(&now, info, NULL, 0, e) != 0)
        return ASSAY_EINTERNAL;
    struct card *own = own_card(bs, b);
    rc = has_all(now, own, card_choice_stands);
    card_release(&own);
    card_release(&now);
    return rc;
}

/* Is the job cancelled by somebody else? At the end of its window the batch itself cancels it. */
static int others_cancelled(struct batches *bs, struct batch *b, const char *state)
{
    return state && strcmp(state, "cancelled") == 0 &&
           batch_number(bs, b, 0, "cancelling_at") == 0 &&
           batch_number(bs, b, 0, "expires_at") > now_s();
}

/* Reads what became of the job: whose scores it has, whether it waits, whether somebody has
 * cancelled it. */
static int take_status(struct batches *bs, struct batch *b, const json_t *status, struct err *e)
{
    char digest[128], mode[1024];
    const char *state = text_in(status, "state"), *reason = text_in(status, "reason");
    const char *of = text_in(status, "checkpoint"), *in = text_in(status, "mode");
    batch_text(bs, b, 1, "digest", digest, sizeof digest);
    batch_text(bs, b, 1, "mode", mode, sizeof mode);
    if (of && in && (strcmp(of, digest) != 0 || strcmp(in, mode) != 0)) {
        if (!batch_number(bs, b, 1, "checked"))
            return validate_again(bs, b, e);
        return err_set(e, ASSAY_EINTERNAL,
            "the broker scores the job with another checkpoint or mode than the batch was begun "
            "with");
    }
    show_held(bs, b, reason);
    if (of && in && !batch_number(bs, b, 1, "checked") &&
        batch_set(bs, b, json_object(), json_pack("{s:i}", "checked", 1), e) != 0)
        return e->code;
    if (others_cancelled(bs, b, state))
        return batch_set(bs, b,
            json_pack("{s:s, s:I}", "status", "cancelling", "cancelling_at", now_s()), NULL, e);
    return 0;
}

int batch_ask_status(struct batches *bs, struct batch *b, struct err *e)
{
    struct slice reply;
    struct msg_reader r;
    json_t *status = NULL;
    if (batch_number(bs, b, 1, "checked") && now_mono_ms() < b->run->status_due_ms)
        return 0;
    int rc = ask(bs, b, "status", &reply, e);
    if (rc != 0)
        return rc;
    msg_reader_init(&r, reply.at, reply.len);
    rc = msg_read_json(&r, &status, e) == 0 ? 0 : ASSAY_EINTERNAL;
    int is_alike = rc == 0 && !batch_number(bs, b, 1, "checked") ? ask_others(bs, b, e) : 1;
    if (rc == 0 && is_alike == 1)
        rc = take_status(bs, b, status, e);
    else if (rc == 0)
        rc = is_alike == 0 ? validate_again(bs, b, e) : is_alike;
    json_decref(status);
    b->run->status_due_ms = now_mono_ms() + STATUS_MS;
    return rc;
}

int batch_cancel_job(struct batches *bs, struct batch *b, struct err *e)
{
    struct run *r = b->run;
    struct slice reply;
    if (r->is_cancelled)
        return 0;
    int rc = ask(bs, b, "cancel", &reply, e);
    r->is_cancelled = rc == 0 || rc == ASSAY_EUNKNOWNJOB;
    r->is_read |= rc == ASSAY_EUNKNOWNJOB;
    return r->is_cancelled ? 0 : rc;
}

int batch_purge(struct batches *bs, struct batch *b)
{
    struct err e = {0};
    if (!batch_number(bs, b, 1, "purges") || batch_number(bs, b, 1, "chunk") == 0)
        return batch_wait(b, FOREVER / 2);
    if (drop(bs, b, &e) == 0 &&
        batch_set(bs, b, json_object(), json_pack("{s:i}", "purges", 0), &e) == 0)
        return batch_wait(b, FOREVER / 2);
    return batch_wait(b, PURGE_MS);
}
