/* tokenizer.h - turns text into token ids as the checkpoint's tokenizer.json and the files beside
 * it say: BPE over bytes (Qwen, Llama 3, GPT-2) or over characters (Llama 2, Mistral), with the
 * same ids as Hugging Face's tokenizers.
 *
 * Added tokens are cut out of the text; each piece between them is normalized (normalizer.h); added
 * tokens marked `normalized` are cut out of that; the pre-tokenizer cuts the rest into words
 * (pre_tokenizer.h); each word is merged (bpe.h). What a tokenizer.json asks for beyond this is
 * refused by name.
 *
 * A literal <|im_end|> in the text becomes the control token, as in the reference. Spans of
 * untrusted text are passed as closed: no added token is found in them, and what looks like one is
 * tokenized as ordinary characters.
 *
 * A loaded tokenizer is read-only and may be shared; each thread has its own encoder. */
#ifndef ASSAY_TOKENIZER_H
#define ASSAY_TOKENIZER_H

#include <jansson.h>

#include "broker/text/added.h"
#include "broker/text/bpe.h"
#include "broker/text/side_files.h"
#include "schema/err.h"
#include "schema/msg.h"

struct tokenizer;

/* Has DIR a tokenizer.json? ASSAY_EFORMAT with words that say what to do without it. */
int tokenizer_is_there(const char *dir, struct err *e);
/* Loads DIR/tokenizer.json, with the changes of the files beside it (side_files.h). ASSAY_EFORMAT
 * naming file, field, expected and found. */
int tokenizer_load(struct tokenizer **t, const char *dir, struct err *e);
/* The same for an adapter's directory, which has no config.json: that of the base counts. */
int tokenizer_load_beside(
    struct tokenizer **t, const char *dir, const struct tokenizer *base, struct err *e);
/* The same from the parsed contents of such a file. */
int tokenizer_new(struct tokenizer **t, const json_t *root, struct err *e);
void tokenizer_free(struct tokenizer **t);
uint32_t tokenizer_n_ids(const struct tokenizer *t); /* one more than the highest id */
/* Are its words made of characters (Llama 2, Mistral), not of bytes? */
int tokenizer_is_of_characters(const struct tokenizer *t);
/* Returns the added token with exactly this text, -1: none. */
int32_t tokenizer_find_added(const struct tokenizer *t, const char *content);
/* Returns the ids of tokens that the files beside tokenizer.json name. A text does not begin with
 * the bos token unless the post-processor writes it. */
const struct special_ids *tokenizer_special(const struct tokenizer *t);
/* Returns how transformers would cut a text that is too long, where nothing else is said. */
const struct side_truncation *tokenizer_truncation(const struct tokenizer *t);
/* Sets how many tokens the post-processor puts before and behind a text. */
void tokenizer_frame(const struct tokenizer *t, uint32_t *before, uint32_t *behind);
/* Returns the texts of the tokens that they name: an object from bos_token and the like, or
 * NULL. */
const json_t *tokenizer_texts(const struct tokenizer *t);
/* 1: the two may give a text different ids, and `what` is where b's file differs from a's first,
 * such as "merges". 0: never; what the files beside them name is not compared, nor how a normalizer
 * that is spelled otherwise works. */
int tokenizer_differs(
    const struct tokenizer *a, const struct tokenizer *b, char *what, size_t size);
/* Returns the bytes of an id, borrowed; absent if the id is no token. */
struct slice tokenizer_piece(const struct tokenizer *t, int32_t id);

struct encoder;

struct encoder *encoder_new(const struct tokenizer *t);
void encoder_free(struct encoder **n);
/* Returns the ids so far; borrowed until the next call. */
const struct id_list *encoder_ids(const struct encoder *n);
void encoder_clear(struct encoder *n);
void encoder_add(struct encoder *n, int32_t id);
/* Appends the ids of text. ASSAY_EBADTEXT naming the byte that is not UTF-8 or the limit
 * (pattern.h, normalizer.h) that the text exceeds, with some ids appended then. closed: spans
 * (ascending, not overlapping) in which no added token is recognised. */
int encoder_text(struct encoder *n, struct slice text, const struct span *closed, size_t n_closed,
    struct err *e);
/* Appends what the post-processor puts before and after a text, such as Llama 3's
 * <|begin_of_text|>. */
void encoder_begin(struct encoder *n);
void encoder_end(struct encoder *n);

#endif
