/* config_activation.c - the activation that a checkpoint's files name (config.h).
 *
 * As the references read it: sentence-transformers' CrossEncoder takes activation_fn of
 * config_sentence_transformers.json, else sentence_transformers.activation_fn of config.json, else
 * the older sbert_ce_default_activation_function there; transformers' pipeline takes problem_type.
 * Where two of them say different things, or none says any, there is nothing to take. */
#include "worker/config.h"

#include <stdio.h>
#include <string.h>

#include "schema/json.h"
#include "schema/regular.h"

/* What a field says: its activation, or ACTIVATION_DEFAULT where it is not there; -1: not known. */
static int by_path(const char *path)
{
    static const struct {
        const char *end;
        enum activation activation;
    } known[] = {{".Sigmoid", ACTIVATION_SIGMOID}, {".Identity", ACTIVATION_NONE},
        {".Softmax", ACTIVATION_SOFTMAX}};
    size_t len = strlen(path);
    for (size_t i = 0; strncmp(path, "torch.nn.", 9) == 0 && i < 3; i++)
        if (len > strlen(known[i].end) &&
            strcmp(path + len - strlen(known[i].end), known[i].end) == 0)
            return (int)known[i].activation;
    return -1;
}

static int by_problem(const char *type, uint32_t n_labels)
{
    if (strcmp(type, "regression") == 0)
        return ACTIVATION_NONE;
    if (strcmp(type, "multi_label_classification") == 0)
        return ACTIVATION_SIGMOID;
    if (strcmp(type, "single_label_classification") == 0)
        return n_labels == 1 ? ACTIVATION_SIGMOID : ACTIVATION_SOFTMAX;
    return -1;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* Takes what a field says; `why` says what is wrong with it. */
static void take(struct model_config *c, const char *field, const char *text, int found)
{
    if (found < 0)
        snprintf(c->no_config_activation, sizeof c->no_config_activation,
            "%s: expected %s, found '%.80s'", field,
            strstr(field, "problem_type")
                ? "regression, single_label_classification or multi_label_classification"
                : "torch's Sigmoid, Identity or Softmax",
            text);
    else if (c->config_activation != ACTIVATION_DEFAULT && (int)c->config_activation != found)
        snprintf(c->no_config_activation, sizeof c->no_config_activation,
            "%s says %s, and another field %s; expected one activation", field,
            activation_name(found), activation_name((int)c->config_activation));
    else
        c->config_activation = (enum activation)found;
}

#define FILE_BESIDE "config_sentence_transformers.json"

/* Takes what the file beside config.json says. Returns whether it says anything. */
static int take_beside(struct model_config *c, const char *dir)
{
    char path[4200];
    struct err why = {0};
    snprintf(path, sizeof path, "%.4000s/" FILE_BESIDE, dir);
    if (!regular_exists(path))
        return 0;
    json_t *root = json_read_file(dir, FILE_BESIDE, 1u << 20, &why);
    const char *text = text_of(root, "activation_fn");
    if (!root)
        snprintf(c->no_config_activation, sizeof c->no_config_activation, "%.200s", why.msg);
    else if (text)
        take(c, FILE_BESIDE ": activation_fn", text, by_path(text));
    int says = !root || text;
    json_decref(root);
    return says;
}

void model_config_read_activation(
    struct model_config *c, const struct json_file *f, const char *dir)
{
    const json_t *config = f->object;
    const char *older = text_of(config, "sbert_ce_default_activation_function");
    const char *newer = text_of(json_object_get(config, "sentence_transformers"), "activation_fn");
    const char *problem = text_of(config, "problem_type");
    c->config_activation = ACTIVATION_DEFAULT;
    c->no_config_activation[0] = '\0';
    int beside = take_beside(c, dir);
    if (!beside && newer)
        take(c, "config.json: sentence_transformers.activation_fn", newer, by_path(newer));
    else if (!beside && older)
        take(c, "config.json: sbert_ce_default_activation_function", older, by_path(older));
    if (problem && !c->no_config_activation[0])
        take(c, "config.json: problem_type", problem, by_problem(problem, c->n_labels));
    if (!beside && !newer && !older && !problem)
        snprintf(c->no_config_activation, sizeof c->no_config_activation,
            "config.json: expected sentence_transformers.activation_fn, "
            "sbert_ce_default_activation_function or problem_type, or activation_fn in " FILE_BESIDE
            ", found none of them");
    if (c->no_config_activation[0])
        c->config_activation = ACTIVATION_DEFAULT;
}
