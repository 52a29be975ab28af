/* architectures.h - the table of what can be loaded: a name in config.json's `architectures` means
 * a trunk (the decoder of a family) and a head (what turns hidden states into scores). A new family
 * is an entry in architectures.c; config.c, load.c and qwen2.c only read what an entry says.
 *
 * A default here is what the reference's config class fills in where config.json has no such
 * key. */
#ifndef ASSAY_ARCHITECTURES_H
#define ASSAY_ARCHITECTURES_H

#include <stdint.h>

#include "schema/pooling.h"

/* Which layers have a sliding window. */
enum window_rule {
    WINDOW_NEVER,
    WINDOW_SWITCHED, /* use_sliding_window, then layer_types or max_window_layers */
    WINDOW_ALWAYS,   /* all layers, unless sliding_window is null */
};

struct trunk {
    const char *model_type; /* config.json's */
    uint32_t n_kv_heads;    /* default; 0: as many as there are heads */
    uint32_t head_dim;      /* default; 0: hidden_size / heads */
    uint32_t max_position;  /* default of max_position_embeddings */
    int qkv_bias;           /* q, k and v have a bias, whatever attention_bias says */
    int attention_bias;     /* attention_bias says whether q, k, v and o have a bias */
    int mlp_bias;           /* mlp_bias says whether gate, up and down have a bias */
    int qk_norm;            /* RMSNorm on each head of q and k */
    enum window_rule window;
};

enum head_kind {
    HEAD_LINEAR, /* NAME.weight [labels, hidden], perhaps NAME.bias */
    HEAD_MLP,    /* NAME.0 [hidden, hidden], ReLU, NAME.2 [labels, hidden], both with bias */
    HEAD_TOKENS, /* rows of a language model's own head (head_option.h) */
    HEAD_ASK,    /* a language model's, which scores nothing by itself: the option says which, or a
                    value head in a file of its own */
};

enum head_bias {
    HEAD_BIAS_NONE,
    HEAD_BIAS,
    HEAD_BIAS_CONFIG, /* unless token_classification_bias is false */
};

struct head {
    enum head_kind kind;
    const char *name;    /* what its tensors' names begin with */
    int named_by_config; /* value_head_prefix, if there is one, is the name; and mean and std may
                            normalize the score (OpenRLHF) */
    enum head_bias bias;
    uint32_t n_labels; /* 0: id2label or num_labels says how many */
    enum pool_type pool;
    enum activation activation; /* CLASS1 is NONE with one label */
    enum pad_rule pad_rule;
    int foreign; /* no class of transformers: checkpoints have a model_type of their own, perhaps */
    const char *auto_class; /* transformers' class that loads its own class of that name; NULL: it
                               has none */
};

struct architecture {
    const char *name;
    const struct trunk *trunk; /* NULL: config.json's model_type says which */
    const struct head *head;
};

/* The heads that a language model may be scored with. */
extern const struct head head_of_tokens, head_of_value;

/* What the entries are called, for messages. */
extern const char architecture_expected[];

/* Returns the entry of that name, or NULL. */
const struct architecture *architecture_find(const char *name);
/* Returns the trunk of that model_type, or NULL. */
const struct trunk *trunk_find(const char *model_type);
/* Returns why a name without an entry has none, as ": ..", or "". */
const char *architecture_why_not(const char *name);

#endif
