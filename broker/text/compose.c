/* compose.c - loads tokenizer and template, and writes each shape of row as text, then as ids
 * (compose.h). */
#include "broker/text/compose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/text/compose_private.h"
#include "broker/text/side_files.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* ---- the model ---- */

/* A tokenizer that is not supported leaves ids to be scored; files that are broken are an error. */
static int load_tokenizer(struct text_model *m, const char *dir, struct err *e)
{
    struct err why = {0};
    int rc = 0;
    if (tokenizer_is_there(dir, &why) == 0 && tokenizer_load(&m->tokenizer, dir, &why) != 0)
        rc = side_files_check(dir, e);
    snprintf(m->reason, sizeof m->reason, "%s", why.msg);
    return rc;
}

/* A template of one's own must be usable; a checkpoint's may be broken, and text still scored. */
static int load_named(struct text_model *m, const char *name, struct err *e)
{
    enum chat_template named = chat_from_name(name);
    struct err why = {0};
    if (named != CHAT_COUNT) {
        m->chat.template = named;
        return 0;
    }
    if (access(name, F_OK) != 0)
        return err_set(e, ASSAY_EFORMAT,
            "--chat-template: expected chatml, qwen1.5, qwen2, qwen2.5, qwen2.5-base, "
            "qwen2.5-math, qwen3, qwen3-instruct-2507, llama3, llama3-first, llama3.1 or a file, "
            "found '%s'",
            name);
    if (chat_load_file(&m->chat, name, &why) != 0)
        return err_set(e, ASSAY_EFORMAT, "--chat-template: %s", why.msg);
    if (m->chat.template == CHAT_NONE)
        return err_set(e, ASSAY_EFORMAT, "--chat-template: %s", m->chat.reason);
    return 0;
}

static int load_chat(
    struct text_model *m, const char *dir, const struct text_options *o, struct err *e)
{
    struct err why = {0};
    struct jinja_run *run = NULL;
    int rc = 0;
    if (o->chat_template)
        rc = load_named(m, o->chat_template, e);
    else if (chat_load(&m->chat, dir, &why) != 0)
        m->chat.template = CHAT_NONE;
    if (why.code != 0)
        snprintf(m->chat.reason, sizeof m->chat.reason, "%s", why.msg);
    if (rc == 0 && o->template_date) {
        run = jinja_run_new();
        if (jinja_set_date(run, o->template_date, &why) != 0)
            rc = err_set(e, ASSAY_EFORMAT, "--template-date: %s", why.msg);
        snprintf(m->chat.date, sizeof m->chat.date, "%s", o->template_date);
        jinja_run_free(&run);
    }
    m->chat.tokens = m->tokenizer ? tokenizer_texts(m->tokenizer) : NULL;
    chat_check_bos(&m->chat, m->chat.tokens);
    return rc;
}

int text_model_step_token(const struct text_model *m, int32_t *id, struct err *e)
{
    const struct recipe *r = m->recipe;
    struct err why = {0};
    *id = m->tokenizer ? tokenizer_find_added(m->tokenizer, "<extra_0>") : POOL_NO_STEP_TOKEN;
    if (!r || !r->form.step_word || recipe_step_token(r, m->tokenizer, id, &why) == 0)
        return 0;
    *id = POOL_NO_STEP_TOKEN;
    return m->is_own ? 0 : err_set(e, why.code, "%s", why.msg);
}

/* An option that says how a text is written would say nothing where the architecture's recipe
 * does. */
static int check_own(const struct recipe *own, const struct text_options *o, struct err *e)
{
    const char *name = o->chat_template   ? "--chat-template"
                       : o->template_date ? "--template-date"
                       : o->tail          ? "--tail"
                                          : NULL;
    return name && !recipe_uses_template(own)
               ? err_set(e, ASSAY_EFORMAT,
                     "%s: expected none with %s: its recipe %s writes its own text", name,
                     o->architecture, own->name)
               : 0;
}

