/* architectures.c - the tables: trunks, heads, and the architectures that pair them
 * (architectures.h). */
#include "worker/architectures.h"

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

static const struct head sequence = {.name = "score",
    .auto_class = "AutoModelForSequenceClassification",
    .pool = POOL_LAST,
    .activation = ACTIVATION_NONE,
    .pad_rule = PAD_RULE_LAST_OTHER};

static const struct head token = {.name = "score",
    .auto_class = "AutoModelForTokenClassification",
    .bias = HEAD_BIAS_CONFIG,
    .pool = POOL_STEP,
    .activation = ACTIVATION_CLASS1};

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

/* INF-ORM's class has the rule that transformers' had before 4.31. */
static const struct head inform = {.kind = HEAD_MLP,
    .name = "score",
    .pool = POOL_LAST,
    .activation = ACTIVATION_NONE,
    .pad_rule = PAD_RULE_BEFORE_FIRST};

/* Skywork-o1-Open-PRM */
static const struct head prm = {.name = "v_head.summary",
    .bias = HEAD_BIAS,
    .n_labels = 1,
    .pool = POOL_STEP,
    .activation = ACTIVATION_SIGMOID};

/* OpenRLHF's class, by its newer and by its older name */
static const struct head open_rlhf = {.name = "score",
    .named_by_config = 1,
    .n_labels = 1,
    .pool = POOL_LAST,
    .activation = ACTIVATION_NONE};

static const struct head open_rlhf_old = {.name = "value_head",
    .named_by_config = 1,
    .n_labels = 1,
    .pool = POOL_LAST,
    .activation = ACTIVATION_NONE};

static const struct head eurus = {
    .name = "regression_head", .n_labels = 1, .pool = POOL_LAST, .activation = ACTIVATION_NONE};

static const struct head language_model = {
    .kind = HEAD_ASK, .auto_class = "AutoModelForCausalLM", .n_labels = 1};

const struct head head_of_tokens = {
    .kind = HEAD_TOKENS, .n_labels = 1, .pool = POOL_LAST, .activation = ACTIVATION_NONE};

/* LLaMA-Factory's */
const struct head head_of_value = {.name = "v_head.summary",
    .bias = HEAD_BIAS,
    .n_labels = 1,
    .pool = POOL_LAST,
    .activation = ACTIVATION_NONE};

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
    {"INFORMForSequenceClassification", &llama, &inform},
    {"Qwen2ForPrmModel", &qwen2, &prm},
    {"EurusRewardModel", &mistral, &eurus},
    {"RewardModel", NULL, &open_rlhf},
    {"LLMForSequenceRegression", NULL, &open_rlhf_old},
    {"Qwen2ForCausalLM", &qwen2, &language_model},
    {"Qwen3ForCausalLM", &qwen3, &language_model},
    {"LlamaForCausalLM", &llama, &language_model},
    {"MistralForCausalLM", &mistral, &language_model},
};

const char architecture_expected[] =
    "ForSequenceClassification, ForTokenClassification or ForCausalLM of Qwen2, Qwen3, Llama or "
    "Mistral; or Qwen2ForRewardModel, Qwen2ForProcessRewardModel, Qwen2ForPrmModel, "
    "INFORMForSequenceClassification, EurusRewardModel, RewardModel, LLMForSequenceRegression";

static const struct trunk *const trunks[] = {&qwen2, &qwen3, &llama, &mistral};

#define N_ENTRIES (sizeof table / sizeof table[0])

const struct architecture *architecture_find(const char *name)
{
    for (size_t i = 0; i < N_ENTRIES; i++)
        if (strcmp(name, table[i].name) == 0)
            return &table[i];
    return NULL;
}

const struct trunk *trunk_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof trunks / sizeof trunks[0]; i++)
        if (strcmp(model_type, trunks[i]->model_type) == 0)
            return trunks[i];
    return NULL;
}

const char *architecture_why_not(const char *name)
{
    static const struct {
        const char *part, *why;
    } known[] = {
        {"Gating", ": a gating head (ArmoRM's kind), which weighs several scores"},
        {"Moe", ": a mixture of experts"},
        {"Mixtral", ": a mixture of experts"},
        {"Qwen3Next", ": linear attention in some layers"},
        {"Qwen3_5", ": linear attention in some layers"},
        {"Gemma", ": other norms, and embeddings that are scaled"},
        {"VL", ": it reads images"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strstr(name, known[i].part))
            return known[i].why;
    return "";
}
