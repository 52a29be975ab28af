/* pre_tokenizer.c - runs one step after the other, each on the pieces of the one before
 * (pre_tokenizer.h). */
#include "broker/text/pre_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "broker/text/split.h"
#include "broker/text/unicode.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* A part of a piece, in bytes. */
struct part {
    size_t begin, end;
    int is_match;
};

/* What one step needs while the steps after it cut its pieces. */
struct level {
    struct part *parts;
    size_t n, room;
    struct buffer text;
    struct pattern_matcher *matcher;
};

struct pre_cutter {
    const struct pre_tokenizer *tokenizer;
    const uint8_t *classes;
    struct level levels[PRE_MAX_STEPS];
    pre_take *take;
    void *to;
    struct err *e;
};

void pre_tokenizer_release(struct pre_tokenizer *t)
{
    for (unsigned i = 0; i < t->n; i++)
        pattern_free(&t->steps[i].pattern);
    t->n = 0;
}

struct pre_cutter *pre_cutter_new(const struct pre_tokenizer *t, const uint8_t *classes)
{
    struct pre_cutter *c = xcalloc(1, sizeof *c);
    c->tokenizer = t;
    c->classes = classes;
    for (unsigned i = 0; i < t->n; i++)
        if (t->steps[i].pattern)
            c->levels[i].matcher = pattern_matcher_new();
    return c;
}

void pre_cutter_free(struct pre_cutter **out)
{
    struct pre_cutter *c = *out;
    if (!c)
        return;
    for (unsigned i = 0; i < PRE_MAX_STEPS; i++) { /* the tokenizer may be gone */
        free(c->levels[i].parts);
        buffer_release(&c->levels[i].text);
        pattern_matcher_free(&c->levels[i].matcher);
    }
    free(c);
    *out = NULL;
}

/* ---- matches ---- */

static void add_part(struct level *l, size_t begin, size_t end, int is_match)
{
    if (begin == end)
        return;
    l->parts = list_grow(l->parts, l->n, &l->room, sizeof *l->parts);
    l->parts[l->n++] = (struct part){begin, end, is_match};
}

static int find_pattern(
    struct level *l, const struct pre_step *step, struct slice text, struct err *e)
{
    struct span match;
    size_t done = 0;
    int rc;
    pattern_begin(l->matcher, step->pattern, text);
    while ((rc = pattern_next(l->matcher, &match, e)) == 1) {
        add_part(l, done, match.begin, step->invert);
        add_part(l, match.begin, match.end, !step->invert);
        done = match.end;
    }
    add_part(l, done, text.len, step->invert);
    return rc;
}

static void find_class(
    struct level *l, const uint8_t *classes, const struct pre_step *step, struct slice text)
{
    unsigned bytes;
    size_t done = 0;
    for (size_t i = 0; i < text.len; i += bytes) {
        if (!(classes[unicode_decode(text.at + i, &bytes)] & step->class))
            continue;
        add_part(l, done, i, 0);
        add_part(l, i, i + bytes, 1);
        done = i + bytes;
    }
    add_part(l, done, text.len, 0);
}

/* ---- behaviors ---- */

/* Does this part begin a piece, or does it join the piece of the part before it? With next, this is
 * asked from the end. */
static int begins_piece(const struct level *l, size_t i, int was_match, enum pre_behavior behavior)
{
    if (behavior == PRE_CONTIGUOUS)
        return l->parts[i].is_match != was_match;
    return !l->parts[i].is_match || was_match || behavior == PRE_ISOLATED;
}

static void join_forward(struct level *l, enum pre_behavior behavior)
{
    size_t n = 0;
    int was_match = 0;
    for (size_t i = 0; i < l->n; i++) {
        struct part p = l->parts[i];
        if (n == 0 || begins_piece(l, i, was_match, behavior))
            l->parts[n++] = p;
        else
            l->parts[n - 1].end = p.end;
        was_match = p.is_match;
    }
    l->n = n;
}

static void join_backward(struct level *l)
{
    size_t to = l->n;
    int was_match = 0;
    for (size_t i = l->n; i-- > 0;) {
        struct part p = l->parts[i];
        if (to == l->n || begins_piece(l, i, was_match, PRE_WITH_NEXT))
            l->parts[--to] = p;
        else
            l->parts[to].begin = p.begin;
        was_match = p.is_match;
    }
    memmove(l->parts, l->parts + to, (l->n - to) * sizeof *l->parts);
    l->n -= to;
}

static void drop_matches(struct level *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++)
        if (!l->parts[i].is_match)
            l->parts[n++] = l->parts[i];
    l->n = n;
}

static void join(struct level *l, enum pre_behavior behavior)
{
    if (behavior == PRE_REMOVED)
        drop_matches(l);
    else if (behavior == PRE_WITH_NEXT)
        join_backward(l);
    else if (behavior != PRE_ISOLATED)
        join_forward(l, behavior);
}

/* ---- steps ---- */

static int cut_from(struct pre_cutter *c, unsigned step, struct slice text, int is_first);

static int scan(struct pre_cutter *c, unsigned step, struct slice text)
{
    int rc = 0;
    for (size_t at = 0, word; rc == 0 && at < text.len; at += word) {
        word =
            split_word(c->classes, c->tokenizer->steps[step].digits, text.at + at, text.len - at);
        rc = cut_from(c, step + 1, (struct slice){text.at + at, word}, 0);
    }
    return rc;
}

static int put_space(struct pre_cutter *c, unsigned step, struct slice text, int is_first)
{
    const struct pre_step *s = &c->tokenizer->steps[step];
    struct buffer *out = &c->levels[step].text;
    size_t len = strlen(s->space);
    int begins = text.at[0] == ' ' || (text.len >= len && memcmp(text.at, s->space, len) == 0);
    out->len = 0;
    if (!begins && (s->prefix == PRE_ALWAYS || (s->prefix == PRE_FIRST && is_first)))
        buffer_append(out, s->space, len);
    for (size_t i = 0, end; i < text.len; i = end) {
        const uint8_t *space = memchr(text.at + i, ' ', text.len - i);
        end = space ? (size_t)(space - text.at) : text.len;
        buffer_append(out, text.at + i, end - i);
        if (space) {
            buffer_append(out, s->space, len);
            end++;
        }
    }
    return cut_from(c, step + 1, (struct slice){out->at, out->len}, is_first);
}

static int cut_from(struct pre_cutter *c, unsigned step, struct slice text, int is_first)
{
    const struct pre_step *s = &c->tokenizer->steps[step];
    struct level *l = &c->levels[step];
    int rc = 0;
    if (step == c->tokenizer->n) {
        c->take(c->to, text.at, text.len);
        return 0;
    }
    if (s->kind == PRE_SCAN)
        return scan(c, step, text);
    if (s->kind == PRE_SPACE)
        return put_space(c, step, text, is_first);
    l->n = 0;
    if (s->kind == PRE_PATTERN)
        rc = find_pattern(l, s, text, c->e);
    else
        find_class(l, c->classes, s, text);
    if (rc == 0)
        join(l, s->behavior);
    for (size_t i = 0; rc == 0 && i < l->n; i++) {
        struct part p = l->parts[i];
        rc = cut_from(c, step + 1, (struct slice){text.at + p.begin, p.end - p.begin},
            is_first && p.begin == 0);
    }
    return rc;
}

int pre_cut(
    struct pre_cutter *c, struct slice text, int is_first, pre_take *take, void *to, struct err *e)
{
    c->take = take;
    c->to = to;
    c->e = e;
    return cut_from(c, 0, text, is_first);
}
