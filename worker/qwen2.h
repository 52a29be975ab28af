/* qwen2.h - struct qwen2_reward_model: a decoder trunk `model` and a `score` head; plain data, no
 * hub inside.
 *
 * The names are those of the vLLM model that a Hugging Face reward model becomes (README.md here
 * has the table):
 *     constructor(config, cache_config, quant_config, lora_config)   qwen2_reward_model_init
 *     load_weights(weights)                                          .._load_weights (load.c)
 *     forward(input_ids, positions, kv_caches, attn_metadata,
 *             intermediate_tensors) -> hidden states                 .._forward
 *     pooler(hidden_states, pooling_metadata) -> scores              pooler (pooler.h)
 * One decoder with flags covers Qwen2, Qwen3, Llama and Mistral (architectures.h).
 *
 * Block: x += attn(norm1(x)); x += down(silu(gate(norm2(x))) * up(norm2(x))); after the last block
 * a final norm. */
#ifndef ASSAY_QWEN2_H
#define ASSAY_QWEN2_H

#include "schema/err.h"
#include "worker/config.h"
#include "worker/ops.h"
#include "worker/parallel_linear.h"
#include "worker/weights.h"

struct qwen2_layer {
    float *input_layernorm;          /* [hidden] */
    struct parallel_linear qkv_proj; /* parts q, k, v of this rank */
    float *q_norm, *k_norm;          /* [head_dim], Qwen3 only */
    struct parallel_linear o_proj;
    float *post_attention_layernorm;
    struct parallel_linear gate_up_proj; /* parts gate, up */
    struct parallel_linear down_proj;
    uint32_t window; /* 0: whole row */
};

struct qwen2_model {
    struct weight embed_tokens;
    struct qwen2_layer *layers; /* [n_layers]; another stage's are empty */
    float *norm;
};

/* score: Linear -> ReLU -> Linear (first column parallel, second row parallel), or `second` alone,
 * replicated on each rank. */
struct reward_head {
    int mlp;
    struct parallel_linear first, second;
    float *rows; /* owned: a matrix of `second` that was put together (load_head.c), or NULL */
};

/* What is kept from batch to batch, by slot: which, kv_cache.h says. */
struct kv_caches {
    int64_t n_slots;       /* 0: nothing is kept */
    struct tensor *layers; /* [n_layers] each [n_slots, keys and values of this rank's heads]; none
                              of another stage's */
    struct tensor logits;  /* [n_slots, n_labels] of tokens that were pooled; on the last stage */
    struct tensor merged;  /* [T, n_labels] those of a batch's pooled tokens, kept and computed */
};

struct kv_cache;    /* kv_cache.h */
struct activations; /* the arena's buffers: qwen2_memory.h */

/* What a pipeline stage hands to the next one, as vLLM's IntermediateTensors: the last block's
 * output and the residual stream, to which it is still to be added. Each [n_tokens, hidden]. */
struct intermediate_tensors {
    struct tensor hidden_states, residual;
};

/* The whole model, or a pipeline stage of it: its layers, on the first stage the embedding, on the
 * last one final norm and head. */
struct qwen2_reward_model {
    struct model_config config;
    struct cache_config cache_config;
    struct quant_config quant_config;
    struct lora_config lora_config;
    const struct ops *ops;
    struct device *device;        /* borrowed */
    uint32_t rank, n_ranks;       /* of the ranks that share every matrix */
    uint32_t pp_rank, n_pp_ranks; /* of the pipeline's stages */
    struct layer_range own;       /* this stage's layers */
    struct qwen2_model model;
    struct reward_head score;
    struct reward_head *heads; /* [adapters] their own; n_parts 0: the base's. NULL: none */
    struct lora_shard *shards; /* what the layers' products borrow */
    struct packing *packings;  /* what packed matrices borrow; NULL: none is packed */
    struct rope_tables rope;   /* of max_len positions */
    float *values;             /* device: what the pooler gives, before it is copied out */
    struct kv_caches kv_caches;
    struct kv_cache *kv_cache;            /* NULL: nothing is kept */
    uint64_t tokens_given, tokens_reused; /* of all batches; reused ones were not computed */
    struct activations *activations;
};

/* Sets config->activation_type according to --dtype. "auto": the matrices' own type if ops.typed
 * (bfloat16 if float32 matrices are quantized; the embedding's of a checkpoint that is quantized
 * itself), else float32. The CPU also takes "f32", and "bf16" unless quantized. Sets
 * config->quantization.products. Anything else is ASSAY_EUNSUPPORTED, naming the alternatives. */
int model_choose_type(struct model_config *config, const char *dtype,
    const struct quant_config *quant_config, struct weights *w, const struct ops *ops,
    struct err *e);

