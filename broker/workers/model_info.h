/* model_info.h - the model's properties, as `assay-worker --describe` prints them. The broker reads
 * only a checkpoint's tokenizer files (broker/text/): config.json and the weights are untrusted,
 * and the worker parses them. */
#ifndef ASSAY_MODEL_INFO_H
#define ASSAY_MODEL_INFO_H

#include <pthread.h>
#include <stdint.h>

#include "schema/adapters.h"
#include "schema/err.h"
#include "schema/pooling.h"

struct recipe;

struct model_info {
    char architecture[64];
    char digest[65];
    char identity[65]; /* of the files that were digested (schema/identity.h) */
    char name[128];    /* served name; if not given, the directory's last part */
    char dtype[32];
    uint64_t weight_bytes; /* of the checkpoint's files */
    char rank_mode[272];   /* what decides a score's bits beside checkpoint, ids and pooling */
    char text[9]; /* how text becomes tokens (text/text_digest.h); "": as tokenizer.json says */
    const struct recipe *recipe; /* text/recipe.h; NULL: none */
    const char *tail;            /* --tail (text/tail.h) */
    char mode[384];              /* a job's mode: rank_mode, text, the pad rule and the recipe */
    uint32_t vocab_size, max_len, n_labels, hidden_size;
    struct pooling pool;   /* of a row that does not say */
    int config_activation; /* what config.json names; ACTIVATION_DEFAULT: nothing, as this says: */
    char no_config_activation[240];
    int32_t pad_token;
    int pad_rule;        /* LAST skips pad tokens, unless a row says otherwise */
    int pad_first;       /* it is then the token before the first of them (PAD_RULE_BEFORE_FIRST) */
    int shares_prefixes; /* the worker accepts batches with shared tokens */
    struct adapters adapters; /* loaded beside the model */
    pthread_mutex_t *lock;    /* for reading them in other threads; NULL: they never change */
    char **labels;            /* [n_labels], owned; NULL when the checkpoint names none */
};

struct model_question {
    const char *worker_path, *model_dir;
    const char *name_of;      /* the model's name is this path's last part; NULL: model_dir */
    const char *quant;        /* "none", "fp8", "int8" */
    const char *dtype;        /* "auto", "f32", "bf16" */
    const char *weights;      /* "auto", "single", "index" */
    const char *activations;  /* "auto", "as-stored", "weights-only" */
    const char *head;         /* "auto", or as worker/head_option.h says */
    uint32_t tp, pp, max_len; /* max_len 0: the model's */
    uint64_t kv_cache_bytes;  /* of each rank; 0: none */
    const char *const *loras; /* [n_loras] NAME=DIR */
    uint32_t n_loras;
    int gpu;
    int limit_ms;          /* longest wait for the answer */
    int stop_fd;           /* no more is waited once it is readable; -1: nothing stops it */
    const char *cache_dir; /* the worker caches the digest and the device's algorithms there */
};

/* Runs `worker_path --describe ..` and parses its output. ASSAY_EFORMAT, with the worker's own
 * words: a bad checkpoint, or a device that cannot run it. ASSAY_EINTERNAL: the output is not as
 * expected. ASSAY_ENOTREADY: it was stopped. */
int model_info_load(struct model_info *m, const struct model_question *q, struct err *e);
/* Sets whether LAST skips pad tokens: `word` is on, off, or auto (as the reference's class for this
 * architecture does). If there is a pad token, the rule is part of the mode: a job that began under
 * another rule is held. */
void model_info_set_pad_rule(struct model_info *m, const char *word);
void model_info_release(struct model_info *m);

#endif
