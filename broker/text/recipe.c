/* recipe.c - the table of recipes, and what is looked up for one in a checkpoint (recipe.h).
 *
 * Sources: qwen3-reranker: the card of Qwen3-Reranker-0.6B; mxbai-rerank-v2: the package
 * mxbai-rerank 0.1.6; rlhflow-prm: math-rm/prm_evaluate.py of RLHFlow/RLHF-Reward-Modeling;
 * math-shepherd: the card of math-shepherd-mistral-7b-prm; skywork-prm: skywork-o1-prm-inference,
 * io_utils.py; openrlhf: datasets/reward_dataset.py of version 0.9.10; eurus-rm:
 * modeling_eurus_rm.py and the card of Eurus-RM-7b; qwen2.5-math-prm, qwen2.5-math-rm,
 * nemotron-reward, inf-orm: the model cards; llama-factory: data/processor/pairwise.py and train/rm
 * of version 0.9.5. */
#include "broker/text/recipe.h"

#include <stdio.h>
#include <string.h>

#include "schema/json.h"

#define CONFIG_BYTES (8u << 20)
#define LANGUAGE_MODELS "Qwen2ForCausalLM Qwen3ForCausalLM LlamaForCausalLM MistralForCausalLM"

static const struct recipe table[] = {
    {.name = "qwen2.5-math-rm",
        .architectures = "Qwen2ForRewardModel",
        .checkpoints = "Qwen2.5-Math-RM-72B, Qwen2-Math-RM-72B",
        .rows = RECIPE_ANSWERS,
        .text = "the checkpoint's chat template",
        .pooled = "the last token"},
    {.name = "qwen2.5-math-prm",
        .architectures = "Qwen2ForProcessRewardModel",
        .checkpoints = "Qwen2.5-Math-PRM-7B, -72B, Qwen2.5-Math-7B-PRM800K",
        .rows = RECIPE_ANSWERS | RECIPE_STEPS,
        .text =
            "the checkpoint's chat template; the assistant says the steps, <extra_0> after each",
        .pooled = "each <extra_0>: probability of class 1"},
    {.name = "inf-orm",
        .architectures = "INFORMForSequenceClassification",
        .checkpoints = "INF-ORM-Llama3.1-70B",
        .rows = RECIPE_ANSWERS,
        .text = "the checkpoint's chat template",
        .pooled = "the token before the first pad token, else the last"},
    {.name = "llama-factory",
        .architectures = LANGUAGE_MODELS,
        .checkpoints = "reward models that LLaMA-Factory trained (value_head.safetensors)",
        .rows = RECIPE_ANSWERS,
        .text = "the checkpoint's chat template",
        .pooled = "the last token"},
    {.name = "qwen3-reranker",
        .architectures = "Qwen3ForCausalLM",
        .checkpoints = "Qwen3-Reranker-0.6B, -4B, -8B",
        .words = {"yes", "no"},
        .how = "softmax",
        .rows = RECIPE_QUERIES,
        .form =
            {.pieces = {"<|im_start|>system\nJudge whether the Document meets the requirements "
                        "based on the Query and the Instruct provided. Note that the answer can "
                        "only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n",
                 "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
                 "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"},
                .cut = 1,
                .instruction =
                    "Given a web search query, retrieve relevant passages that answer the query"},
        .text = "the card's prompt, with the card's instruction where a row has none",
        .pooled = "the last token: probability of 'yes'"},
    {.name = "mxbai-rerank-v2",
        .architectures = "Qwen2ForCausalLM",
        .checkpoints = "mxbai-rerank-base-v2, mxbai-rerank-large-v2",
        .words = {"1", "0"},
        .how = "difference",
        .rows = RECIPE_QUERIES,
        .form =
            {.pieces = {"<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
                        "helpful assistant.<|im_end|>\n<|im_start|>user\n",
                 "{instruction}query: {query}", "\n", "document: {document}", "\n",
                 "You are a search relevance expert who evaluates how well documents match "
                 "search queries. For each query-document pair, carefully analyze the semantic "
                 "relationship between them, then provide your binary relevance judgment (0 for "
                 "not relevant, 1 for relevant).\nRelevance:",
                 "<|im_end|>\n<|im_start|>assistant\n"},
                .cut = 3,
                .before_instruction = "instruction: ",
                .behind_instruction = "\n"},
        .text = "the package's prompt; the scores of its predict() without normalize",
        .pooled = "the last token: logit of '1' less that of '0'"},
    {.name = "rlhflow-prm",
        .architectures = "LlamaForCausalLM MistralForCausalLM",
        .checkpoints = "RLHFlow's Llama3.1-8B-PRM-Mistral-Data, Llama3.1-8B-PRM-Deepseek-Data",
        .words = {"+", "-"},
        .how = "softmax",
        .rows = RECIPE_STEPS,
        .form = {.pieces = {"{prompt} {step}"},
            .steps = STEPS_IN_TURNS,
            .step = "{step}",
            .strip_steps = 1},
        .text = "the chat template; a user's turn for each step, the prompt in front of the first, "
                "and '+' from the assistant after each",
        .pooled = "the token in front of each '+': probability of '+' against '-'"},
    {.name = "math-shepherd",
        .architectures = "MistralForCausalLM",
        .checkpoints = "math-shepherd-mistral-7b-prm",
        .words = {"+", "-"},
        .how = "softmax",
        .rows = RECIPE_STEPS,
        .form = {.pieces = {"{prompt} "},
            .framed = 1,
            .steps = STEPS_IN_TEXT,
            .step = "{step} ки",
            .between = "\n",
            .step_word = "ки"},
        .text = "the prompt and the steps as one text, the tag ки after each step",
        .pooled = "each tag: probability of '+' against '-'"},
    {.name = "skywork-prm",
        .architectures = "Qwen2ForPrmModel",
        .by_itself = 1,
        .checkpoints = "Skywork-o1-Open-PRM-Qwen-2.5-1.5B, -7B",
        .rows = RECIPE_STEPS,
        .form = {.pieces = {"{bos}{prompt}\n"},
            .steps = STEPS_APART,
            .step = "{step}",
            .step_word = "\n",
            .separator = "\n"},
        .text =
            "bos_token, the prompt and a newline; then each step and a newline, tokenized apart",
        .pooled = "the newline after each step: sigmoid"},
    {.name = "eurus-rm",
        .architectures = "EurusRewardModel",
        .by_itself = 1,
        .checkpoints = "Eurus-RM-7b",
        .rows = RECIPE_ANSWERS,
        .form = {.pieces = {"[INST] {prompt} [/INST] {response}"}, .framed = 1},
        .text = "[INST] prompt [/INST] response, with the tokenizer's first token",
        .pooled = "the last token"},
    {.name = "openrlhf",
        .architectures = "RewardModel LLMForSequenceRegression",
        .checkpoints = "reward models that OpenRLHF trained with --apply_chat_template",
        .rows = RECIPE_ANSWERS,
        .tail = TAIL_STRIP | TAIL_EOS,
        .prompt_first = 1,
        .text = "the checkpoint's chat template without newlines at its end, and eos_token there",
        .pooled = "the last token, eos_token"},
    {.name = "nemotron-reward",
        .architectures = "LlamaForCausalLM",
        .checkpoints = "Llama-3.1-Nemotron-70B-Reward-HF",
        .head = "lm:0:raw",
        .rows = RECIPE_ANSWERS,
        .text = "the checkpoint's chat template",
        .pooled = "the last token"},
};

