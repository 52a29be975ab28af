/* tokenizer_reader.h - the parts of reading a tokenizer.json: tokenizer_json.c reads vocabulary,
 * merges and added tokens, tokenizer_stages.c what comes before and after the model. */
#ifndef ASSAY_TOKENIZER_READER_H
#define ASSAY_TOKENIZER_READER_H

#include "broker/text/tokenizer_private.h"

#define READER_BYTE_CHARACTERS 0x144 /* the byte-level alphabet ends below this code point */

struct reader {
    struct tokenizer *t;
    const json_t *vocab;
    json_t *controls;                        /* the texts of special tokens, as keys */
    int16_t byte_of[READER_BYTE_CHARACTERS]; /* from character to byte, -1: none */
    size_t piece_bytes_used;
    int is_byte_level; /* the pre-tokenizer ends in ByteLevel */
    int has_template;  /* the post-processor has a TemplateProcessing */
    struct err *e;
};

/* Fills r->e with "tokenizer.json: " and the text; returns ASSAY_EFORMAT. */
int reader_wrong(const struct reader *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The text of a string, or words that stand for a missing one. */
const char *reader_text(const json_t *v);
const char *reader_type(const json_t *object); /* the text of its `type` */
int reader_is_type(const json_t *object, const char *type);
int reader_is_off(const json_t *object, const char *key);   /* is it absent, null or false? */
int reader_is_empty(const json_t *object, const char *key); /* is it absent, null or ""? */
int reader_id(const struct reader *r, const char *what, const json_t *id); /* is it one? */

/* v: the value in the file, NULL if absent. They fill r->t; 0 or ASSAY_EFORMAT. */
int reader_normalizer(struct reader *r, const json_t *v);
int reader_pre_tokenizer(struct reader *r, const json_t *v);
int reader_post_processor(struct reader *r, const json_t *v);

#endif
