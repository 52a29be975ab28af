/* config.h - the four configuration structs of the model's constructor, parsed once from a
 * checkpoint's config.json and the command line. config.json is untrusted: every number is
 * range-checked. A missing field is an error unless the reference's class has a default that fits
 * any checkpoint; nothing is guessed. Options that are not built are refused by name. */
#ifndef ASSAY_CONFIG_H
#define ASSAY_CONFIG_H

#include <stdint.h>

#include "schema/err.h"
#include "schema/pooling.h"
#include "worker/architectures.h"
#include "worker/dtype.h"
#include "worker/head_option.h"
#include "worker/quantization.h"

#define MODEL_MAX_LAYERS 512
#define MODEL_MAX_LABELS 4096

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

struct rope_config {
    enum rope_type type;
    double theta;
    double factor;
    double attention_factor; /* yarn: cos and sin are multiplied by it; 1 otherwise */
    double beta_fast, beta_slow;
    double low_freq_factor, high_freq_factor; /* llama3 */
    uint32_t original_max_position;           /* yarn, llama3 */
    int truncate;                             /* yarn: round the correction range; default 1 */
};

struct model_config {
    const struct architecture *architecture;
    const struct trunk *trunk;
    const struct head *head;   /* the architecture's; a language model's is chosen */
    char head_name[64];        /* what the names of its tensors begin with */
    struct head_tokens tokens; /* HEAD_TOKENS */
    double mean, std;          /* a score is (logit - mean) / std; std 0: it is the logit */
    uint32_t hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, vocab_size;
    uint32_t max_position; /* max_position_embeddings */
    float rms_norm_eps;
    int tie_word_embeddings;
    int qkv_bias, o_bias, mlp_bias; /* which of a layer's products have a bias */
    int head_bias;                  /* a linear head has one */
    uint32_t n_labels;
    struct rope_config rope;
    uint32_t sliding_window; /* 0: no layer slides */
    uint8_t layer_slides[MODEL_MAX_LAYERS];
    struct pooling pool; /* of a row that does not say; the tokenizer's own step token */
    enum activation config_activation; /* what config.json names; ACTIVATION_DEFAULT: nothing, as */
    char no_config_activation[240];    /* this says */
    int32_t pad_token;                 /* pad_token_id; -1 if there is none (for hf_pad_rule) */
    /* The type of the inputs of the layers' products, and of their outputs too if ops.typed. Set by
     * model_choose_type (qwen2.h). */
    enum dtype activation_type;
    const char *weights_decided; /* weights.h; NULL: there was no choice to make */
    struct quantization quantization;
    uint8_t quantized[MODEL_MAX_LAYERS]; /* bit m: matrix m of the layer is (enum layer_matrix) */
};

struct cache_config {
    uint32_t max_batch_tokens; /* of a batch that is not one longer row */
    uint32_t max_len;          /* longest row */
    uint32_t max_rows;         /* rows of one batch */
    uint64_t kv_cache_bytes;   /* of each rank, for keys and values of earlier batches; 0: none are
                                  kept */
};

struct quant_config {
    const char
        *method; /* "none", "fp8" (e4m3) or "int8": how the layers' matrices are held, and what
                           goes into them. Embedding, attention, norms and head never are. */
};

/* Adapters that rows may choose, opened (lora.h). */
struct lora_adapter;
struct lora_config {
    uint32_t n_adapters;
    const struct lora_adapter *adapters; /* [n_adapters], borrowed; their number is index + 1 */
};

/* Reads DIR/config.json, and the step token from the added tokens in DIR/tokenizer.json if that
 * exists. `head` is --head (head_option.h). */
int model_config_load(struct model_config *c, const char *dir, const char *head, struct err *e);
/* Sets what turns hidden states into scores: the head and its names, labels, pooling, activation.
 * For model_config_load, which has read the trunk's sizes; `option` as there. (config_head.c) */
struct json_file;
int model_config_read_head(struct model_config *c, const struct json_file *f, const char *dir,
    const char *option, struct err *e);

/* Sets config_activation, for model_config_load. (config_activation.c) */
void model_config_read_activation(
    struct model_config *c, const struct json_file *f, const char *dir);

/* Each refuses options that are not built: ASSAY_EUNSUPPORTED, naming the option and what is built.
 * */
int cache_config_check(const struct cache_config *c, struct err *e);
int quant_config_check(const struct quant_config *c, struct err *e);

/* ASSAY_EFORMAT with the numbers unless tp divides heads, mlp and (for an MLP head) hidden, and
 * divides the kv heads or is a multiple of them. */
int model_config_check_tp(const struct model_config *c, uint32_t tp, struct err *e);

/* The layers [first, end) of a pipeline stage. What does not divide evenly goes as in vLLM
 * (get_pp_indices): one layer more for the stage before the last, the one before that, and so
 * on. */
struct layer_range {
    uint32_t first, end;
};
struct layer_range model_config_pp_layers(
    const struct model_config *c, uint32_t pp_rank, uint32_t n_pp_ranks);
/* ASSAY_EFORMAT with the numbers unless each of pp stages has a layer. */
int model_config_check_pp(const struct model_config *c, uint32_t pp, struct err *e);

/* The kv heads of one of tp ranks: its share, or one if there are more ranks than kv heads. */
uint32_t model_config_rank_kv_heads(const struct model_config *c, uint32_t tp);

/* F8, I8, or F32 for "none". */
enum dtype quant_config_type(const struct quant_config *c);
/* What products are of where it is neither float type: what --quant says, or the checkpoint itself
 * (quantization.products); else F32. */
enum dtype model_config_products(const struct model_config *c, const struct quant_config *quant);
/* ASSAY_EFORMAT with the numbers unless each rank's quantized products have sizes that are
 * multiples of 16. Only GPUs need this; the CPU takes any size. */
int model_config_check_quant(
    const struct model_config *c, const struct quant_config *quant, uint32_t tp, struct err *e);

#endif
