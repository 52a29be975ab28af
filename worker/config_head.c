/* config_head.c - which head a checkpoint is scored with (config.h, model_config_read_head).
 *
 * The architecture names it. A language model (*ForCausalLM) has none that scores: it is scored by
 * rows of its own head that --head names, or by the value head of a value_head.safetensors beside
 * the model, as LLaMA-Factory writes it. Where both are there, or neither, it is refused. */
#include "worker/config.h"

#include <stdio.h>
#include <string.h>

#include "schema/json.h"
#include "schema/regular.h"
#include "worker/directory.h"

static int read_labels(struct model_config *c, const struct json_file *f, struct err *e)
{
    int64_t n = 2; /* the reference's default */
    const json_t *names = json_object_get(f->object, "id2label");
    int rc = json_get_int(f, "num_labels", 1, MODEL_MAX_LABELS, &n, e);
    if (rc < 0)
        return rc;
    if (rc == 0 && json_is_object(names))
        n = (int64_t)json_object_size(names);
    if (n < 1 || n > MODEL_MAX_LABELS)
        return err_set(e, ASSAY_EFORMAT, "%s: id2label: expected 1 to %d labels, found %lld",
            f->file, MODEL_MAX_LABELS, (long long)n);
    c->n_labels = (uint32_t)n;
    return 0;
}

static int has_file(const char *dir, const char *name)
{
    char path[4200];
    snprintf(path, sizeof path, "%.4000s/%s", dir, name);
    return regular_exists(path);
}

static int take_tokens(struct model_config *c, const char *option, struct err *e)
{
    int rc = head_option_parse(&c->tokens, option, e);
    for (uint32_t i = 0; rc == 0 && i < c->tokens.n; i++)
        if (c->tokens.ids[i] >= c->vocab_size)
            rc = err_set(e, ASSAY_EUNSUPPORTED,
                "--head %s: expected tokens below vocab_size (%u), found %u", c->tokens.text,
                c->vocab_size, c->tokens.ids[i]);
    c->head = &head_of_tokens;
    return rc;
}

static int choose_language_head(struct model_config *c, const struct json_file *f, const char *dir,
    const char *option, struct err *e)
{
    int beside = has_file(dir, VALUE_HEAD_FILE), is_auto = strcmp(option, "auto") == 0;
    if (beside && !is_auto)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s/" VALUE_HEAD_FILE
            ": a head beside the one that --head %.60s names; expected one of "
            "them: leave the option out, or move the file away",
            dir, option);
    if (!is_auto)
        return take_tokens(c, option, e);
    c->head = &head_of_value;
    if (beside)
        return 0;
    if (has_file(dir, "value_head.bin"))
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s/value_head.bin: PyTorch's format; expected " VALUE_HEAD_FILE
            ": torch.load it with weights_only=True, then safetensors.torch.save_file",
            dir);
    return err_set(e, ASSAY_EUNSUPPORTED,
        "%s: architectures: %s is a language model, which has no score of its own; say which "
        "tokens' logits are the score: --recipe NAME (assay info --recipes), or --head "
        "lm:ID,ID:softmax (or difference, raw), --head "
        "lm:ID:raw (or sigmoid)",
        f->file, c->architecture->name);
}

static int choose_head(struct model_config *c, const struct json_file *f, const char *dir,
    const char *option, struct err *e)
{
    if (c->architecture->head->kind == HEAD_ASK)
        return choose_language_head(c, f, dir, option, e);
    if (strcmp(option, "auto") != 0)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--head %.60s: %s has a head of its own; expected auto", option, c->architecture->name);
    if (has_file(dir, VALUE_HEAD_FILE))
        return err_set(e, ASSAY_EFORMAT,
            "%s/" VALUE_HEAD_FILE ": a head beside the one of %s; expected one of them: move the "
            "file away, or name the language model in architectures",
            dir, c->architecture->name);
    return 0;
}

/* OpenRLHF's config says what the tensor is called. */
static int read_head_name(struct model_config *c, const struct json_file *f, struct err *e)
{
    const char *name = c->head->name;
    if (c->head->named_by_config && json_get_string(f, "value_head_prefix", &name, e) < 0)
        return ASSAY_EFORMAT;
    if (name && (*name == 0 || strlen(name) >= sizeof c->head_name))
        return err_set(e, ASSAY_EFORMAT,
            "%s: value_head_prefix: expected 1 to %zu bytes, found '%.80s'", f->file,
            sizeof c->head_name - 1, name);
    snprintf(c->head_name, sizeof c->head_name, "%s", name ? name : "lm_head");
    return 0;
}

static int read_mean(struct model_config *c, const struct json_file *f, double *std, struct err *e)
{
    int has_mean = json_get_real(f, "mean", -1e30, 1e30, &c->mean, e),
        has_std = has_mean < 0 ? has_mean : json_get_real(f, "std", 1e-30, 1e30, std, e);
    if (has_std < 0)
        return has_std;
    if (has_mean == has_std)
        return has_mean;
    return err_set(e, ASSAY_EFORMAT, "%s: %s: expected a number beside %s, found nothing", f->file,
        has_mean ? "std" : "mean", has_mean ? "mean" : "std");
}

/* OpenRLHF's config has the mean and the standard deviation of the training set's scores, and
 * normalize_reward says whether scores are normalized by them. */
static int read_normalizing(struct model_config *c, const struct json_file *f, struct err *e)
{
    int normalizes = 0, said = json_get_bool(f, "normalize_reward", &normalizes, e);
    double std = 1;
    if (said < 0)
        return said;
    if (normalizes && !c->head->named_by_config)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: normalize_reward: %s does not normalize; expected false, or OpenRLHF's "
            "RewardModel "
            "in architectures",
            f->file, c->architecture->name);
    int has_mean = c->head->named_by_config ? read_mean(c, f, &std, e) : 0;
    if (has_mean < 0)
        return has_mean;
    if (has_mean && !said)
        return err_set(e, ASSAY_EFORMAT,
            "%s: normalize_reward: expected true or false beside mean and std, found nothing: true "
            "for (reward - mean) / std, false for the reward",
            f->file);
    c->std = normalizes ? std : 0;
    return 0;
}

static int read_score(struct model_config *c, const struct json_file *f, struct err *e)
{
    enum token_score how = c->tokens.how;
    c->pool.type = c->head->pool;
    c->pool.activation = c->head->activation;
    if (c->tokens.n > 0 && (how == TOKENS_SIGMOID || how == TOKENS_SOFTMAX))
        c->pool.activation = ACTIVATION_SIGMOID;
    c->head_bias = c->head->bias != HEAD_BIAS_NONE;
    c->n_labels = c->tokens.n == 2 && how == TOKENS_RAW ? 2 : c->head->n_labels;
    if (c->head->bias == HEAD_BIAS_CONFIG &&
        json_get_bool(f, "token_classification_bias", &c->head_bias, e) < 0)
        return ASSAY_EFORMAT;
    int rc = c->n_labels > 0 ? 0 : read_labels(c, f, e);
    if (rc == 0 && c->pool.activation == ACTIVATION_CLASS1 && c->n_labels < 2)
        c->pool.activation = ACTIVATION_NONE;
    return rc;
}

int model_config_read_head(struct model_config *c, const struct json_file *f, const char *dir,
    const char *option, struct err *e)
{
    int rc = choose_head(c, f, dir, option, e);
    if (rc == 0)
        rc = read_head_name(c, f, e);
    if (rc == 0)
        rc = read_normalizing(c, f, e);
    return rc == 0 ? read_score(c, f, e) : rc;
}
