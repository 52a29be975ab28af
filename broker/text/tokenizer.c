/* tokenizer.c - see tokenizer.h. tokenizer_json.c reads the file. */
#include "broker/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/buffer.h"
#include "broker/text/side_files.h"
#include "broker/text/split.h"
#include "broker/text/tokenizer_private.h"
#include "broker/text/unicode.h"
#include "schema/alloc.h"
#include "schema/json.h"
#include "schema/model_path.h"
#include "schema/log.h"
#include "schema/regular.h"
#include "schema/utf8.h"

#define FILE_MAX_BYTES (256u << 20)

struct encoder {
    const struct tokenizer *tokenizer;
    struct bpe_encoder *bpe;
    struct pre_cutter *cutter;
    struct normalized normalized;
    struct id_list ids;
    struct err failed; /* what kept the current text from its ids; code 0: nothing */
};

int tokenizer_new(struct tokenizer **out, const json_t *root, struct err *e)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->classes = unicode_classes();
    t->special = (struct special_ids){-1, -1, -1};
    t->truncation.max_length = UINT32_MAX;
    int rc = tokenizer_read(t, root, e);
    if (rc != 0)
        tokenizer_free(&t);
    *out = t;
    return rc;
}

int tokenizer_is_there(const char *dir, struct err *e)
{
    if (regular_is_in(dir, "tokenizer.json"))
        return 0;
    if (!regular_is_in(dir, "tokenizer.model"))
        return err_set(e, ASSAY_EFORMAT, "the checkpoint has no tokenizer.json; send ids");
    return err_set(e, ASSAY_EFORMAT,
        "the checkpoint has a tokenizer.model and no tokenizer.json; send ids, or make the file "
        "with "
        "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
}

int tokenizer_load_beside(
    struct tokenizer **out, const char *dir, const struct tokenizer *base, struct err *e)
{
    struct err why = {0};
    struct side_facts facts = {.texts = NULL};
    json_t *root = model_path_check(dir, &why) == 0 && (!regular_is_in(dir, "tokenizer.model") ||
                                                           tokenizer_is_there(dir, &why) == 0)
                       ? json_read_file(dir, "tokenizer.json", FILE_MAX_BYTES, &why)
                       : NULL;
    *out = NULL;
    if (root && side_files_apply(root, dir, base ? base->model : NULL, &facts, &why) == 0 &&
        tokenizer_new(out, root, &why) == 0) {
        (*out)->special = facts.ids;
        (*out)->truncation = facts.truncation;
        (*out)->texts = json_incref(facts.texts);
        (*out)->model = json_incref(facts.model);
        why.code = 0;
    }
    json_decref(root);
    json_decref(facts.texts);
    json_decref(facts.model);
    if (e && why.code != 0)
        *e = why;
    return why.code;
}

int tokenizer_load(struct tokenizer **t, const char *dir, struct err *e)
{
    return tokenizer_load_beside(t, dir, NULL, e);
}

void tokenizer_free(struct tokenizer **out)
{
    struct tokenizer *t = *out;
    if (!t)
        return;
    json_decref(t->texts);
    json_decref(t->model);
    json_decref(t->normalizer_json);
    json_decref(t->pre_json);
    free(t->pieces);
    free(t->piece_bytes);
    free(t->classes);
    free(t->before.at);
    free(t->behind.at);
    added_set_release(&t->added);
    added_set_release(&t->added_normalized);
    bpe_free(&t->bpe);
    normalizer_release(&t->normalizer);
    pre_tokenizer_release(&t->pre);
    free(t);
    *out = NULL;
}

uint32_t tokenizer_n_ids(const struct tokenizer *t)
{
    return t->n_ids;
}

const json_t *tokenizer_texts(const struct tokenizer *t)
{
    return t->texts;
}

const struct special_ids *tokenizer_special(const struct tokenizer *t)
{
    return &t->special;
}

const struct side_truncation *tokenizer_truncation(const struct tokenizer *t)
{
    return &t->truncation;
}

void tokenizer_frame(const struct tokenizer *t, uint32_t *before, uint32_t *behind)
{
    *before = (uint32_t)t->before.len;
    *behind = (uint32_t)t->behind.len;
}

struct slice tokenizer_piece(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n_ids ? t->pieces[id] : (struct slice){0};
}

int32_t tokenizer_find_added(const struct tokenizer *t, const char *content)
{
    const struct added_set *const sets[] = {&t->added, &t->added_normalized};
    size_t len = strlen(content);
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < sets[k]->n; i++) {
            const struct added_token *token = &sets[k]->tokens[i];
            if (token->len == len && memcmp(token->content, content, len) == 0)
                return token->id;
        }
    return -1;
}

struct encoder *encoder_new(const struct tokenizer *t)
{
    struct encoder *n = xcalloc(1, sizeof *n);
    n->tokenizer = t;
    n->bpe = bpe_encoder_new(t->bpe);
    n->cutter = pre_cutter_new(&t->pre, t->classes);
    return n;
}

