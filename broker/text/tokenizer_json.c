/* tokenizer_json.c - reads a tokenizer.json (tokenizer.h). The file is untrusted: every field is
 * checked, and anything unknown that would change the ids is refused by name. */
#include "broker/text/tokenizer_reader.h"

#include <stdlib.h>
#include <string.h>

#include "broker/text/buffer.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* ---- vocabulary ---- */

/* Makes the byte-level alphabet: printable Latin-1 characters stand for themselves, and the
 * characters from U+0100 on for the other bytes in order. */
static void make_alphabet(int16_t *byte_of)
{
    int next = 0x100;
    memset(byte_of, 0xff, READER_BYTE_CHARACTERS * sizeof *byte_of);
    for (int byte = 0; byte < 256; byte++) {
        int printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        byte_of[printable ? byte : next++] = (int16_t)byte;
    }
}

/* Converts characters to bytes. Returns the length, or 0 if a character stands for no byte. */
static size_t to_bytes(const struct reader *r, const char *text, uint8_t *out)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 0;
    while (*p) {
        int code = *p++;
        if (code >= 0xc2 && code < 0xc6)
            code = (code & 0x1f) << 6 | (*p++ & 0x3f);
        else if (code >= 0x80)
            return 0;
        if (code >= READER_BYTE_CHARACTERS || r->byte_of[code] < 0)
            return 0;
        out[n++] = (uint8_t)r->byte_of[code];
    }
    return n;
}

static struct slice *new_piece(struct reader *r, int32_t id, const void *bytes, size_t len)
{
    struct slice *piece = &r->t->pieces[id];
    uint8_t *at = r->t->piece_bytes + r->piece_bytes_used;
    memcpy(at, bytes, len);
    r->piece_bytes_used += len;
    *piece = (struct slice){at, len};
    return piece;
}

/* Allocates room for every id and byte that the file may name. */
static int make_room(struct reader *r, const json_t *added)
{
    const char *key;
    json_t *v;
    size_t k, bytes = 1;
    json_int_t last = -1;
    int rc = 0;
    json_object_foreach((json_t *)r->vocab, key, v)
    {
        if ((rc = reader_id(r, key, v)) != 0)
            return rc;
        last = json_integer_value(v) > last ? json_integer_value(v) : last;
        bytes += strlen(key);
    }
    json_array_foreach(added, k, v)
    {
        const json_t *id = json_object_get(v, "id");
        if ((rc = reader_id(r, "added_tokens: id", id)) != 0)
            return rc;
        last = json_integer_value(id) > last ? json_integer_value(id) : last;
        bytes += json_string_length(json_object_get(v, "content"));
    }
    r->t->n_ids = (uint32_t)(last + 1);
    r->t->pieces = xcalloc(r->t->n_ids + 1ul, sizeof *r->t->pieces);
    r->t->piece_bytes = xcalloc(bytes, 1);
    return 0;
}

/* Collects the tokens made of bytes in `tokens`; any other can only be an added token. */
static int read_vocab(struct reader *r, struct bpe_token *tokens, uint32_t *n)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)r->vocab, key, v)
    {
        int32_t id = (int32_t)json_integer_value(v);
        size_t len = strlen(key);
        uint8_t *bytes = xcalloc(len + 1, 1);
        size_t n_bytes = r->is_byte_level ? to_bytes(r, key, bytes) : 0;
        if (r->t->pieces[id].at) {
            free(bytes);
            return reader_wrong(
                r, "model.vocab: id %d is given to '%.80s' and to another token", id, key);
        }
        struct slice *piece =
            n_bytes > 0 ? new_piece(r, id, bytes, n_bytes) : new_piece(r, id, key, len);
        if (n_bytes > 0 || (!r->is_byte_level && len > 0))
            tokens[(*n)++] =
                (struct bpe_token){*piece, id, json_object_get(r->controls, key) != NULL};
        free(bytes);
    }
    return 0;
}

