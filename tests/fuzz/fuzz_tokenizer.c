/* fuzz_tokenizer.c - any bytes as a tokenizer.json, and any bytes as text.
 *
 * An input is one byte and what follows it:
 *     'j'  a tokenizer.json: refused with words, or taken and used
 *     else a text for a small tokenizer: refused if it is not UTF-8; else its tokens, end to end,
 *          are its normal form, with control tokens or (by the byte's lowest bit) without */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/normal_form.h"
#include "broker/text/unicode.h"
#include "schema/utf8.h"
#include "tests/unit/tiny_tokenizer.h"

static const char sample[] =
    "abc <|im_end|>'s naïve e\u0301 \u0939\u093f 12345\n\n  x\u1112\u1161 <extra_0>";

/* The bytes of all tokens. */
static struct buffer spelled(const struct tokenizer *t, const struct id_list *ids)
{
    struct buffer out = {0};
    for (size_t i = 0; i < ids->len; i++) {
        struct slice piece = tokenizer_piece(t, ids->at[i]);
        assert(piece.at && piece.len > 0);
        buffer_append(&out, piece.at, piece.len);
    }
    return out;
}

static void use_text(const uint8_t *bytes, size_t len, int closed)
{
    struct encoder *n = encoder_new(tiny_tokenizer());
    struct span all = {0, len};
    struct err e = {0};
    uint8_t *classes = unicode_classes();
    int rc = encoder_text(n, (struct slice){bytes, len}, &all, (size_t)closed, &e);
    assert((rc == 0) == (utf8_valid(bytes, len) == len));
    if (rc == 0 && closed) { /* added tokens cut the text, and normalizing goes piece by piece */
        struct buffer spelling = spelled(tiny_tokenizer(), encoder_ids(n)), normal = {0};
        normal_form_append(&normal, NORMAL_NFC, classes, bytes, len);
        assert(spelling.len == normal.len);
        assert(normal.len == 0 || memcmp(spelling.at, normal.at, normal.len) == 0);
        buffer_release(&spelling);
        buffer_release(&normal);
    } else {
        assert(rc == 0 || (rc == ASSAY_EBADTEXT && e.msg[0]));
    }
    free(classes);
    encoder_free(&n);
}

static void use_json(const uint8_t *bytes, size_t len)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    json_t *root = json_loadb((const char *)bytes, len, JSON_REJECT_DUPLICATES, NULL);
    if (!root)
        return;
    int rc = tokenizer_new(&t, root, &e);
    assert((rc == 0) == (t != NULL));
    assert(rc == 0 || e.msg[0]);
    if (t) {
        struct encoder *n = encoder_new(t);
        encoder_begin(n);
        rc = encoder_text(n, (struct slice){(const uint8_t *)sample, strlen(sample)}, NULL, 0, &e);
        assert(rc == 0 || rc == ASSAY_EBADTEXT); /* a pattern without end */
        struct buffer spelling = spelled(t, encoder_ids(n));
        buffer_release(&spelling);
        encoder_free(&n);
    }
    tokenizer_free(&t);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return 0;
    if (bytes[0] == 'j')
        use_json(bytes + 1, len - 1);
    else
        use_text(bytes + 1, len - 1, bytes[0] & 1);
    return 0;
}

/* Every kind of step before ByteLevel. */
static void set_steps(json_t *root)
{
    json_t *pre = json_object_get(root, "pre_tokenizer");
    json_t *list = json_object_get(pre, "pretokenizers");
    json_array_insert_new(list, 0,
        json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
            "(?i:'s|ab?)|[\\w&&[^a\\x{300}-\\u0370]]+?(?=\\P{L}|$)|\\p{N}{1,3}+", "behavior",
            "MergedWithNext", "invert", 0));
    json_array_insert_new(list, 1,
        json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "String", "e.",
            "behavior", "Removed", "invert", 1));
    json_array_insert_new(
        list, 1, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 0));
    json_array_insert_new(
        list, 1, json_pack("{s:s, s:s}", "type", "Punctuation", "behavior", "Contiguous"));
    json_t *bytes = json_array_get(list, json_array_size(list) - 1);
    json_object_set_new(bytes, "use_regex", json_true());
    json_object_set_new(bytes, "add_prefix_space", json_true());
}

/* Words that start as characters, with all that may come before and behind. */
static void set_characters(json_t *root)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    json_object_set_new(vocab, "<0xC3>", json_integer(400));
    json_object_set_new(vocab, "\u2581", json_integer(401));
    json_object_set_new(vocab, "\u2581a", json_integer(402));
    json_array_append_new(json_object_get(model, "merges"), json_string("\u2581 a"));
    json_object_update_new(
        model, json_pack("{s:b, s:b, s:s}", "byte_fallback", 1, "fuse_unk", 0, "unk_token", "a"));
    json_object_set_new(root, "normalizer",
        json_pack("{s:s, s:[{s:s}, {s:s, s:b, s:b}, {s:s, s:s}, {s:s, s:{s:s}, s:s}]}", "type",
            "Sequence", "normalizers", "type", "NFC", "type", "Strip", "strip_left", 1,
            "strip_right", 1, "type", "Prepend", "prepend", " ", "type", "Replace", "pattern",
            "Regex", "e+|\\s", "content", "\u2581"));
    json_object_set_new(root, "pre_tokenizer",
        json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "\u2581",
            "prepend_scheme", "always", "split", 1));
    json_object_set_new(root, "post_processor",
        json_pack("{s:s, s:[s, i], s:[s, i]}", "type", "RobertaProcessing", "cls", "a", 97, "sep",
            "b", 98));
    json_object_set_new(
        json_array_get(json_object_get(root, "added_tokens"), 0), "normalized", json_true());
}

/* Every kind of change to a character, and tokens that are looked for behind it. */
static void set_changes(json_t *root)
{
    json_object_set_new(root, "normalizer",
        json_pack("{s:s, s:[{s:s}, {s:s}, {s:s}, {s:s}, {s:s}, {s:s}]}", "type", "Sequence",
            "normalizers", "type", "NFD", "type", "Lowercase", "type", "NFKC", "type",
            "StripAccents", "type", "NFKD", "type", "NFC"));
    json_array_append_new(json_object_get(root, "added_tokens"),
        json_pack("{s:i, s:s, s:b}", "id", 405, "content", "X\u1112\u0301", "normalized", 1));
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    if (n > 7)
        return 0;
    if (n < 3) {
        msgpack_sbuffer_write(&w->buffer, n == 0 ? "a" : "b", 1);
        msgpack_sbuffer_write(&w->buffer, sample, strlen(sample));
        return 1;
    }
    json_t *root = tiny_json();
    if (n == 4)
        json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_true());
    if (n == 5)
        set_steps(root);
    if (n == 6)
        set_characters(root);
    if (n == 7)
        set_changes(root);
    char *text = json_dumps(root, JSON_COMPACT);
    msgpack_sbuffer_write(&w->buffer, "j", 1);
    msgpack_sbuffer_write(&w->buffer, text, strlen(text));
    free(text);
    json_decref(root);
    return 1;
}
