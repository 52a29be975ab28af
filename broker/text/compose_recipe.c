/* compose_recipe.c - writes rows in the forms of recipes (recipe.h): each piece of a form with the
 * row's texts in it, tokenized apart. */
#include "broker/text/compose_private.h"

#include <stdio.h>
#include <string.h>

#include "broker/text/unicode.h"
#include "schema/utf8.h"

/* ---- which rows a recipe is for ---- */

int compose_is_written(const struct row_request *q)
{
    return q->body_field[0] && q->shape != ROW_TEXT;
}

static unsigned kind_of(const struct row_request *q)
{
    return q->is_query ? RECIPE_QUERIES : q->shape == ROW_STEPS ? RECIPE_STEPS : RECIPE_ANSWERS;
}

const struct recipe *compose_recipe_of(
    const struct recipe *chosen, const char *architecture, const struct row_request *q)
{
    const struct recipe *own = chosen ? NULL : recipe_by_itself(architecture);
    return own && (own->rows & kind_of(q)) && compose_is_written(q) ? own : chosen;
}

int32_t compose_step_token(const struct recipe *r, const char *architecture, int32_t token)
{
    const struct recipe *own = r ? NULL : recipe_by_itself(architecture);
    return own && own->form.step_word ? POOL_NO_STEP_TOKEN : token;
}

int compose_check_kind(const struct recipe *r, const struct row_request *q, struct err *e)
{
    if (!r)
        return q->is_query ? err_field(e, ASSAY_EBADREQ, "query",
                                 "expected a broker with a recipe for query and document (assayd "
                                 "--recipe, as qwen3-reranker), found none")
                           : 0;
    if (!(r->rows & kind_of(q)) && compose_is_written(q))
        return err_field(e, ASSAY_EBADREQ, q->body_field[0], "the recipe %s is for rows of %s",
            r->name, recipe_rows(r));
    return q->add_generation_prompt
               ? err_field(e, ASSAY_EBADREQ, "add_generation_prompt",
                     "the recipe %s writes rows without it, found true", r->name)
               : 0;
}

/* ---- its forms ---- */

/* A text of the row, and the marker that stands for it. */
struct part {
    const char *marker, *field;
    struct slice text;           /* at == NULL: nothing is written */
    const char *before, *behind; /* what stands around it; NULL: nothing */
    int is_own;                  /* the client's, not the recipe's */
};

static int check_text(const struct part *p, struct err *e)
{
    size_t valid = utf8_valid(p->text.at, p->text.len);
    if (!p->text.at || valid == p->text.len)
        return 0;
    return err_field(e, ASSAY_EBADTEXT, p->field, "byte %zu: expected UTF-8, found 0x%02x", valid,
        p->text.at[valid]);
}

static void write_part(struct composer *c, const struct part *p)
{
    if (p->text.len == 0)
        return;
    buffer_text(&c->steps, p->before ? p->before : "");
    size_t begin = c->steps.len;
    buffer_append(&c->steps, p->text.at, p->text.len);
    if (p->is_own)
        compose_close(c, begin, c->steps.len);
    buffer_text(&c->steps, p->behind ? p->behind : "");
}

/* Finds the part whose marker the text begins with, or NULL. */
static const struct part *part_at(const struct part *parts, size_t n, const char *text)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(text, parts[i].marker, strlen(parts[i].marker)) == 0)
            return &parts[i];
    return NULL;
}

/* Appends the piece, with the parts in place of their markers. */
static void write_piece(struct composer *c, const char *piece, const struct part *parts, size_t n)
{
    while (*piece) {
        size_t len = strcspn(piece + 1, "{") + 1;
        const struct part *p = *piece == '{' ? part_at(parts, n, piece) : NULL;
        if (p)
            write_part(c, p);
        else
            buffer_append(&c->steps, piece, len);
        piece += p ? strlen(p->marker) : len;
    }
}

static int encode_piece(struct composer *c, int safe_text, const char *field, struct err *e)
{
    struct slice text = {c->steps.at, c->steps.len};
    int rc = encoder_text(c->encoder, text, c->closed, safe_text ? c->n_closed : 0, e);
    return rc == 0 ? 0 : compose_bad_text(field, e);
}

static uint32_t n_ids(const struct composer *c)
{
    return (uint32_t)encoder_ids(c->encoder)->len;
}