const struct recipe *recipe_at(size_t k)
{
    return k < sizeof table / sizeof table[0] ? &table[k] : NULL;
}

const struct recipe *recipe_find(const char *name)
{
    const struct recipe *r;
    for (size_t k = 0; (r = recipe_at(k)); k++)
        if (strcmp(r->name, name) == 0)
            return r;
    return NULL;
}

const struct recipe *recipe_by_itself(const char *architecture)
{
    const struct recipe *r;
    for (size_t k = 0; (r = recipe_at(k)); k++)
        if (r->by_itself && strcmp(r->architectures, architecture) == 0)
            return r;
    return NULL;
}

const char *recipe_rows(const struct recipe *r)
{
    if (r->rows & RECIPE_QUERIES)
        return "query and document(s), perhaps instruction";
    if (r->rows == RECIPE_ANSWERS && !recipe_uses_template(r))
        return "prompt and response(s), chosen and rejected, all of them texts";
    static const char *const names[] = {"text",
        "messages, prompt and response(s), chosen and rejected", "prompt and steps",
        "prompt and steps, messages, prompt and response(s), chosen and rejected"};
    return names[r->rows & (RECIPE_ANSWERS | RECIPE_STEPS)];
}

void recipe_names(char out[RECIPE_NAMES_BYTES])
{
    const struct recipe *r;
    size_t n = 0;
    for (size_t k = 0; (r = recipe_at(k)) && n < RECIPE_NAMES_BYTES; k++)
        n += (size_t)snprintf(out + n, RECIPE_NAMES_BYTES - n, "%s%s", k ? ", " : "", r->name);
}

