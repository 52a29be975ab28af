/* tokenizer.h - text to token ids, as the checkpoint's tokenizer.json and the files beside it say: byte-level
 * BPE in the form of Qwen2, Qwen3 and Llama 3. Identical, token for token, to Hugging Face's tokenizers.
 *
 * The way of a text: added tokens are cut out of it; each piece between is normalized (NFC, where
 * the file says so); added tokens marked `normalized` are cut out of that; the split pattern cuts
 * words; each word is merged (bpe.h). A tokenizer.json of any other shape is refused by the name
 * of what is unknown.
 *
 * A literal <|im_end|> in the text becomes the control token, as in the reference. Where text is
 * not trusted, its spans are given as closed: no added token is found in them, and what looks
 * like one is cut as the characters that it is.
 *
 * A tokenizer is read-only once loaded and may be shared; each thread has an encoder of its own. */
#ifndef ASSAY_TOKENIZER_H
#define ASSAY_TOKENIZER_H

#include <jansson.h>

#include "broker/text/added.h"
#include "broker/text/bpe.h"
#include "schema/err.h"
#include "schema/msg.h"

struct tokenizer;

/* Reads DIR/tokenizer.json, and what the files beside it change (side_files.h). ASSAY_EFORMAT naming file, field, expected and found. */
int tokenizer_load(struct tokenizer **t, const char *dir, struct err *e);
/* The same from what such a file holds. */
int tokenizer_new(struct tokenizer **t, const json_t *root, struct err *e);
void tokenizer_free(struct tokenizer **t);
uint32_t tokenizer_n_ids(const struct tokenizer *t); /* one more than the highest id */
/* The added token of just this text, -1: none. */
int32_t tokenizer_find_added(const struct tokenizer *t, const char *content);
/* The bytes that an id stands for, borrowed; absent for an id that is no token. */
struct slice tokenizer_piece(const struct tokenizer *t, int32_t id);

struct encoder;

struct encoder *encoder_new(const struct tokenizer *t);
void encoder_free(struct encoder **n);
/* The ids so far; borrowed until the next call. */
const struct id_list *encoder_ids(const struct encoder *n);
void encoder_clear(struct encoder *n);
void encoder_add(struct encoder *n, int32_t id);
/* Appends the ids of text. ASSAY_EBADTEXT naming the byte where it is not UTF-8. closed: spans
 * (ascending, not overlapping) in which no added token is looked for. */
int encoder_text(struct encoder *n, struct slice text, const struct span *closed, size_t n_closed,
    struct err *e);
/* What the post-processor puts before and behind a text: Llama 3's <|begin_of_text|>. */
void encoder_begin(struct encoder *n);
void encoder_end(struct encoder *n);

#endif