/* Only texts go into a form, and nothing beside them. */
static int check_texts_only(const struct row_request *q, struct slice raw, const char *field,
    const char *name, struct err *e)
{
    const char *more = compose_template_field(q);
    if (!q->prompt.at && raw.at && request_is_messages(raw))
        return err_field(e, ASSAY_EBADTEXT, field,
            "the recipe %s writes a prompt and an answer that are texts; expected prompt and "
            "response, found messages",
            name);
    if (!q->prompt.at || request_is_messages(q->prompt))
        return err_field(e, ASSAY_EBADTEXT, q->prompt.at ? q->prompt_field : "prompt",
            "the recipe %s writes a prompt that is one text; expected one, found %s", name,
            q->prompt.at ? "messages" : "none");
    if (raw.at && request_is_messages(raw))
        return err_field(e, ASSAY_EBADTEXT, field,
            "the recipe %s writes an answer that is one text; expected one, found messages", name);
    if (more || q->arguments.at)
        return err_field(e, ASSAY_EBADTEXT, more ? more : "chat_template_kwargs",
            "the recipe %s writes nothing of this; expected none", name);
    return 0;
}

/* Publishers that tokenize a text in pieces mean a tokenizer that puts nothing around each. */
static int check_frame(const struct composer *c, const char *field, struct err *e)
{
    uint32_t before, behind;
    tokenizer_frame(c->model->tokenizer, &before, &behind);
    if (before + behind == 0)
        return 0;
    return err_field(e, ASSAY_EBADTEXT, field,
        "the recipe %s expects a tokenizer that puts no tokens around a text, found one that puts "
        "%u",
        c->model->recipe->name, before + behind);
}

/* Writes all pieces of a sequence, and notes how many tokens stand around the one that is cut.
 * `field` is the sequence's. */
static int encode_pieces(struct composer *c, const struct row_request *q, const struct part *parts,
    size_t n_parts, const char *field, struct err *e)
{
    const struct recipe_form *form = &c->model->recipe->form;
    uint32_t from = n_ids(c), cut_end = from;
    int rc = form->framed ? 0 : check_frame(c, field, e);
    if (form->framed)
        encoder_begin(c->encoder);
    for (size_t i = 0; rc == 0 && i < n_parts; i++)
        rc = check_text(&parts[i], e);
    for (int k = 0; rc == 0 && k < RECIPE_MAX_PIECES && form->pieces[k]; k++) {
        if (k == form->cut)
            c->before = n_ids(c) - from;
        c->steps.len = c->n_closed = 0;
        write_piece(c, form->pieces[k], parts, n_parts);
        rc = encode_piece(c, q->safe_text, field, e);
        if (k == form->cut)
            cut_end = n_ids(c);
    }
    if (form->framed)
        encoder_end(c->encoder);
    c->behind = n_ids(c) - cut_end;
    c->framed = COMPOSE_ALL_FRAMED;
    compose_end_sequence(c);
    return rc;
}

static int compose_document(struct composer *c, const struct row_request *q, struct slice raw,
    const char *field, struct err *e)
{
    const struct recipe_form *form = &c->model->recipe->form;
    struct slice asked = {0};
    int has_own = q->instruction.at != NULL;
    if (has_own)
        asked = turns_text(q->instruction);
    else if (form->instruction)
        asked = slice_of(form->instruction);
    const struct part parts[] = {
        {"{query}", "query", turns_text(q->prompt), NULL, NULL, 1},
        {"{document}", field, turns_text(raw), NULL, NULL, 1},
        {"{instruction}", "instruction", asked, form->before_instruction, form->behind_instruction,
            has_own},
    };
    return encode_pieces(c, q, parts, sizeof parts / sizeof parts[0], field, e);
}

int compose_query(struct composer *c, const struct row_request *q, struct err *e)
{
    return q->shape == ROW_RESPONSE ? compose_document(c, q, q->body[0], "document", e)
                                    : compose_each(c, q, "documents", compose_document, e);
}

int compose_written(struct composer *c, const struct row_request *q, struct slice raw,
    const char *field, struct err *e)
{
    int rc = check_texts_only(q, raw, field, c->model->recipe->name, e);
    if (rc != 0)
        return rc;
    const struct part parts[] = {
        {"{prompt}", q->prompt_field, turns_text(q->prompt), NULL, NULL, 1},
        {"{response}", field, turns_text(raw), NULL, NULL, 1},
    };
    return encode_pieces(c, q, parts, sizeof parts / sizeof parts[0], field, e);
}

