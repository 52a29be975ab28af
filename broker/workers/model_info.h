/* model_info.h - what the broker knows of the model, as `assay-worker --describe` prints it. The
 * broker itself reads of a checkpoint only what makes its tokenizer (broker/text/): config.json and the
 * weights are untrusted, and parsing them is the worker's job. */
#ifndef ASSAY_MODEL_INFO_H
#define ASSAY_MODEL_INFO_H

#include <stdint.h>

#include "schema/err.h"

struct model_info {
    char architecture[64];
    char digest[65];
    char identity[65]; /* of the files that it was taken of (schema/identity.h) */
    char name[128];    /* served name: the directory's last part unless given */
    char dtype[8];
    char rank_mode[224]; /* what beside checkpoint, ids and pooling makes a score's bits */
    char text[9];   /* how text becomes tokens (text/text_digest.h), "": as tokenizer.json says */
    char mode[256]; /* of jobs: rank_mode, text, and how LAST reads a row that does not say */
    uint32_t vocab_size, max_len, n_labels;
    int default_pool, default_activation;
    int32_t step_token, pad_token;
    int pad_rule;        /* LAST passes over pad tokens, unless a row says otherwise */
    int shares_prefixes; /* the worker takes batches whose rows share tokens */
    char **labels;       /* [n_labels], owned; NULL when the checkpoint names none */
};

struct model_question {
    const char *worker_path, *model_dir;
    const char *name_of;  /* path whose last part is the model's name; NULL: model_dir */
    const char *quant;    /* "none", "fp8", "int8" */
    const char *dtype;    /* "auto", "f32", "bf16" */
    const char *weights;  /* "auto", "single", "index" */
    uint32_t tp, max_len; /* max_len 0: the model's */
    int gpu;
    int limit_ms;          /* longest wait for the answer */
    const char *cache_dir; /* the worker remembers the digest and the device's algorithms there */
};

/* Runs `worker_path --describe ..` and reads its line. A bad checkpoint, or a device that cannot run
 * it: ASSAY_EFORMAT with the worker's own words. */
int model_info_load(struct model_info *m, const struct model_question *q, struct err *e);
/* Whether LAST passes over pad tokens: `word` is auto (as the reference's class of this architecture does
 * it), on or off. It is part of the mode where there is a pad token: a job that was begun under another
 * reading is held. */
void model_info_set_pad_rule(struct model_info *m, const char *word);
void model_info_release(struct model_info *m);

#endif