int text_model_load(
    struct text_model *m, const char *dir, const struct text_options *o, struct err *e)
{
    const struct recipe *own = o->recipe ? NULL : recipe_by_itself(o->architecture);
    *m = (struct text_model){
        .steps_in_chat = strcmp(o->architecture, "Qwen2ForProcessRewardModel") == 0,
        .recipe = own ? own : o->recipe,
        .is_own = own != NULL,
        .tail = o->recipe ? o->recipe->tail : o->tail};
    int rc = own ? check_own(own, o, e) : 0;
    if (rc == 0)
        rc = load_tokenizer(m, dir, e);
    return rc == 0 ? load_chat(m, dir, o, e) : rc;
}

void text_model_release(struct text_model *m)
{
    tokenizer_free(&m->tokenizer);
    chat_release(&m->chat);
}

/* run: for a template that is interpreted. */
static int write_chat(const struct text_model *m, struct jinja_run *run,
    const struct chat_talk *talk, struct chat_text *out, struct err *e)
{
    if (m->chat.template == CHAT_JINJA)
        return chat_interpret(&m->chat, run, talk, out, e);
    return chat_write(m->chat.template, talk->messages, talk->n, out, e);
}

static int ends_in(const struct encoder *n, int32_t id)
{
    const struct id_list *ids = encoder_ids(n);
    return ids->len > 0 && ids->at[ids->len - 1] == id;
}

const char *text_model_ends_in(const struct text_model *m, int32_t id)
{
    static const char *const names[] = {NULL, "conversations", "texts", "conversations and texts"};
    static const struct chat_message talk[] = {
        {.role = {(const uint8_t *)"user", 4}, .content = {(const uint8_t *)"a", 1}},
        {.role = {(const uint8_t *)"assistant", 9}, .content = {(const uint8_t *)"b", 1}}};
    struct chat_text said = {0};
    struct err e = {0};
    int found = 0;
    if (!m->tokenizer)
        return NULL;
    struct encoder *n = encoder_new(m->tokenizer);
    struct jinja_run *run = jinja_run_new();
    if (m->chat.template != CHAT_NONE &&
        write_chat(m, run, &(struct chat_talk){.messages = talk, .n = 2}, &said, &e) == 0 &&
        encoder_text(n, (struct slice){said.text.at, said.text.len}, NULL, 0, &e) == 0)
        found = ends_in(n, id);
    encoder_clear(n);
    encoder_end(n);
    found |= ends_in(n, id) << 1;
    encoder_free(&n);
    jinja_run_free(&run);
    chat_text_release(&said);
    return names[found];
}

struct composer *composer_new(const struct text_model *m)
{
    struct composer *c = xcalloc(1, sizeof *c);
    c->model = m;
    c->encoder = m->tokenizer ? encoder_new(m->tokenizer) : NULL;
    c->run = jinja_run_new();
    return c;
}

void composer_free(struct composer **out)
{
    struct composer *c = *out;
    if (!c)
        return;
    encoder_free(&c->encoder);
    jinja_run_free(&c->run);
    chat_text_release(&c->chat);
    chat_text_release(&c->prompt);
    buffer_release(&c->steps);
    turns_release(&c->turns);
    free(c->marks);
    free(c->texts);
    buffer_release(&c->earlier);
    free(c->positions);
    free(c->closed);
    free(c->ends);
    free(c);
    *out = NULL;
}

/* ---- lists ---- */

static void add_span(struct span **list, size_t *n, size_t *room, size_t begin, size_t end)
{
    *list = list_grow(*list, *n, room, sizeof **list);
    (*list)[(*n)++] = (struct span){begin, end};
}

void compose_close(struct composer *c, size_t begin, size_t end)
{
    add_span(&c->closed, &c->n_closed, &c->closed_room, begin, end);
}

void compose_end_sequence(struct composer *c)
{
    c->ends = list_grow(c->ends, c->n, &c->ends_room, sizeof *c->ends);
    c->ends[c->n++] = (uint32_t)encoder_ids(c->encoder)->len;
}

int compose_bad_text(const char *field, struct err *e)
{
    struct err why = *e;
    return err_field(e, why.code, why.field[0] ? why.field : field, "%s", why.msg);
}

static int encode_plain(
    struct composer *c, struct slice text, int safe_text, const char *field, struct err *e)
{
    struct span all = {0, text.len};
    int rc = encoder_text(c->encoder, text, &all, safe_text != 0, e);
    return rc == 0 ? 0 : compose_bad_text(field, e);
}

