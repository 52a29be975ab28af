/* describe.h - checks a checkpoint completely and describes it in one line of JSON, from which the
 * broker learns everything it knows about the model. Fields: architecture, digest (64 hex digits),
 * dtype, vocab_size, max_len, max_position, n_labels, labels (names, or null), default_pool,
 * default_activation, step_token, pad_token (-1: none), pad_rule (enum pad_rule), hidden_size,
 * n_layers, n_heads, n_kv_heads, head_dim, weight_bytes, mode (whatever else determines a score's
 * bits, qwen2_reward_model_mode), identity (64 hex digits: which files were described,
 * schema/identity.h), config_activation (what config.json names, "default": nothing, for the reason
 * in no_config_activation), adapters (a list of name, digest, has_head). */
#ifndef ASSAY_DESCRIBE_H
#define ASSAY_DESCRIBE_H

#include <stdio.h>

#include "schema/err.h"
#include "worker/ops.h"

struct describe_options {
    const char *dir;
    uint32_t tp, pp;
    uint32_t max_len; /* 0: the config's max_position_embeddings */
    uint64_t kv_cache_bytes;
    const char *digest_cache; /* may be NULL */
    const char *quant;        /* method: "none", "fp8", "int8" */
    const char *dtype;        /* "auto", "f32", "bf16" */
    const char *weights;      /* "auto", "single", "index" */
    const char *activations;  /* "auto", "as-stored", "weights-only" */
    const char *head;         /* head_option.h */
    const struct ops *ops;    /* the operations that will compute; the mode describes them */
    int gpu;                  /* as in device_options */
    const char *cache_dir;
    const char *const *loras; /* [n_loras] "NAME=DIR" */
    uint32_t n_loras;
};

int describe_model(const struct describe_options *o, FILE *out, struct err *e);

#endif