/* ---- merges ---- */

static int find_id(const struct reader *r, size_t rank, const char *token, int32_t *id)
{
    const json_t *v = json_object_get(r->vocab, token);
    if (!v)
        return reader_wrong(
            r, "model.merges[%zu]: expected tokens of model.vocab, found '%.80s'", rank, token);
    *id = (int32_t)json_integer_value(v);
    return 0;
}

static int add_merge(
    struct reader *r, size_t rank, const char *left, const char *right, struct bpe_merge *m)
{
    struct buffer whole = {0};
    buffer_text(&whole, left);
    buffer_append(&whole, right, strlen(right) + 1);
    int rc = find_id(r, rank, left, &m->left);
    if (rc == 0)
        rc = find_id(r, rank, right, &m->right);
    if (rc == 0)
        rc = find_id(r, rank, (const char *)whole.at, &m->whole);
    buffer_release(&whole);
    return rc;
}

/* Parses "left right". */
static int read_merge_string(struct reader *r, size_t rank, const char *text, struct bpe_merge *m)
{
    const char *space = strchr(text, ' ');
    if (!space || space == text || !space[1] || strchr(space + 1, ' '))
        return reader_wrong(r,
            "model.merges[%zu]: expected two tokens and a space between, found '%.80s'", rank,
            text);
    char *left = strndup(text, (size_t)(space - text));
    int rc = left ? add_merge(r, rank, left, space + 1, m)
                  : err_set(r->e, ASSAY_ENOMEM, "out of memory");
    free(left);
    return rc;
}

static int read_merge(struct reader *r, size_t rank, const json_t *v, struct bpe_merge *m)
{
    if (json_is_string(v))
        return read_merge_string(r, rank, json_string_value(v), m);
    const char *left = json_string_value(json_array_get(v, 0));
    const char *right = json_string_value(json_array_get(v, 1));
    if (json_array_size(v) != 2 || !left || !right || !*left || !*right)
        return reader_wrong(r, "model.merges[%zu]: expected a string or a pair of strings", rank);
    return add_merge(r, rank, left, right, m);
}

/* ---- model ---- */

static int check_model(const struct reader *r, const json_t *model)
{
    /* Old files have no type, and no other type of model has both a vocabulary object and
     * merges. */
    if (!json_is_object(model) || (json_object_get(model, "type") && !reader_is_type(model, "BPE")))
        return reader_wrong(r, "model.type: expected BPE, found %.80s", reader_type(model));
    const json_t *dropout = json_object_get(model, "dropout");
    if (!reader_is_off(model, "dropout") &&
        !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return reader_wrong(r, "model.dropout: expected none or 0, found another");
    static const char *const empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++)
        if (!reader_is_empty(model, empty[i]))
            return reader_wrong(r, "model.%s: expected none, found '%.80s'", empty[i],
                reader_text(json_object_get(model, empty[i])));
    if (!json_is_object(json_object_get(model, "vocab")))
        return reader_wrong(r, "model.vocab: expected an object of tokens and ids");
    if (!json_is_array(json_object_get(model, "merges")))
        return reader_wrong(r, "model.merges: expected an array");
    return 0;
}

/* Where words start as bytes no byte is unknown, so that this token is never used. */
static int read_unknown(const struct reader *r, const json_t *model, int32_t *id)
{
    const json_t *name = json_object_get(model, "unk_token"), *known;
    if (r->is_byte_level || !name || json_is_null(name))
        return 0;
    known = json_object_get(r->vocab, reader_text(name));
    if (!json_is_string(name) || !known)
        return reader_wrong(r, "model.unk_token: expected a token of model.vocab, found '%.80s'",
            reader_text(name));
    *id = (int32_t)json_integer_value(known);
    return 0;
}

