/* lora.h - low-rank adapters beside the base model (struct lora_config): PEFT's directories.
 *
 * An adapter is adapter_config.json and adapter_model.safetensors. For some of a layer's linear
 * modules it has A [rank, in] and B [out, rank]: the module's output becomes W x + scale B (A x),
 * scale being lora_alpha / rank, or with use_rslora lora_alpha / sqrt(rank). It may have a head of
 * its own (modules_to_save). A row chooses an adapter by number: 0 is the base model alone.
 *
 * Base products run once for all rows of a batch; parallel_linear.h adds each adapter's part to the
 * outputs of its own rows, in float32. What an adapter adds to a row depends on that row alone.
 *
 * lora_open reads and checks a directory (lora.c, and lora_config.c for the JSON file): whatever
 * would make PEFT compute something else is refused by name. lora_load (lora_load.c) copies an
 * adapter's numbers, as float32 and cut for this rank, to the device's memory: its files are not
 * used after that. */
#ifndef ASSAY_LORA_H
#define ASSAY_LORA_H

#include "schema/adapters.h"
#include "schema/err.h"
#include "worker/layer_matrix.h"
#include "worker/weights.h"

#define LORA_MAX_RANK 256

/* What adapter_config.json says of one linear module. */
struct lora_module_config {
    int is_target;
    uint32_t rank;
    double scale;
};

/* A module's tensors in the file; a.name NULL: the adapter has none for it. */
struct lora_pair {
    struct weight_tensor a, b;
    double scale;
};

/* The head's tensors: weight and bias of the linear layer, or of the MLP's two, 0 and 2. */
enum lora_head_tensor { LORA_WEIGHT, LORA_BIAS, LORA_FIRST, LORA_FIRST_BIAS, LORA_HEAD_TENSORS };

struct model_config;

struct lora_adapter {
    char name[ADAPTERS_NAME_BYTES];
    const char *dir; /* borrowed */
    char digest[65]; /* of its two files' contents */
    struct weights *weights;
    struct lora_pair *pairs; /* [n_layers][N_LAYER_MATRICES] */
    uint32_t most_ranks;     /* largest sum of ranks of modules that have one input */
    int has_head;
    struct weight_tensor head[LORA_HEAD_TENSORS]; /* name NULL: the head has no such tensor */
};

/* adapter_config.json, parsed. */
struct lora_file;
/* ASSAY_EFORMAT or ASSAY_EUNSUPPORTED: file, field, expected, found. */
int lora_file_read(
    struct lora_file **f, const char *dir, const struct model_config *c, struct err *e);
void lora_file_free(struct lora_file **f);
/* What it says of a module, by its whole name: "model.layers.0.self_attn.q_proj". */
int lora_file_module(
    const struct lora_file *f, const char *module, struct lora_module_config *out, struct err *e);
int lora_file_has_head(const struct lora_file *f); /* modules_to_save names the head */

/* Reads the directory and checks it against the base model's config. On failure too the caller ends
 * *a with lora_close. */
int lora_open(struct lora_adapter *a, const char *dir, const struct model_config *c, struct err *e);
void lora_close(struct lora_adapter *a);
/* ASSAY_EFORMAT unless the files still have the digest. */
int lora_check(const struct lora_adapter *a, struct err *e);
/* Floats from row to row of an adapter's matrices in the device's memory: whole 16 bytes. */
static inline int64_t lora_stride(int64_t cols)
{
    return round_up(cols, 4);
}
/* Device memory that the adapter takes, at most. */
size_t lora_arena_bytes(const struct lora_adapter *a);

/* Opens all of a list of "NAME=DIR" (schema/adapters.h): out->adapters, which lora_close_all frees,
 * after a failure too. `digests` NULL, or what each must have. */
struct lora_config;
int lora_open_all(struct lora_config *out, const char *const *list, const char *const *digests,
    uint32_t n, const struct model_config *c, struct err *e);
void lora_close_all(struct lora_config *c);

struct qwen2_reward_model;
/* Copies all adapters of m->lora_config to the device. After the base's weights are loaded. */
int lora_load(struct qwen2_reward_model *m, struct err *e);
void lora_release(struct qwen2_reward_model *m); /* what lora_load took */

#endif
