/* tiny_tokenizer.h - a tokenizer.json small enough to write here: the 256 bytes, a few merges,
 * control tokens. */
#ifndef ASSAY_TESTS_TINY_TOKENIZER_H
#define ASSAY_TESTS_TINY_TOKENIZER_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/text/tokenizer.h"

#define TINY_AB 256  /* "ab" */
#define TINY_ABC 257 /* "abc", of "ab" and "c" */
#define TINY_BC 258
#define TINY_START 259 /* <|im_start|> */
#define TINY_END 260   /* <|im_end|> */
#define TINY_STEP 261  /* <extra_0> */

#define TINY_PATTERN                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "                          \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The byte-level alphabet's character for a byte, as UTF-8. */
static inline const char *tiny_letter(int byte, char text[4])
{
    int code = byte, other = 0x100;
    for (int b = 0; b < 256; b++) {
        int printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        if (b == byte)
            code = printable ? b : other;
        other += !printable;
    }
    if (code < 0x80)
        snprintf(text, 4, "%c", code);
    else
        snprintf(text, 4, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 0x3f));
    return text;
}

static inline json_t *tiny_vocab(void)
{
    json_t *vocab = json_object();
    char text[4];
    for (int b = 0; b < 256; b++)
        json_object_set_new(vocab, tiny_letter(b, text), json_integer(b));
    json_object_set_new(vocab, "ab", json_integer(TINY_AB));
    json_object_set_new(vocab, "abc", json_integer(TINY_ABC));
    json_object_set_new(vocab, "bc", json_integer(TINY_BC));
    return vocab;
}

/* The whole file; the caller owns it. */
static inline json_t *tiny_json(void)
{
    return json_pack(
        "{s:s, s:[{s:i,s:s,s:b},{s:i,s:s,s:b},{s:i,s:s,s:b}], s:{s:s}, "
        "s:{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}, s:n, s:{s:s, s:o, s:[s, s, s]}}",
        "version", "1.0", "added_tokens", "id", TINY_START, "content", "<|im_start|>", "special", 1,
        "id", TINY_END, "content", "<|im_end|>", "special", 1, "id", TINY_STEP, "content",
        "<extra_0>", "special", 1, "normalizer", "type", "NFC", "pre_tokenizer", "type", "Sequence",
        "pretokenizers", "type", "Split", "pattern", "Regex", TINY_PATTERN, "behavior", "Isolated",
        "invert", 0, "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0, "post_processor",
        "model", "type", "BPE", "vocab", tiny_vocab(), "merges", "b c", "a b", "ab c");
}

/* Made once, never freed: for programs that live for their inputs. */
static inline struct tokenizer *tiny_tokenizer(void)
{
    static struct tokenizer *t;
    if (!t) {
        json_t *root = tiny_json();
        if (tokenizer_new(&t, root, NULL) != 0)
            abort();
        json_decref(root);
    }
    return t;
}

#endif
