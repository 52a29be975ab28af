/* ask.h - a request to score in JSON, as vLLM's, SGLang's and OpenAI's clients have them: its rows, and
 * how its reply is to be written. Every family of endpoints has a decoder and a writer of replies.
 *
 * This folder does no I/O and knows neither HTTP nor files, so that assay-http and `assay score`
 * share it:
 *
 *     body.c, fields.c              JSON from outside, and the fields that endpoints share
 *     ask_input.c, ask_pairs.c, ask_trainers.c   decoders, by family of endpoints
 *     rows.c        the rows, in msgpack
 *     results.c     what came of the rows
 *     answers.c     replies, by family; faults.c: errors as vLLM and OpenAI have them
 *     card.c        what is known of the broker and its models */
#ifndef ASSAY_ASK_ASK_H
#define ASSAY_ASK_ASK_H

#include <jansson.h>

#include "broker/ask/card.h"
#include "broker/ask/results.h"
#include "broker/ask/rows.h"

struct field;

struct ask {
    const struct card *card; /* borrowed */
    const char *prompt_is;   /* what ?prompt= says behind the path: NULL for nothing; borrowed */
    char id[64];             /* the reply's `id` */
    struct card_choice
        asks; /* the model that scores, perhaps with an adapter; the first of several */
    struct card_choice all[CARD_MOST_CHOSEN]; /* an ensemble's models */
    int n_all;                                /* 0: no ensemble */
    char *model;     /* its name to give back: the one that was asked with; owned */
    int64_t row_id;  /* of every row, to know it by; -1: none */
    int names_model; /* rows that are not for the first model say for which */
    struct rows rows;
    int is_base64;     /* values as base64 of float32, little-endian */
    int is_sglang;     /* SGLang's body, and so its reply */
    int is_single;     /* SGLang: one text, so the reply is one object */
    json_t *documents; /* rerank: to be given back; owned; NULL: not wanted */
    size_t top_n;      /* rerank; 0: all */
};

/* Bounds the rows by what the broker takes; the caller may bound them further. */
void ask_init(struct ask *ask, const struct card *card);
void ask_release(struct ask *ask);

typedef int ask_decoder(struct ask *ask, const json_t *body, struct err *e);

/* Chooses the model by the body's `model` (or SGLang's `lora_path`), or an ensemble by `models`, or by
 * a `model` that is names with commas between. Returns 0; ASSAY_EADAPTER for one that there is not;
 * ASSAY_EBADREQ. */
int ask_choose(struct ask *ask, const json_t *body, struct err *e);
/* Chooses it, then reads the body by its decoder, and returns as both. */
int ask_decode(struct ask *ask, ask_decoder *decoder, const json_t *body, struct err *e);

/* Each reads a body, once the model is chosen, and appends the rows that it asks for, at least one.
 * Returns 0; ASSAY_EBADREQ with the field's name; ASSAY_ETOOLARGE for too many rows. */
ask_decoder ask_classify;   /* /classify: vLLM's body or SGLang's, by its keys */
ask_decoder ask_embeddings; /* /v1/embeddings */
ask_decoder ask_pooling;    /* /pooling */
ask_decoder ask_score;      /* /score */
ask_decoder ask_rerank;     /* /rerank */
ask_decoder ask_get_reward; /* /get_reward: OpenRLHF's */
ask_decoder ask_rm;         /* /rm: slime's */

/* Is it SGLang's body, rather than vLLM's? */
int ask_is_sglang(const json_t *body);

/* What decoders share. */
/* What every row has by its request: the models or the adapter, where they were chosen, the id. */
void ask_begin_rows(const struct ask *ask, struct row_options *o);
/* Refuses a model that scores positions, for endpoints with one score a row. */
int ask_needs_score(const struct ask *ask, struct err *e);
/* fields_take_pool for the models. What `true` asks for must be one thing for all of them. */
int ask_take_pool(const struct ask *ask, const json_t *body, const char *pool_type,
    struct row_options *o, struct err *e);
/* Begins a request for one score a row: checks its fields against the lists (fields_check), and
 * takes truncation and pooling. */
int ask_begin_scores(struct ask *ask, const json_t *body, const struct field *const *lists,
    struct row_options *o, struct err *e);
/* Judges the rows: there is one, and the broker would take each. */
int ask_end(const struct ask *ask, struct err *e);
/* A text, a list of texts, ids, or a list of lists of ids, or conversations, under `name`. */
int ask_add_input(struct ask *ask, const struct row_options *o, const json_t *input,
    const char *name, struct err *e);

#endif