/* ---- shapes ---- */

const char *compose_template_field(const struct row_request *q)
{
    return q->system.at && turns_text(q->system).len > 0 ? "system"
           : q->has_tools                                ? "tools"
           : q->add_generation_prompt                    ? "add_generation_prompt"
                                                         : NULL;
}

static int compose_text(struct composer *c, const struct row_request *q, struct slice text,
    const char *field, struct err *e)
{
    if (q->add_special_tokens)
        encoder_begin(c->encoder);
    int rc = encode_plain(c, text, q->safe_text, field, e);
    if (q->add_special_tokens) {
        encoder_end(c->encoder);
        c->framed |= 1u << c->n; /* a text, or one of a pair */
    }
    compose_end_sequence(c);
    return rc;
}

/* The eos_token that ends a conversation is the one token that stays where it is cut. */
static int check_tail(struct composer *c, unsigned tail, const struct row_request *q, struct err *e)
{
    if (tail && q->add_generation_prompt)
        return err_field(e, ASSAY_EBADTEXT, "add_generation_prompt",
            "expected none with --tail, which says how a conversation ends");
    if (tail & TAIL_EOS) {
        c->framed = COMPOSE_ALL_FRAMED;
        c->behind = 1;
    }
    return 0;
}

/* Does the recipe write rows of this kind in a form of its own? (The architecture's own may not be
 * for all that come.) */
static int has_form(const struct composer *c, unsigned kind)
{
    const struct recipe *r = c->model->recipe;
    return r && recipe_writes(r) && (r->rows & kind);
}

/* Composes a conversation: the prompt, if any, and its answer. */
static int compose_answer(struct composer *c, const struct row_request *q, struct slice raw,
    const char *field, struct err *e)
{
    if (has_form(c, RECIPE_ANSWERS))
        return compose_written(c, q, raw, field, e);
    unsigned tail = c->model->tail;
    int rc = turns_of_answer(&c->turns, q, raw, field, e);
    if (rc == 0)
        rc = check_tail(c, tail, q, e);
    if (rc == 0)
        rc = compose_chat(c, q, tail, field, e);
    if (rc == 0 && (tail & TAIL_EOS) &&
        !ends_in(c->encoder, tokenizer_special(c->model->tokenizer)->eos))
        rc = err_field(e, ASSAY_EBADTEXT, field,
            "expected an eos_token that is one of the tokenizer's added tokens, found another");
    compose_end_sequence(c);
    return rc;
}

int compose_each(struct composer *c, const struct row_request *q, const char *name,
    compose_answer_fn *compose, struct err *e)
{
    struct msg_reader r;
    uint32_t n = 0;
    char field[48];
    int something, rc = 0;
    msg_reader_init(&r, q->body[0].at, q->body[0].len);
    msg_read_array(&r, "", &n, NULL);
    if (n == 0 || n > COMPOSE_MAX_SEQUENCES)
        return err_field(e, n ? ASSAY_ETOOLONG : ASSAY_EBADTEXT, name, "expected 1 to %d, found %u",
            COMPOSE_MAX_SEQUENCES, n);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const uint8_t *from = r.at;
        request_skip_value(&r, "", &something, NULL);
        snprintf(field, sizeof field, "%s[%u]", name, i);
        rc = compose(c, q, (struct slice){from, (size_t)(r.at - from)}, field, e);
    }
    return rc;
}

static int begins_with(struct slice raw, struct slice prompt)
{
    struct slice text = {0};
    if (!request_is_messages(raw))
        text = turns_text(raw);
    return prompt.len > 0 && text.len >= prompt.len && memcmp(text.at, prompt.at, prompt.len) == 0;
}

/* If both texts begin with the prompt, it is unclear whether they are whole texts or answers that
 * repeat it. */
