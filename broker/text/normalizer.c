/* normalizer.c - see normalizer.h. */
#include "broker/text/normalizer.h"

#include <utf8proc.h>

#include "broker/text/unicode.h"

void normalizer_release(struct normalizer *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        pattern_free(&t->steps[i].pattern);
        buffer_release(&t->steps[i].content);
    }
    t->n = 0;
}

void normalized_release(struct normalized *n)
{
    buffer_release(&n->text);
    buffer_release(&n->next);
    pattern_matcher_free(&n->matcher);
}

static int grows(const struct normalized *n, struct err *e)
{
    return err_set(e, ASSAY_EBADTEXT,
        "the tokenizer's normalizer makes more than %zu bytes of this text", n->most_bytes);
}

static int replace(struct normalized *n, const struct normalizer_step *s, struct slice text,
    struct buffer *out, struct err *e)
{
    struct span match;
    size_t done = 0;
    int rc;
    if (!n->matcher)
        n->matcher = pattern_matcher_new();
    pattern_begin(n->matcher, s->pattern, text);
    while ((rc = pattern_next(n->matcher, &match, e)) == 1) {
        buffer_append(out, text.at + done, match.begin - done);
        buffer_append(out, s->content.at, s->content.len);
        done = match.end;
        if (out->len > n->most_bytes)
            return grows(n, e);
    }
    buffer_append(out, text.at + done, text.len - done);
    return rc;
}

static struct slice strip(const uint8_t *classes, const struct normalizer_step *s, struct slice t)
{
    unsigned bytes;
    while (s->left && t.len > 0 && (classes[unicode_decode(t.at, &bytes)] & UNICODE_SPACE)) {
        t.at += bytes;
        t.len -= bytes;
    }
    while (s->right && t.len > 0) {
        size_t last = t.len - 1;
        while (last > 0 && t.at[last] >> 6 == 2)
            last--;
        if (!(classes[unicode_decode(t.at + last, &bytes)] & UNICODE_SPACE))
            break;
        t.len = last;
    }
    return t;
}

static void lower(struct buffer *out, struct slice t)
{
    unsigned bytes;
    for (size_t i = 0; i < t.len; i += bytes) {
        uint32_t c = unicode_decode(t.at + i, &bytes);
        if (c == 0x130)
            buffer_text(out, "i\u0307");
        else
            out->len += (size_t)utf8proc_encode_char(
                (utf8proc_int32_t)unicode_lower(c), buffer_reserve(out, 4));
    }
}

static void drop_accents(struct buffer *out, struct slice t)
{
    unsigned bytes;
    for (size_t i = 0; i < t.len; i += bytes) {
        uint32_t c = unicode_decode(t.at + i, &bytes);
        if (c < 0x80 || !unicode_is_in(unicode_accents, unicode_n_accents, c))
            buffer_append(out, t.at + i, bytes);
    }
}

/* Writes the changed text to `out`. */
static int apply_step(const struct normalizer_step *s, const uint8_t *classes, struct normalized *n,
    struct slice text, struct buffer *out, struct err *e)
{
    switch (s->kind) {
    case NORMALIZER_REPLACE:
        return replace(n, s, text, out, e);
    case NORMALIZER_FORM:
        normal_form_append(out, s->form, classes, text.at, text.len);
        return 0;
    case NORMALIZER_LOWERCASE:
        lower(out, text);
        return 0;
    case NORMALIZER_ACCENTS:
        drop_accents(out, text);
        return 0;
    case NORMALIZER_STRIP:
        text = strip(classes, s, text);
        break;
    case NORMALIZER_PREPEND:
        if (text.len > 0)
            buffer_append(out, s->content.at, s->content.len);
    }
    buffer_append(out, text.at, text.len);
    return 0;
}

int normalizer_apply(const struct normalizer *t, const uint8_t *classes, struct normalized *n,
    struct slice *text, struct err *e)
{
    int rc = 0;
    n->most_bytes = 16 * text->len + 4096;
    for (unsigned i = 0; rc == 0 && i < t->n; i++) {
        n->next.len = 0;
        rc = apply_step(&t->steps[i], classes, n, *text, &n->next, e);
        if (rc == 0 && n->next.len > n->most_bytes)
            rc = grows(n, e);
        struct buffer done = n->next;
        n->next = n->text;
        n->text = done;
        *text = (struct slice){done.at, done.len};
    }
    return rc;
}