/* What the constructor takes: the four structs, and which rank of how many this is, within its
 * pipeline stage and among the stages. */
struct qwen2_configs {
    struct model_config config;
    struct cache_config cache_config;
    struct quant_config quant_config;
    struct lora_config lora_config;
    uint32_t rank, n_ranks, pp_rank, n_pp_ranks;
};

/* Fills in the sizes in the device's options that one rank of this model needs.
 * config.activation_type must be set. */
void qwen2_device_needs(
    struct device_options *options, const struct qwen2_configs *c, const struct ops *ops);

/* Checks the four structs and lays out the activations. Loads no weights. */
int qwen2_reward_model_init(struct qwen2_reward_model *m, const struct qwen2_configs *c,
    const struct ops *ops, struct device *device, struct err *e);
void qwen2_reward_model_release(struct qwen2_reward_model *m);

/* The most tokens that one forward pass takes: those of the largest batch; or, if the KV cache has
 * room for the longest row, cache_config.max_batch_tokens (chunked_prefill.h). */
uint32_t qwen2_reward_model_max_tokens(const struct qwen2_reward_model *m);

static inline int qwen2_is_first_stage(const struct qwen2_reward_model *m)
{
    return m->pp_rank == 0;
}

static inline int qwen2_is_last_stage(const struct qwen2_reward_model *m)
{
    return m->pp_rank + 1 == m->n_pp_ranks;
}

/* Writes, as text, what determines a score's bits besides checkpoint, token ids and pooling:
 * "device=cpu arithmetic=4 dtype=f32 quant=none tp=1 pp=1", and with --head " head=lm:..". A
 * pipeline of any number of stages gives the bits of one, so pp is always 1 here. On a device that
 * chooses algorithms, it is complete only after every product has run (score_canary). */
#define MODEL_MODE_BYTES 272
void qwen2_reward_model_mode(const struct qwen2_reward_model *m, char *text, size_t bytes);

/* On a pipeline stage without the head: lets the device choose for its products too, since the mode
 * is the same on every stage. */
void qwen2_reward_model_choose_head(struct qwen2_reward_model *m);

/* Bytes of the KV cache that hold something. */
uint64_t qwen2_reward_model_kv_bytes(const struct qwen2_reward_model *m);

/* Takes every tensor from the iterator. A missing, unknown or misshapen one is ASSAY_EFORMAT,
 * naming file, tensor, expected and found. Names may begin with "model."; lm_head.* and
 * rotary_emb.inv_freq are ignored. Those of other pipeline stages are checked, and not read.
 * Matrices stay views into `w`, which must outlive the model unless the device copies them. */
int qwen2_reward_model_load_weights(struct qwen2_reward_model *m, struct weights *w, struct err *e);

/* Which tokens of the batch go through adapters, and which of the wanted ones (out_rows). Spans
 * ascend and do not overlap. */
struct lora_mapping {
    const struct lora_span *tokens, *wanted;
    uint32_t n_tokens, n_wanted;
};

struct forward_inputs {
    const int32_t *input_ids, *positions; /* host, [n_tokens] */
    const struct kv_caches *kv_caches;    /* NULL: nothing is cached, and nothing kept */
    const struct attn_metadata *attn_metadata;
    /* What the stage before gave, in this device's memory; forward writes over it. NULL on the
     * first stage, and there alone. */
    const struct intermediate_tensors *intermediate_tensors;
    struct lora_mapping lora_mapping;
};

/* Room in the arena for what the stage before gives: where forward takes it from at no cost. Valid
 * until the next forward. n_tokens at most those of the arena. */
struct intermediate_tensors qwen2_reward_model_make_empty_intermediate_tensors(
    struct qwen2_reward_model *m, uint32_t n_tokens);

/* Begins a batch; pooler ends it, or on a stage that is not the last device_ops.finish. On success
 * `out` is in the arena, valid until the next forward. On the last stage out->hidden_states is
 * [n_out_rows, hidden] (or [n_tokens, hidden] without out_rows), after the final norm, and residual
 * is empty; on others both are what the next stage takes. ASSAY_EBADTOKEN for an id outside the
 * vocabulary; intermediate_tensors where they do not belong, are missing, or are not this batch's,
 * are refused by name. */
int qwen2_reward_model_forward(struct qwen2_reward_model *m, const struct forward_inputs *in,
    struct intermediate_tensors *out, struct err *e);

/* score(h) for each row of h, fp32: [rows, n_labels] in the arena, valid until the next call.
 * The rows of adapters with a head of their own go through that (NULL: there are none).
 * h->rows at most cache_config.max_batch_tokens or max_len, whichever is larger. */
struct tensor qwen2_reward_model_score(
    struct qwen2_reward_model *m, struct tensor hidden_states, const struct lora_mapping *mapping);

#endif