static int check_pair(const struct row_request *q, struct err *e)
{
    struct slice prompt = {0};
    int plain = !request_is_messages(q->body[0]) && !request_is_messages(q->body[1]);
    if (!q->prompt.at && plain && compose_template_field(q))
        return err_field(e, ASSAY_EBADTEXT, compose_template_field(q),
            "expected only with what the chat template writes; chosen and rejected without a "
            "prompt are texts as they are");
    if (!q->prompt.at && !plain &&
        !(request_is_messages(q->body[0]) && request_is_messages(q->body[1])))
        return err_field(e, ASSAY_EBADTEXT, "rejected",
            "expected chosen and rejected alike, two texts or messages in both, where there is no "
            "prompt; found one of each");
    if (q->prompt.at && !request_is_messages(q->prompt))
        prompt = turns_text(q->prompt);
    if (!begins_with(q->body[0], prompt) || !begins_with(q->body[1], prompt))
        return 0;
    return err_field(e, ASSAY_EBADTEXT, "chosen",
        "both texts begin with the prompt: where they are whole texts, leave out the prompt; where "
        "they are answers that repeat it, send them as messages of the assistant");
}

static int compose_pair(struct composer *c, const struct row_request *q, struct err *e)
{
    static const char *const fields[] = {"chosen", "rejected"};
    int rc = check_pair(q, e);
    if (rc == 0 && c->model->tail && !q->prompt.at && !request_is_messages(q->body[0]))
        rc = err_field(e, ASSAY_EBADTEXT, "chosen",
            "expected messages, or answers to a prompt, where %s says how a conversation ends; "
            "found a text",
            c->model->recipe ? c->model->recipe->name : "--tail");
    for (int i = 0; rc == 0 && i < 2; i++)
        if (!q->prompt.at && !request_is_messages(q->body[i]))
            rc = compose_text(c, q, turns_text(q->body[i]), fields[i], e);
        else
            rc = compose_answer(c, q, q->body[i], fields[i], e);
    return rc;
}

/* ---- steps ---- */

static int check_steps(const struct composer *c, int32_t step_token, uint32_t n, struct err *e)
{
    if (n == 0)
        return err_field(e, ASSAY_ENOSTEP, "steps", "expected at least one step, found none");
    if (step_token < 0)
        return err_field(e, ASSAY_ENOSTEP, "steps",
            "the checkpoint's tokenizer names no step token; expected pool.step_token");
    if (!tokenizer_piece(c->model->tokenizer, step_token).at)
        return err_field(e, ASSAY_ENOSTEP, "pool.step_token",
            "expected an id of the tokenizer, found %d", step_token);
    return 0;
}

/* Joins all steps to one text, with the step token after each. */
static void join_steps(struct composer *c, struct msg_reader *r, uint32_t n, struct slice piece)
{
    struct slice text;
    c->steps.len = c->n_marks = 0;
    for (uint32_t i = 0; i < n && msg_read_text(r, "", &text, NULL) == 0; i++) {
        buffer_append(&c->steps, text.at, text.len);
        size_t begin = c->steps.len;
        buffer_append(&c->steps, piece.at, piece.len);
        add_span(&c->marks, &c->n_marks, &c->marks_room, begin, c->steps.len);
    }
}

static int steps_in_chat(struct composer *c, const struct row_request *q, struct msg_reader *r,
    uint32_t n, int32_t step_token, struct err *e)
{
    join_steps(c, r, n, tokenizer_piece(c->model->tokenizer, step_token));
    turns_clear(&c->turns);
    turns_add(&c->turns, q->prompt, "user");
    turns_add_text(&c->turns, "assistant", (struct slice){c->steps.at, c->steps.len});
    int rc = turns_put_system(&c->turns, q, e);
    return rc == 0 ? compose_chat(c, q, 0, "steps", e) : rc;
}

static int steps_plain(struct composer *c, const struct row_request *q, struct msg_reader *r,
    uint32_t n, int32_t step_token, struct err *e)
{
    struct slice text;
    char field[48];
    int rc;
    turns_clear(&c->turns);
    if (request_is_messages(q->prompt)) {
        turns_add(&c->turns, q->prompt, "user");
        rc = turns_put_system(&c->turns, q, e);
        rc = rc == 0 ? compose_chat(c, q, 0, "prompt", e) : rc;
    } else if (compose_template_field(q)) {
        rc = err_field(e, ASSAY_EBADTEXT, compose_template_field(q),
            "the steps of this architecture are written without a chat template; send the prompt "
            "as messages");
    } else {
        if (tokenizer_special(c->model->tokenizer)->bos >= 0)
            encoder_add(c->encoder, tokenizer_special(c->model->tokenizer)->bos);
        rc = encode_plain(c, turns_text(q->prompt), q->safe_text, "prompt", e);
    }
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        msg_read_text(r, "", &text, NULL);
        snprintf(field, sizeof field, "steps[%u]", i);
        rc = encode_plain(c, text, q->safe_text, field, e);
        compose_end_step(c, step_token);
    }
    return rc;
}

