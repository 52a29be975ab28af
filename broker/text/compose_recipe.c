/* compose_recipe.c - writes rows in the forms of recipes (recipe.h): each piece of a form with the
 * row's texts in it, tokenized apart. */
#include "broker/text/compose_private.h"

#include <stdio.h>
#include <string.h>

#include "schema/utf8.h"

/* A text of the row, and the marker that stands for it. */
struct part {
    const char *marker, *field;
    struct slice text;           /* at == NULL: nothing is written */
    const char *before, *behind; /* what stands around it; NULL: nothing */
    int is_own;                  /* the client's, not the recipe's */
};

static struct slice literal(const char *text)
{
    return (struct slice){(const uint8_t *)text, text ? strlen(text) : 0};
}

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

/* Writes all pieces of a sequence, and notes how many tokens stand around the one that is cut. */
static int encode_pieces(struct composer *c, const struct row_request *q, const struct part *parts,
    size_t n_parts, struct err *e)
{
    const struct recipe_form *form = &c->model->recipe->form;
    uint32_t from = n_ids(c), cut_end = from;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n_parts; i++)
        rc = check_text(&parts[i], e);
    for (int k = 0; rc == 0 && k < RECIPE_MAX_PIECES && form->pieces[k]; k++) {
        if (k == form->cut)
            c->before = n_ids(c) - from;
        c->steps.len = c->n_closed = 0;
        write_piece(c, form->pieces[k], parts, n_parts);
        rc = encode_piece(c, q->safe_text, q->body_field[0], e);
        if (k == form->cut)
            cut_end = n_ids(c);
    }
    c->behind = n_ids(c) - cut_end;
    c->framed = COMPOSE_ALL_FRAMED;
    compose_end_sequence(c);
    return rc;
}

static int compose_document(struct composer *c, const struct row_request *q, struct slice document,
    const char *field, struct err *e)
{
    const struct recipe_form *form = &c->model->recipe->form;
    struct slice asked = {0};
    int has_own = q->instruction.at != NULL;
    if (has_own)
        asked = turns_text(q->instruction);
    else if (form->instruction)
        asked = literal(form->instruction);
    const struct part parts[] = {
        {"{query}", "query", turns_text(q->prompt), NULL, NULL, 1},
        {"{document}", field, document, NULL, NULL, 1},
        {"{instruction}", "instruction", asked, form->before_instruction, form->behind_instruction,
            has_own},
    };
    return encode_pieces(c, q, parts, sizeof parts / sizeof parts[0], e);
}

int compose_query(struct composer *c, const struct row_request *q, struct err *e)
{
    struct msg_reader r;
    struct slice text;
    uint32_t n = 0;
    char field[48];
    int rc = 0;
    if (q->shape == ROW_RESPONSE)
        return compose_document(c, q, turns_text(q->body[0]), "document", e);
    msg_reader_init(&r, q->body[0].at, q->body[0].len);
    msg_read_array(&r, "", &n, NULL);
    if (n == 0 || n > COMPOSE_MAX_SEQUENCES)
        return err_field(e, n ? ASSAY_ETOOLONG : ASSAY_EBADTEXT, "documents",
            "expected 1 to %d, found %u", COMPOSE_MAX_SEQUENCES, n);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        msg_read_text(&r, "", &text, NULL);
        snprintf(field, sizeof field, "documents[%u]", i);
        rc = compose_document(c, q, text, field, e);
    }
    return rc;
}