void encoder_free(struct encoder **out)
{
    struct encoder *n = *out;
    if (!n)
        return;
    bpe_encoder_free(&n->bpe);
    pre_cutter_free(&n->cutter);
    normalized_release(&n->normalized);
    free(n->ids.at);
    free(n);
    *out = NULL;
}

const struct id_list *encoder_ids(const struct encoder *n)
{
    return &n->ids;
}

void encoder_clear(struct encoder *n)
{
    n->ids.len = 0;
}

void encoder_add(struct encoder *n, int32_t id)
{
    id_list_add(&n->ids, id);
}

static void add_all(struct encoder *n, const struct id_list *ids)
{
    for (size_t i = 0; i < ids->len; i++)
        id_list_add(&n->ids, ids->at[i]);
}

void encoder_begin(struct encoder *n)
{
    add_all(n, &n->tokenizer->before);
}

void encoder_end(struct encoder *n)
{
    add_all(n, &n->tokenizer->behind);
}

/* ---- encoding ---- */

/* The one step that most tokenizers have takes no detour. */
static void encode_scanned(struct encoder *n, const uint8_t *text, size_t len)
{
    const struct tokenizer *t = n->tokenizer;
    int digits = t->pre.steps[0].digits;
    for (size_t word; len > 0; text += word, len -= word) {
        word = split_word(t->classes, digits, text, len);
        bpe_encode(n->bpe, text, word, &n->ids);
    }
}

static void take_word(void *encoder, const uint8_t *word, size_t len)
{
    struct encoder *n = encoder;
    bpe_encode(n->bpe, word, len, &n->ids);
}

/* is_first: the text begins here. */
static void encode_words(struct encoder *n, const uint8_t *text, size_t len, int is_first)
{
    const struct pre_tokenizer *pre = &n->tokenizer->pre;
    if (len == 0 || n->failed.code != 0)
        return;
    if (pre->n == 1 && pre->steps[0].kind == PRE_SCAN)
        encode_scanned(n, text, len);
    else
        pre_cut(n->cutter, (struct slice){text, len}, is_first, take_word, n, &n->failed);
}

typedef void encode_piece(struct encoder *n, const struct added_search *s, struct span piece);

/* Cuts the added tokens of s->set out of s->text, and passes the pieces between them to
 * `encode`. */
static void cut_added(struct encoder *n, const struct added_search *s, encode_piece *encode)
{
    struct added_cut cut;
    size_t done = 0, from = 0;
    while (added_find(s, from, done, &cut)) {
        from = cut.next;
        if (cut.span.begin >= cut.span.end)
            continue; /* white space that the previous token took already */
        if (cut.span.begin > done)
            encode(n, s, (struct span){done, cut.span.begin});
        id_list_add(&n->ids, cut.token->id);
        done = cut.span.end;
    }
    if (done < s->len)
        encode(n, s, (struct span){done, s->len});
}

static void encode_normalized(struct encoder *n, const struct added_search *s, struct span piece)
{
    encode_words(
        n, s->text + piece.begin, piece.end - piece.begin, s->is_first && piece.begin == 0);
}

static void encode_raw(struct encoder *n, const struct added_search *s, struct span piece)
{
    const struct tokenizer *t = n->tokenizer;
    struct slice text = {s->text + piece.begin, piece.end - piece.begin};
    if (n->failed.code == 0)
        normalizer_apply(&t->normalizer, t->classes, &n->normalized, &text, &n->failed);
    struct added_search inner = {
        &t->added_normalized, t->classes, text.at, text.len, NULL, 0, piece.begin == 0};
    /* Normalizing moves bytes, so the closed spans no longer fit: with any of them, no token is
     * found here. */
    if (inner.set->n == 0 || s->n_closed > 0)
        encode_words(n, inner.text, inner.len, inner.is_first);
    else
        cut_added(n, &inner, encode_normalized);
}

int encoder_text(
    struct encoder *n, struct slice text, const struct span *closed, size_t n_closed, struct err *e)
{
    const struct tokenizer *t = n->tokenizer;
    struct added_search s = {&t->added, t->classes, text.at, text.len, closed, n_closed, 1};
    size_t valid = utf8_valid(text.at, text.len);
    if (valid < text.len)
        return err_set(
            e, ASSAY_EBADTEXT, "byte %zu: expected UTF-8, found 0x%02x", valid, text.at[valid]);
    n->failed.code = 0;
    bpe_avoid_controls(n->bpe, n_closed > 0);
    cut_added(n, &s, encode_raw);
    if (n->failed.code != 0 && e)
        *e = n->failed;
    return n->failed.code;
}

int tokenizer_is_of_characters(const struct tokenizer *t)
{
    return bpe_is_of_characters(t->bpe);
}
