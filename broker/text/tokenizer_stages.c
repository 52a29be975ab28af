/* tokenizer_stages.c - see tokenizer_reader.h. What cannot be honoured is refused by name. */
#include "broker/text/tokenizer_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/split.h"
#include "broker/text/unicode.h"

/* ---- json ---- */

int reader_wrong(const struct reader *r, const char *fmt, ...)
{
    char text[ERR_MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return err_set(r->e, ASSAY_EFORMAT, "tokenizer.json: %s", text);
}

const char *reader_text(const json_t *v)
{
    const char *s = json_string_value(v);
    return s ? s : json_is_null(v) || !v ? "null" : "something else";
}

const char *reader_type(const json_t *object)
{
    return reader_text(json_object_get(object, "type"));
}

int reader_is_type(const json_t *object, const char *type)
{
    return strcmp(reader_type(object), type) == 0;
}

int reader_is_off(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return !v || json_is_null(v) || json_is_false(v);
}

int reader_is_empty(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return !v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0);
}

int reader_id(const struct reader *r, const char *what, const json_t *id)
{
    if (json_is_integer(id) && json_integer_value(id) >= 0 &&
        json_integer_value(id) < (json_int_t)BPE_MAX_IDS)
        return 0;
    return reader_wrong(r, "%.80s: expected an id from 0 to %u", what, BPE_MAX_IDS - 1);
}

/* ---- parts of several stages ---- */

/* Compiles {"Regex": ..} or {"String": ..}; stage names the part of the file. */
static int compile_pattern(
    const struct reader *r, const char *stage, const json_t *pattern, struct pattern **out)
{
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *text = json_object_get(pattern, "String");
    const char *value = json_string_value(regex ? regex : text);
    struct err why = {0};
    if (!value || !*value || strlen(value) != json_string_length(regex ? regex : text))
        return reader_wrong(
            r, "%s: expected a pattern, {\"Regex\": ..} or {\"String\": ..}", stage);
    int rc = regex ? pattern_new(out, value, &why) : pattern_new_text(out, value, &why);
    return rc == 0 ? 0 : reader_wrong(r, "%s: %s", stage, why.msg);
}

/* A boolean that the reference demands; stage names the part of the file. */
static int read_flag(
    const struct reader *r, const char *stage, const json_t *v, const char *key, int *flag)
{
    const json_t *value = json_object_get(v, key);
    *flag = json_is_true(value);
    if (json_is_boolean(value))
        return 0;
    return reader_wrong(
        r, "%s: %s.%s: expected true or false, found another", stage, reader_type(v), key);
}

/* ---- normalizer ---- */

static struct normalizer_step *add_change(struct reader *r, enum normalizer_kind kind)
{
    struct normalizer *t = &r->t->normalizer;
    if (t->n == NORMALIZER_MAX_STEPS) {
        reader_wrong(r, "normalizer: expected at most %d steps", NORMALIZER_MAX_STEPS);
        return NULL;
    }
    struct normalizer_step *s = &t->steps[t->n++];
    *s = (struct normalizer_step){.kind = kind};
    return s;
}

static int read_content(
    const struct reader *r, const json_t *v, const char *key, struct normalizer_step *s)
{
    const json_t *content = json_object_get(v, key);
    if (!json_is_string(content) || json_string_length(content) > 64)
        return reader_wrong(
            r, "normalizer: %s.%s: expected a text of at most 64 bytes", reader_type(v), key);
    buffer_append(&s->content, json_string_value(content), json_string_length(content));
    return 0;
}

static int read_replace(struct reader *r, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "pattern");
    struct normalizer_step *s = add_change(r, NORMALIZER_REPLACE);
    int rc = s ? read_content(r, v, "content", s) : r->e->code;
    if (rc == 0)
        rc = compile_pattern(r, "normalizer: Replace.pattern", pattern, &s->pattern);
    return rc;
}

static int read_strip(struct reader *r, const json_t *v)
{
    struct normalizer_step *s = add_change(r, NORMALIZER_STRIP);
    int rc = s ? read_flag(r, "normalizer", v, "strip_left", &s->left) : r->e->code;
    return rc == 0 ? read_flag(r, "normalizer", v, "strip_right", &s->right) : rc;
}

static int read_form(struct reader *r, const json_t *v, int *is_form)
{
    static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD"};
    struct normalizer_step *s;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (reader_is_type(v, names[i])) {
            *is_form = 1;
            if (!(s = add_change(r, NORMALIZER_FORM)))
                return r->e->code;
            s->form = (enum normal_form)i;
        }
    return 0;
}

