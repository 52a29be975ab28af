/* architectures.c - the tables: trunks, heads, and the architectures that pair them
 * (architectures.h). */
#include "worker/architectures.h"

#include <stdio.h>
#include <string.h>

/* ---- trunks ---- */

static const struct trunk qwen2 = {.model_type = "qwen2",
    .n_kv_heads = 32,
    .max_position = 32768,
    .qkv_bias = 1,
    .window = WINDOW_SWITCHED};

static const struct trunk qwen3 = {.model_type = "qwen3",
    .n_kv_heads = 32,
    .head_dim = 128,
    .max_position = 32768,
    .attention_bias = 1,
    .qk_norm = 1,
    .window = WINDOW_SWITCHED};

static const struct trunk llama = {
    .model_type = "llama", .max_position = 2048, .attention_bias = 1, .mlp_bias = 1};

static const struct trunk mistral = {
    .model_type = "mistral", .n_kv_heads = 8, .max_position = 131072, .window = WINDOW_ALWAYS};

/* ---- heads ---- */

static const struct head sequence = {
    .name = "score", .pool = POOL_LAST, .activation = ACTIVATION_NONE, .pad_rule = 1};

static const struct head token = {
    .name = "score", .bias = HEAD_BIAS_CONFIG, .pool = POOL_STEP, .activation = ACTIVATION_CLASS1};

static const struct head reward = {.kind = HEAD_MLP,
    .name = "score",
    .n_labels = 1,
    .pool = POOL_LAST,
    .activation = ACTIVATION_NONE,
    .foreign = 1};

static const struct head process = {.kind = HEAD_MLP,
    .name = "score",
    .n_labels = 2,
    .pool = POOL_STEP,
    .activation = ACTIVATION_CLASS1,
    .foreign = 1};

static const struct architecture table[] = {
    {"Qwen2ForRewardModel", &qwen2, &reward},
    {"Qwen2ForProcessRewardModel", &qwen2, &process},
    {"Qwen2ForSequenceClassification", &qwen2, &sequence},
    {"Qwen2ForTokenClassification", &qwen2, &token},
    {"Qwen3ForSequenceClassification", &qwen3, &sequence},
    {"Qwen3ForTokenClassification", &qwen3, &token},
    {"LlamaForSequenceClassification", &llama, &sequence},
    {"LlamaForTokenClassification", &llama, &token},
    {"MistralForSequenceClassification", &mistral, &sequence},
    {"MistralForTokenClassification", &mistral, &token},
};

#define N_ENTRIES (sizeof table / sizeof table[0])

const struct architecture *architecture_find(const char *name)
{
    for (size_t i = 0; i < N_ENTRIES; i++)
        if (strcmp(name, table[i].name) == 0)
            return &table[i];
    return NULL;
}

void architecture_names(char *text, unsigned long bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < N_ENTRIES && n < bytes; i++)
        n += (size_t)snprintf(text + n, bytes - n, "%s%s", i ? ", " : "", table[i].name);
}