void compose_note_position(struct composer *c, size_t at)
{
    c->positions =
        list_grow(c->positions, c->n_positions, &c->positions_room, sizeof *c->positions);
    c->positions[c->n_positions++] = (int32_t)at;
}

void compose_end_step(struct composer *c, int32_t step_token)
{
    encoder_add(c->encoder, step_token);
    compose_note_position(c, encoder_ids(c->encoder)->len - 1);
}

/* Where the step tokens' places are known, one that stands in a text (a newline, say) does no harm:
 * the places go with the row then. Where they are not, one that the client wrote, or that a
 * template dropped, would shift all probabilities. */
int compose_count_steps(struct composer *c, int32_t step_token, uint32_t n, struct err *e)
{
    const struct id_list *ids = encoder_ids(c->encoder);
    uint32_t found = 0;
    for (size_t i = 0; i < ids->len; i++)
        found += ids->at[i] == step_token;
    if (found == n)
        c->n_positions = 0; /* pooling finds them */
    if (found == n || c->n_positions == n)
        return 0;
    return err_field(e, ASSAY_EBADTEXT, "steps",
        "expected the step token %d as often as there are steps, %u, found it %u times%s",
        step_token, n, found,
        c->model->steps_in_chat ? "; with safe_text one that stands in the text stays text" : "");
}

static int compose_steps(
    struct composer *c, const struct row_request *q, int32_t step_token, struct err *e)
{
    struct msg_reader r;
    uint32_t n = 0;
    msg_reader_init(&r, q->body[0].at, q->body[0].len);
    msg_read_array(&r, "", &n, NULL);
    int rc = check_steps(c, step_token, n, e);
    if (rc == 0)
        rc = c->model->steps_in_chat ? steps_in_chat(c, q, &r, n, step_token, e)
                                     : steps_plain(c, q, &r, n, step_token, e);
    if (rc == 0)
        rc = compose_count_steps(c, step_token, n, e);
    compose_end_sequence(c);
    return rc;
}

int compose_row(struct composer *c, const struct row_request *q, int32_t step_token,
    struct composed *out, struct err *e)
{
    int rc;
    if (!c->encoder)
        return err_field(e, ASSAY_EBADTEXT, q->body_field[0], "%s", c->model->reason);
    encoder_clear(c->encoder);
    c->n = 0;
    c->turns.joins_parts = q->join_content;
    c->framed = 0;
    c->before = c->behind = c->n_positions = 0;
    c->n_marks = 0;
    if (q->is_query)
        rc = compose_query(c, q, e);
    else if (q->shape == ROW_TEXT)
        rc = compose_text(c, q, turns_text(q->body[0]), "text", e);
    else if (q->shape == ROW_RESPONSES)
        rc = compose_each(c, q, "responses", compose_answer, e);
    else if (q->shape == ROW_PAIR)
        rc = compose_pair(c, q, e);
    else if (q->shape == ROW_STEPS)
        rc = has_form(c, RECIPE_STEPS) ? compose_written_steps(c, q, step_token, e)
                                       : compose_steps(c, q, step_token, e);
    else
        rc = compose_answer(c, q, q->body[0], q->body_field[0], e);
    if (rc == 0)
        *out = (struct composed){.ids = encoder_ids(c->encoder)->at,
            .ends = c->ends,
            .n = c->n,
            .framed = c->framed,
            .positions = c->positions,
            .n_positions = c->n_positions};
    if (rc == 0 && c->framed == COMPOSE_ALL_FRAMED)
        out->before = c->before, out->behind = c->behind;
    else if (rc == 0)
        tokenizer_frame(c->model->tokenizer, &out->before, &out->behind);
    return rc;
}

const struct side_truncation *composer_truncation(const struct composer *c)
{
    return c && c->encoder ? tokenizer_truncation(c->model->tokenizer) : NULL;
}