static int read_model(struct reader *r, const json_t *model)
{
    const json_t *merges = json_object_get(model, "merges");
    uint32_t n_tokens = 0, n_merges = (uint32_t)json_array_size(merges);
    struct bpe_token *tokens = xcalloc(json_object_size(r->vocab) + 1, sizeof *tokens);
    struct bpe_merge *list = xcalloc(n_merges + 1ul, sizeof *list);
    int rc = read_vocab(r, tokens, &n_tokens);
    for (uint32_t i = 0; rc == 0 && i < n_merges; i++)
        rc = read_merge(r, i, json_array_get(merges, i), &list[i]);
    struct bpe_options o = {tokens, n_tokens, list, n_merges,
        !reader_is_off(model, "ignore_merges"), !r->is_byte_level,
        !reader_is_off(model, "byte_fallback"), !reader_is_off(model, "fuse_unk"), -1};
    if (rc == 0)
        rc = read_unknown(r, model, &o.unk);
    struct err why = {0};
    if (rc == 0 && bpe_new(&r->t->bpe, &o, &why) != 0)
        rc = reader_wrong(r, "model.vocab: %s", why.msg);
    free(tokens);
    free(list);
    return rc;
}

/* ---- added tokens ---- */

static int check_added(const struct reader *r, const json_t *v, size_t k)
{
    const char *content = json_string_value(json_object_get(v, "content"));
    if (!content || !*content)
        return reader_wrong(r, "added_tokens[%zu].content: expected a string", k);
    json_int_t id = json_integer_value(json_object_get(v, "id"));
    const json_t *same = json_object_get(r->vocab, content);
    if (same && json_integer_value(same) != id)
        return reader_wrong(r, "added_tokens[%zu] '%.80s': id %lld, but model.vocab gives it %lld",
            k, content, (long long)id, (long long)json_integer_value(same));
    if (!same && r->t->pieces[id].at)
        return reader_wrong(
            r, "added_tokens[%zu] '%.80s': id %lld is another token's", k, content, (long long)id);
    return 0;
}

/* Where a text's first character becomes several, a token may end between them, and the reference
 * takes what follows it for the beginning of the text too. */
static int check_beginning(const struct reader *r, const char *content, uint32_t k)
{
    const struct pre_tokenizer *pre = &r->t->pre;
    for (unsigned i = 0; r->t->normalizer.n > 0 && i < pre->n; i++)
        if (pre->steps[i].kind == PRE_SPACE && pre->steps[i].prefix == PRE_FIRST)
            return reader_wrong(r,
                "added_tokens[%u] '%.80s': normalized is supported only without a normalizer where "
                "Metaspace.prepend_scheme is first",
                k, content);
    return 0;
}

/* A token marked `normalized` is searched in normalized text, so it is normalized too. */
static int add_token(struct reader *r, const json_t *v, uint32_t k)
{
    const json_t *content = json_object_get(v, "content");
    int is_normalized = !reader_is_off(v, "normalized");
    struct slice text = {(const uint8_t *)json_string_value(content), json_string_length(content)};
    struct normalized changed = {0};
    struct slice own = text;
    int rc = is_normalized
                 ? normalizer_apply(&r->t->normalizer, r->t->classes, &changed, &own, r->e)
                 : 0;
    struct added_token t = {.content = (uint8_t *)(uintptr_t)own.at,
        .len = own.len,
        .id = (int32_t)json_integer_value(json_object_get(v, "id")),
        .lstrip = !reader_is_off(v, "lstrip"),
        .rstrip = !reader_is_off(v, "rstrip"),
        .single_word = !reader_is_off(v, "single_word"),
        /* Special tokens come first. */
        .order = k + (reader_is_off(v, "special") ? BPE_MAX_IDS : 0)};
    if (rc == 0 && is_normalized)
        rc = check_beginning(r, (const char *)text.at, k);
    if (rc == 0 && own.len == 0)
        rc = reader_wrong(r, "added_tokens[%u] '%.80s': expected a text that the normalizer leaves",
            k, (const char *)text.at);
    if (rc == 0)
        added_set_add(is_normalized ? &r->t->added_normalized : &r->t->added, &t);
    if (rc == 0 && !r->t->pieces[t.id].at)
        new_piece(r, t.id, text.at, text.len);
    normalized_release(&changed);
    return rc;
}