/* ---- steps ---- */

#define MAX_TURNS 256 /* each is tokenized with all before it */

struct steps {
    const struct row_request *q;
    const struct recipe *recipe;
    struct msg_reader r;
    uint32_t n, i; /* how many there are; the next one */
    struct part parts[3];
    char field[48];
};
enum { PART_PROMPT, PART_STEP, PART_BOS, N_PARTS };

static struct slice stripped(struct slice s)
{
    unsigned len;
    while (s.len > 0 && unicode_is_python_space(unicode_decode(s.at, &len)))
        s = (struct slice){s.at + len, s.len - len};
    while (s.len > 0) {
        size_t at = s.len - 1;
        while (at > 0 && (s.at[at] & 0xc0) == 0x80)
            at--;
        if (!unicode_is_python_space(unicode_decode(s.at + at, &len)))
            break;
        s.len = at;
    }
    return s;
}

static int check_step(const struct steps *s, const struct part *step, struct err *e)
{
    const char *separator = s->recipe->form.separator;
    int rc = check_text(step, e);
    if (rc == 0 && separator && memmem(step->text.at, step->text.len, separator, strlen(separator)))
        rc = err_field(e, ASSAY_EBADTEXT, step->field,
            "the recipe %s ends a step with a newline; expected none within one", s->recipe->name);
    return rc;
}

/* Takes the next step as the part that {step} stands for. */
static int next_step(struct steps *s, struct err *e)
{
    struct slice text = {0};
    msg_read_text(&s->r, "", &text, NULL);
    snprintf(s->field, sizeof s->field, "steps[%u]", s->i++);
    s->parts[PART_STEP] = (struct part){"{step}", s->field, text, NULL, NULL, 1};
    int rc = check_step(s, &s->parts[PART_STEP], e);
    if (rc == 0 && s->recipe->form.strip_steps)
        s->parts[PART_STEP].text = stripped(text);
    return rc;
}

static int begin_steps(
    struct steps *s, struct composer *c, const struct row_request *q, struct err *e)
{
    const char *bos =
        json_string_value(json_object_get(tokenizer_texts(c->model->tokenizer), "bos_token"));
    *s = (struct steps){.q = q, .recipe = c->model->recipe};
    int rc = check_texts_only(q, (struct slice){0}, "steps", s->recipe->name, e);
    if (rc != 0)
        return rc;
    msg_reader_init(&s->r, q->body[0].at, q->body[0].len);
    msg_read_array(&s->r, "", &s->n, NULL);
    if (s->n == 0)
        return err_field(e, ASSAY_ENOSTEP, "steps", "expected at least one step, found none");
    if (!bos && strstr(s->recipe->form.pieces[0], "{bos}"))
        return err_field(e, ASSAY_EBADTEXT, "prompt",
            "the recipe %s begins with bos_token; expected one in tokenizer_config.json, found "
            "none",
            s->recipe->name);
    s->parts[PART_PROMPT] =
        (struct part){"{prompt}", q->prompt_field, turns_text(q->prompt), NULL, NULL, 1};
    s->parts[PART_STEP] = (struct part){"{step}", s->field, {0}, NULL, NULL, 1};
    s->parts[PART_BOS] = (struct part){"{bos}", "", slice_of(bos), NULL, NULL, 0};
    return check_text(&s->parts[PART_PROMPT], e);
}

/* Begins a text with the first piece. */
static void begin_text(struct composer *c, const struct steps *s)
{
    c->steps.len = c->n_closed = 0;
    write_piece(c, s->recipe->form.pieces[0], s->parts, N_PARTS);
}

/* STEPS_IN_TEXT */
static int steps_in_text(struct composer *c, struct steps *s, struct err *e)
{
    const struct recipe_form *form = &s->recipe->form;
    int rc = 0;
    begin_text(c, s);
    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        rc = next_step(s, e);
        if (i > 0)
            buffer_text(&c->steps, form->between);
        if (rc == 0)
            write_piece(c, form->step, s->parts, N_PARTS);
    }
    if (form->framed)
        encoder_begin(c->encoder);
    if (rc == 0)
        rc = encode_piece(c, s->q->safe_text, "steps", e);
    if (form->framed)
        encoder_end(c->encoder);
    tokenizer_frame(c->model->tokenizer, &c->before, &c->behind);
    c->framed = form->framed ? COMPOSE_ALL_FRAMED : 0;
    return rc;
}

