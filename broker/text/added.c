/* added.c - sorts the tokens by content, and searches them at each byte that one begins with
 * (added.h). */
#include "broker/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "broker/text/buffer.h"
#include "broker/text/unicode.h"
#include "schema/alloc.h"
#include "schema/log.h"

void added_set_add(struct added_set *s, const struct added_token *t)
{
    s->tokens = list_grow(s->tokens, s->n, &s->room, sizeof *s->tokens);
    struct added_token *own = &s->tokens[s->n++];
    *own = *t;
    own->content = xcalloc(t->len, 1);
    memcpy(own->content, t->content, t->len);
    s->starts[t->content[0]] = 1;
}

static int by_content(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    int order = memcmp(x->content, y->content, x->len < y->len ? x->len : y->len);
    if (order == 0 && x->len == y->len)
        return (x->order > y->order) - (x->order < y->order);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

void added_set_sort(struct added_set *s)
{
    if (s->n > 1)
        qsort(s->tokens, s->n, sizeof *s->tokens, by_content);
}

static int are_same(const struct added_token *a, const struct added_token *b)
{
    return a->id == b->id && a->lstrip == b->lstrip && a->rstrip == b->rstrip &&
           a->single_word == b->single_word && a->len == b->len &&
           memcmp(a->content, b->content, a->len) == 0;
}

int added_sets_are_same(const struct added_set *a, const struct added_set *b)
{
    int same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = are_same(&a->tokens[i], &b->tokens[i]);
    return same;
}

void added_set_release(struct added_set *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->tokens[i].content);
    free(s->tokens);
    *s = (struct added_set){0};
}

/* First of the tokens [lo, hi), alike up to `depth`, whose byte there is `byte` or more. A token
 * that has no such byte comes first. */
static size_t lower_bound(const struct added_set *s, size_t lo, size_t hi, size_t depth, int byte)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct added_token *t = &s->tokens[mid];
        if (t->len > depth && t->content[depth] >= byte)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* The longest token at text[0]; NULL: none. */
static const struct added_token *longest(const struct added_set *s, const uint8_t *text, size_t len)
{
    const struct added_token *best = NULL;
    size_t lo = 0, hi = s->n;
    for (size_t depth = 0; depth < len && lo < hi; depth++) {
        lo = lower_bound(s, lo, hi, depth, text[depth]);
        hi = lower_bound(s, lo, hi, depth, text[depth] + 1);
        if (lo < hi && s->tokens[lo].len == depth + 1)
            best = &s->tokens[lo];
    }
    return best;
}

static int is_closed(const struct added_search *s, size_t begin, size_t end)
{
    size_t lo = 0, hi = s->n_closed;
    while (lo < hi) { /* the first closed span that ends behind `begin` */
        size_t mid = lo + (hi - lo) / 2;
        if (s->closed[mid].end > begin)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo < s->n_closed && s->closed[lo].begin < end;
}

static int class_before(const struct added_search *s, size_t at)
{
    unsigned bytes;
    do
        at--;
    while (at > 0 && s->text[at] >> 6 == 2);
    return s->classes[unicode_decode(s->text + at, &bytes)];
}

/* Is there a letter or the like beside it? */
static int is_in_word(const struct added_search *s, size_t begin, size_t end)
{
    unsigned bytes;
    return (begin > 0 && (class_before(s, begin) & UNICODE_WORD)) ||
           (end < s->len && (s->classes[unicode_decode(s->text + end, &bytes)] & UNICODE_WORD));
}

static size_t spaces_before(const struct added_search *s, size_t at, size_t done)
{
    while (at > done) {
        size_t before = at - 1;
        unsigned bytes;
        while (before > 0 && s->text[before] >> 6 == 2)
            before--;
        if (!(s->classes[unicode_decode(s->text + before, &bytes)] & UNICODE_SPACE))
            break;
        at = before;
    }
    return at > done ? at : done;
}

static size_t spaces_behind(const struct added_search *s, size_t at)
{
    unsigned bytes;
    while (at < s->len && (s->classes[unicode_decode(s->text + at, &bytes)] & UNICODE_SPACE))
        at += bytes;
    return at;
}

int added_find(const struct added_search *s, size_t from, size_t done, struct added_cut *cut)
{
    for (size_t i = from; s->set->n > 0 && i < s->len; i++) {
        if (!s->set->starts[s->text[i]])
            continue;
        const struct added_token *t = longest(s->set, s->text + i, s->len - i);
        if (!t || is_closed(s, i, i + t->len))
            continue;
        if (t->single_word && is_in_word(s, i, i + t->len)) {
            i += t->len - 1;
            continue;
        }
        cut->token = t;
        cut->next = i + t->len;
        cut->span.begin = t->lstrip ? spaces_before(s, i, done) : i;
        cut->span.end = t->rstrip ? spaces_behind(s, cut->next) : cut->next;
        return 1;
    }
    return 0;
}