/* Of tokens that the normalizer makes alike the reference finds now one, now another. */
static int check_alike(const struct reader *r)
{
    const struct added_set *set = &r->t->added_normalized;
    for (size_t i = 1; i < set->n; i++) {
        const struct added_token *a = &set->tokens[i - 1], *b = &set->tokens[i];
        struct slice one = r->t->pieces[a->id], other = r->t->pieces[b->id];
        if (a->id != b->id && a->len == b->len && memcmp(a->content, b->content, a->len) == 0)
            return reader_wrong(r,
                "added_tokens: expected texts that differ behind the normalizer, found '%.*s' and "
                "'%.*s'",
                (int)(one.len < 80 ? one.len : 80), (const char *)one.at,
                (int)(other.len < 80 ? other.len : 80), (const char *)other.at);
    }
    return 0;
}

static int read_added(struct reader *r, const json_t *added)
{
    json_t *v;
    size_t k;
    int rc = 0;
    json_array_foreach(added, k, v)
    {
        if ((rc = check_added(r, v, k)) != 0)
            return rc;
        if ((rc = add_token(r, v, (uint32_t)k)) != 0)
            return rc;
    }
    added_set_sort(&r->t->added);
    added_set_sort(&r->t->added_normalized);
    return check_alike(r);
}

/* The texts of special tokens, as an object's keys. */
static json_t *find_controls(const json_t *added)
{
    json_t *v, *found = json_object();
    size_t k;
    json_array_foreach((json_t *)added, k, v)
    {
        const char *content = json_string_value(json_object_get(v, "content"));
        if (content && !reader_is_off(v, "special"))
            json_object_set_new(found, content, json_true());
    }
    return found;
}

/* Are the ids around a text tokens? */
static int check_frame(const struct reader *r, const struct id_list *ids)
{
    for (size_t i = 0; i < ids->len; i++)
        if ((uint32_t)ids->at[i] >= r->t->n_ids || !r->t->pieces[ids->at[i]].at)
            return reader_wrong(r, "post_processor: expected ids of tokens, found %d", ids->at[i]);
    return 0;
}

/* A stage's JSON, for itself to be kept; NULL: there is none. */
static json_t *keep_stage(const json_t *root, const char *name)
{
    json_t *stage = json_object_get(root, name);
    return json_is_null(stage) ? NULL : json_incref(stage);
}

int tokenizer_read(struct tokenizer *t, const json_t *root, struct err *e)
{
    struct reader r = {.t = t, .e = e};
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    r.vocab = json_object_get(model, "vocab");
    r.controls = find_controls(added);
    make_alphabet(r.byte_of);
    t->normalizer_json = keep_stage(root, "normalizer");
    t->pre_json = keep_stage(root, "pre_tokenizer");
    int rc = check_model(&r, model);
    if (rc == 0)
        rc = reader_normalizer(&r, json_object_get(root, "normalizer"));
    if (rc == 0)
        rc = reader_pre_tokenizer(&r, json_object_get(root, "pre_tokenizer"));
    if (rc == 0)
        rc = reader_post_processor(&r, json_object_get(root, "post_processor"));
    if (rc == 0)
        rc = make_room(&r, added);
    if (rc == 0)
        rc = read_model(&r, model);
    if (rc == 0)
        rc = read_added(&r, added);
    if (rc == 0)
        rc = check_frame(&r, &t->before);
    if (rc == 0)
        rc = check_frame(&r, &t->behind);
    json_decref(r.controls);
    return rc;
}