/* STEPS_APART */
static int steps_apart(struct composer *c, struct steps *s, int32_t step_token, struct err *e)
{
    begin_text(c, s);
    int rc = check_frame(c, "steps", e);
    if (rc == 0)
        rc = encode_piece(c, s->q->safe_text, "prompt", e);
    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        rc = next_step(s, e);
        c->steps.len = c->n_closed = 0;
        if (rc == 0)
            write_piece(c, s->recipe->form.step, s->parts, N_PARTS);
        if (rc == 0)
            rc = encode_piece(c, s->q->safe_text, s->field, e);
        compose_end_step(c, step_token);
    }
    return rc;
}

/* Writes the users' turns, one behind the other. */
static int write_turns(struct composer *c, struct steps *s, struct err *e)
{
    int rc = 0;
    c->steps.len = c->n_texts = 0;
    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        size_t begin = c->steps.len;
        rc = next_step(s, e);
        if (rc == 0)
            write_piece(
                c, i == 0 ? s->recipe->form.pieces[0] : s->recipe->form.step, s->parts, N_PARTS);
        c->texts = list_grow(c->texts, c->n_texts, &c->texts_room, sizeof *c->texts);
        c->texts[c->n_texts++] = (struct span){begin, c->steps.len};
    }
    return rc;
}

/* Notes the token in front of the last answer. The ids so far must begin with those of the turns
 * before, as they are scored in one sequence. */
static int note_position(struct composer *c, const struct steps *s, struct err *e)
{
    const struct id_list *ids = encoder_ids(c->encoder);
    size_t bytes = ids->len * sizeof *ids->at;
    const char *answer = s->recipe->words[0];
    struct slice piece = {0};
    if (ids->len >= 3)
        piece = tokenizer_piece(c->model->tokenizer, ids->at[ids->len - 2]);
    if (!piece.at || !recipe_is_word(piece, answer))
        return err_field(e, ASSAY_EBADTEXT, "steps",
            "the recipe %s scores the token in front of the assistant's '%s'; expected a chat "
            "template that ends with it and one token more",
            s->recipe->name, answer);
    if (c->earlier.len > bytes || memcmp(c->earlier.at, ids->at, c->earlier.len) != 0)
        return err_field(e, ASSAY_EBADTEXT, "steps",
            "the recipe %s expects a chat template that writes a turn behind those before it; "
            "found one that changes them",
            s->recipe->name);
    c->earlier.len = 0;
    buffer_append(&c->earlier, ids->at, bytes);
    compose_note_position(c, ids->len - 3);
    return 0;
}

/* STEPS_IN_TURNS. Every conversation is tokenized as the publisher does it, up to each step. */
static int steps_in_turns(struct composer *c, struct steps *s, struct err *e)
{
    if (s->n > MAX_TURNS)
        return err_field(e, ASSAY_ETOOLONG, "steps",
            "expected at most %d with the recipe %s, found %u", MAX_TURNS, s->recipe->name, s->n);
    int rc = write_turns(c, s, e);
    turns_clear(&c->turns);
    c->earlier.len = 0;
    buffer_reserve(&c->earlier, 1);
    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        struct span text = c->texts[i];
        turns_add_text(
            &c->turns, "user", (struct slice){c->steps.at + text.begin, text.end - text.begin});
        turns_add_text(&c->turns, "assistant", slice_of(s->recipe->words[0]));
        encoder_clear(c->encoder);
        rc = compose_chat(c, s->q, 0, "steps", e);
        if (rc == 0)
            rc = note_position(c, s, e);
    }
    return rc;
}

int compose_written_steps(
    struct composer *c, const struct row_request *q, int32_t step_token, struct err *e)
{
    struct steps s;
    int rc = begin_steps(&s, c, q, e);
    if (rc != 0)
        return rc;
    if (s.recipe->form.steps == STEPS_IN_TURNS)
        rc = steps_in_turns(c, &s, e);
    else if (s.recipe->form.steps == STEPS_APART)
        rc = steps_apart(c, &s, step_token, e);
    else
        rc = steps_in_text(c, &s, e);
    if (rc == 0 && s.recipe->form.steps != STEPS_IN_TURNS)
        rc = compose_count_steps(c, step_token, s.n, e);
    compose_end_sequence(c);
    return rc;
}