static int read_change(struct reader *r, const json_t *v, int depth)
{
    struct normalizer_step *s;
    int is_form = 0;
    json_t *item;
    size_t k;
    int rc = read_form(r, v, &is_form);
    if (rc != 0 || is_form)
        return rc;
    if (reader_is_type(v, "Lowercase"))
        return add_change(r, NORMALIZER_LOWERCASE) ? 0 : r->e->code;
    if (reader_is_type(v, "StripAccents"))
        return add_change(r, NORMALIZER_ACCENTS) ? 0 : r->e->code;
    if (reader_is_type(v, "Replace"))
        return read_replace(r, v);
    if (reader_is_type(v, "Strip"))
        return read_strip(r, v);
    if (reader_is_type(v, "Prepend"))
        return (s = add_change(r, NORMALIZER_PREPEND)) ? read_content(r, v, "prepend", s)
                                                       : r->e->code;
    if (!reader_is_type(v, "Sequence") || depth > 2)
        return reader_wrong(r,
            "normalizer: expected NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Prepend, Replace, "
            "Strip, a Sequence of them or none, found %.80s",
            reader_type(v));
    json_array_foreach(json_object_get(v, "normalizers"), k, item)
    {
        if ((rc = read_change(r, item, depth + 1)) != 0)
            return rc;
    }
    return 0;
}

int reader_normalizer(struct reader *r, const json_t *v)
{
    return !v || json_is_null(v) ? 0 : read_change(r, v, 0);
}

/* ---- pre-tokenizer ---- */

/* The pattern of GPT-2, which ByteLevel cuts by if use_regex is true. */
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static struct pre_step *add_step(struct reader *r, enum pre_kind kind)
{
    struct pre_tokenizer *t = &r->t->pre;
    if (t->n == PRE_MAX_STEPS) {
        reader_wrong(r, "pre_tokenizer: expected at most %d steps", PRE_MAX_STEPS);
        return NULL;
    }
    struct pre_step *s = &t->steps[t->n++];
    *s = (struct pre_step){.kind = kind};
    return s;
}

static int read_behavior(const struct reader *r, const json_t *v, enum pre_behavior *behavior)
{
    static const char *const names[] = {
        "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = reader_text(json_object_get(v, "behavior"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            *behavior = (enum pre_behavior)i;
            return 0;
        }
    return reader_wrong(r,
        "pre_tokenizer: %s.behavior: expected Isolated, Removed, MergedWithPrevious, "
        "MergedWithNext or Contiguous, found %.80s",
        reader_type(v), name);
}

static int read_split(struct reader *r, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    struct pre_step *s = add_step(r, PRE_PATTERN);
    int rc = s ? read_behavior(r, v, &s->behavior) : r->e->code;
    if (rc == 0)
        rc = read_flag(r, "pre_tokenizer", v, "invert", &s->invert);
    if (rc == 0 && regex && !s->invert && s->behavior == PRE_ISOLATED)
        s->digits = split_pattern_digits(regex);
    if (rc == 0 && s->digits > 0)
        s->kind = PRE_SCAN;
    else if (rc == 0)
        rc = compile_pattern(r, "pre_tokenizer: Split.pattern", pattern, &s->pattern);
    return rc;
}

static int read_digits(struct reader *r, const json_t *v)
{
    struct pre_step *s = add_step(r, PRE_CLASS);
    int each, rc = s ? read_flag(r, "pre_tokenizer", v, "individual_digits", &each) : r->e->code;
    if (rc != 0)
        return rc;
    s->class = UNICODE_DIGIT;
    s->behavior = each ? PRE_ISOLATED : PRE_CONTIGUOUS;
    return 0;
}

static int read_punctuation(struct reader *r, const json_t *v)
{
    struct pre_step *s = add_step(r, PRE_CLASS);
    if (!s)
        return r->e->code;
    s->class = UNICODE_PUNCTUATION;
    return json_object_get(v, "behavior") ? read_behavior(r, v, &s->behavior) : 0;
}