/* ---- what it is for ---- */

int recipe_check_architecture(const struct recipe *r, const char *name, struct err *e)
{
    size_t len = strlen(name);
    for (const char *at = r->architectures; len > 0 && (at = strstr(at, name)); at += len)
        if ((at == r->architectures || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0'))
            return 0;
    return err_set(e, ASSAY_EFORMAT, "--recipe %s: architectures: expected %s, found '%.80s'",
        r->name, r->architectures, name);
}

void recipe_architecture_of_dir(const char *dir, char out[RECIPE_ARCHITECTURE_BYTES])
{
    json_t *config = json_read_file(dir, "config.json", CONFIG_BYTES, NULL);
    const char *name =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    snprintf(out, RECIPE_ARCHITECTURE_BYTES, "%s", name ? name : "");
    json_decref(config);
}

int recipe_check_dir(const struct recipe *r, const char *dir, struct err *e)
{
    char name[RECIPE_ARCHITECTURE_BYTES];
    recipe_architecture_of_dir(dir, name);
    return name[0] ? recipe_check_architecture(r, name, e) : 0;
}

/* ---- the head ---- */

int recipe_has_head(const struct recipe *r)
{
    return r->head || r->words[0];
}

int recipe_writes(const struct recipe *r)
{
    return r->form.pieces[0] != NULL;
}

int recipe_uses_template(const struct recipe *r)
{
    return !recipe_writes(r) || r->form.steps == STEPS_IN_TURNS;
}

int recipe_is_word(struct slice piece, const char *word)
{
    static const char *const spaces[] = {"", " ", "\xe2\x96\x81"}; /* U+2581, as in Llama 2 */
    size_t n = strlen(word);
    for (int i = 0; i < 3; i++) {
        size_t m = strlen(spaces[i]);
        if (piece.len == m + n && memcmp(piece.at, spaces[i], m) == 0 &&
            memcmp(piece.at + m, word, n) == 0)
            return 1;
    }
    return 0;
}

int recipe_find_word(
    const struct recipe *r, const struct tokenizer *t, const char *word, int32_t *id, struct err *e)
{
    struct encoder *n = encoder_new(t);
    struct err why = {0};
    int rc = encoder_text(n, (struct slice){(const uint8_t *)word, strlen(word)}, NULL, 0, &why);
    const struct id_list *ids = encoder_ids(n);
    *id = rc == 0 && ids->len == 1 ? ids->at[0] : -1;
    if (*id < 0 || !recipe_is_word(tokenizer_piece(t, *id), word))
        rc = err_set(e, ASSAY_EFORMAT,
            "--recipe %s: expected a tokenizer with one token for '%s', found %zu tokens; is this "
            "a checkpoint of the recipe?",
            r->name, word, ids->len);
    encoder_free(&n);
    return rc;
}

int recipe_step_token(const struct recipe *r, const struct tokenizer *t, int32_t *id, struct err *e)
{
    if (!t)
        return err_set(
            e, ASSAY_EFORMAT, "--recipe %s: expected a tokenizer.json, found none", r->name);
    return recipe_find_word(r, t, r->form.step_word, id, e);
}

int recipe_head(
    const struct recipe *r, const struct tokenizer *t, char out[RECIPE_HEAD_BYTES], struct err *e)
{
    int32_t ids[2] = {0};
    int rc = 0;
    if (!r->words[0]) {
        snprintf(out, RECIPE_HEAD_BYTES, "%s", r->head ? r->head : "auto");
        return 0;
    }
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = recipe_find_word(r, t, r->words[i], &ids[i], e);
    snprintf(out, RECIPE_HEAD_BYTES, "lm:%d,%d:%s", ids[0], ids[1], r->how);
    return rc;
}

int recipe_head_of_dir(
    const struct recipe *r, const char *dir, char out[RECIPE_HEAD_BYTES], struct err *e)
{
    struct tokenizer *t = NULL;
    struct err why = {0};
    if (!r->words[0])
        return recipe_head(r, NULL, out, e);
    if (tokenizer_is_there(dir, &why) != 0 || tokenizer_load(&t, dir, &why) != 0)
        return err_set(e, ASSAY_EFORMAT, "--recipe %s: expected a tokenizer: %s", r->name, why.msg);
    int rc = recipe_head(r, t, out, e);
    tokenizer_free(&t);
    return rc;
}