static int read_byte_level(struct reader *r, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "use_regex");
    int prefix, rc = read_flag(r, "pre_tokenizer", v, "add_prefix_space", &prefix);
    struct pre_step *s;
    struct err why;
    if (rc == 0 && pattern)
        rc = read_flag(r, "pre_tokenizer", v, "use_regex", &(int){0});
    if (rc == 0 && prefix) {
        if (!(s = add_step(r, PRE_SPACE)))
            return r->e->code;
        s->prefix = PRE_ALWAYS;
        strcpy(s->space, " ");
    }
    if (rc == 0 && !json_is_false(pattern)) {
        if (!(s = add_step(r, PRE_PATTERN)))
            return r->e->code;
        rc = pattern_new(&s->pattern, byte_level_pattern, &why);
    }
    r->is_byte_level = 1;
    return rc;
}

/* Is the first character that the normalizer leaves made of the text's first one? */
static int keeps_beginning(const struct normalizer *t)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->steps[i].kind != NORMALIZER_FORM && t->steps[i].kind != NORMALIZER_LOWERCASE)
            return 0;
    return 1;
}

static int read_scheme(const struct reader *r, const json_t *v, enum pre_prefix *prefix)
{
    static const char *const names[] = {"never", "first", "always"};
    const json_t *scheme = json_object_get(v, "prepend_scheme");
    const json_t *old = json_object_get(v, "add_prefix_space");
    *prefix = PRE_ALWAYS;
    for (size_t i = 0; scheme && i < 3; i++)
        if (strcmp(reader_text(scheme), names[i]) == 0) {
            *prefix = (enum pre_prefix)i;
            scheme = NULL;
        }
    if (scheme)
        return reader_wrong(r,
            "pre_tokenizer: Metaspace.prepend_scheme: expected always, first or never, found %.80s",
            reader_text(scheme));
    if (json_is_false(old) && *prefix != PRE_NEVER)
        return reader_wrong(r,
            "pre_tokenizer: Metaspace.add_prefix_space: expected what prepend_scheme says, found "
            "false");
    if (*prefix == PRE_FIRST && (r->t->pre.n > 0 || !keeps_beginning(&r->t->normalizer)))
        return reader_wrong(r,
            "pre_tokenizer: Metaspace.prepend_scheme: first is supported only with nothing before "
            "it that moves the beginning of a text");
    return 0;
}

/* Metaspace: a character for each space, perhaps one before the text, and words that begin with
 * it. */
static int read_metaspace(struct reader *r, const json_t *v)
{
    const char *space = json_string_value(json_object_get(v, "replacement"));
    const json_t *cuts = json_object_get(v, "split");
    enum pre_prefix prefix;
    struct pre_step *s;
    struct err why;
    unsigned bytes = 0;
    if (space && *space)
        unicode_decode((const uint8_t *)space, &bytes);
    if (bytes == 0 || strlen(space) != bytes)
        return reader_wrong(r, "pre_tokenizer: Metaspace.replacement: expected one character");
    if (cuts && !json_is_boolean(cuts) && !json_is_null(cuts))
        return reader_wrong(r, "pre_tokenizer: Metaspace.split: expected true or false");
    int rc = read_scheme(r, v, &prefix);
    if (rc != 0 || !(s = add_step(r, PRE_SPACE)))
        return r->e->code;
    s->prefix = prefix;
    strcpy(s->space, space);
    if (json_is_false(cuts))
        return 0;
    if (!(s = add_step(r, PRE_PATTERN)))
        return r->e->code;
    s->behavior = PRE_WITH_NEXT;
    return pattern_new_text(&s->pattern, space, &why);
}

static int read_step(struct reader *r, const json_t *v, int depth)
{
    json_t *item;
    size_t k;
    int rc = 0;
    if (r->is_byte_level)
        return reader_wrong(
            r, "pre_tokenizer: expected nothing behind ByteLevel, found %.80s", reader_type(v));
    if (reader_is_type(v, "Split"))
        return read_split(r, v);
    if (reader_is_type(v, "Digits"))
        return read_digits(r, v);
    if (reader_is_type(v, "Punctuation"))
        return read_punctuation(r, v);
    if (reader_is_type(v, "ByteLevel"))
        return read_byte_level(r, v);
    if (reader_is_type(v, "Metaspace"))
        return read_metaspace(r, v);
    if (!reader_is_type(v, "Sequence") || depth > 2)
        return reader_wrong(r,
            "pre_tokenizer: expected Split, Digits, Punctuation, ByteLevel, Metaspace, a Sequence "
            "of them or none, found %.80s",
            reader_type(v));
    json_array_foreach(json_object_get(v, "pretokenizers"), k, item)
    {
        if ((rc = read_step(r, item, depth + 1)) != 0)
            return rc;
    }
    return 0;
}

int reader_pre_tokenizer(struct reader *r, const json_t *v)
{
    return !v || json_is_null(v) ? 0 : read_step(r, v, 0);
}

/* ---- post-processor ---- */

/* What one processor puts around a text. */
struct frame {
    struct id_list before, behind;
};

static int read_special(
    struct reader *r, const json_t *processor, const char *name, struct id_list *l)
{
    const json_t *known = json_object_get(json_object_get(processor, "special_tokens"), name);
    json_t *id;
    size_t k;
    if (json_array_size(json_object_get(known, "ids")) == 0)
        return reader_wrong(r, "post_processor: special_tokens: expected the ids of '%.80s'", name);
    json_array_foreach(json_object_get(known, "ids"), k, id)
    {
        int rc = reader_id(r, "post_processor: special_tokens", id);
        if (rc != 0)
            return rc;
        id_list_add(l, (int32_t)json_integer_value(id));
    }
    return 0;
}

static int read_template(struct reader *r, const json_t *processor, struct frame *f)
{
    json_t *item;
    size_t k;
    int behind = 0, rc = 0;
    r->has_template = 1;
    json_array_foreach(json_object_get(processor, "single"), k, item)
    {
        const json_t *text = json_object_get(item, "Sequence");
        const char *name =
            reader_text(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        if (!text)
            rc = read_special(r, processor, name, behind ? &f->behind : &f->before);
        else if (behind++ || strcmp(reader_text(json_object_get(text, "id")), "A") != 0)
            rc = reader_wrong(
                r, "post_processor: expected one Sequence in single, A, found another");
        if (rc != 0)
            return rc;
    }
    return behind ? 0
                  : reader_wrong(r, "post_processor: expected a Sequence in single, found none");
}

/* RobertaProcessing and BertProcessing: [text, id] of the token before and of the one behind. */
static int read_pair(struct reader *r, const json_t *v, struct frame *f)
{
    const json_t *first = json_array_get(json_object_get(v, "cls"), 1);
    const json_t *last = json_array_get(json_object_get(v, "sep"), 1);
    int rc = reader_id(r, "post_processor: cls", first);
    if (rc == 0)
        rc = reader_id(r, "post_processor: sep", last);
    if (rc == 0 && r->t->behind.len > 0)
        rc = reader_wrong(r, "post_processor: expected one %.80s, found two", reader_type(v));
    if (rc != 0)
        return rc;
    id_list_add(&f->before, (int32_t)json_integer_value(first));
    id_list_add(&f->behind, (int32_t)json_integer_value(last));
    return 0;
}

/* Puts the frame around what the processors before it put around the text. */
static void add_frame(struct tokenizer *t, struct frame *f)
{
    for (size_t i = 0; i < t->before.len; i++)
        id_list_add(&f->before, t->before.at[i]);
    free(t->before.at);
    t->before = f->before;
    for (size_t i = 0; i < f->behind.len; i++)
        id_list_add(&t->behind, f->behind.at[i]);
    free(f->behind.at);
}

static int read_frame(struct reader *r, const json_t *v)
{
    struct frame f = {0};
    int rc;
    if (r->has_template)
        return reader_wrong(r,
            "post_processor: expected nothing but ByteLevel behind TemplateProcessing, found %.80s",
            reader_type(v));
    if (reader_is_type(v, "TemplateProcessing"))
        rc = read_template(r, v, &f);
    else
        rc = read_pair(r, v, &f);
    add_frame(r->t, &f);
    return rc;
}

static int read_processor(struct reader *r, const json_t *v, int depth)
{
    json_t *item;
    size_t k;
    int rc = 0;
    if (reader_is_type(v, "ByteLevel"))
        return 0;
    if (reader_is_type(v, "TemplateProcessing") || reader_is_type(v, "RobertaProcessing") ||
        reader_is_type(v, "BertProcessing"))
        return read_frame(r, v);
    if (!reader_is_type(v, "Sequence") || depth > 2)
        return reader_wrong(r,
            "post_processor: expected ByteLevel, TemplateProcessing, RobertaProcessing, "
            "BertProcessing, a Sequence of them or none, found %.80s",
            reader_type(v));
    json_array_foreach(json_object_get(v, "processors"), k, item)
    {
        if ((rc = read_processor(r, item, depth + 1)) != 0)
            return rc;
    }
    return 0;
}

int reader_post_processor(struct reader *r, const json_t *v)
{
    return !v || json_is_null(v) ? 0 : read_processor(r, v, 0);
}
