/* model_info.c - runs `assay-worker --describe`, and reads and checks the JSON that it prints
 * (model_info.h). */
#include "broker/workers/model_info.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/recipe.h"
#include "broker/workers/spawn.h"
#include "schema/alloc.h"
#include "schema/pooling.h"
#include "schema/utf8.h"

#define OUTPUT_BYTES (1u << 20)

static int text_field(const json_t *o, const char *key, char *to, size_t size)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? snprintf(to, size, "%s", s) >= (int)size : 1;
}

static int take_labels(struct model_info *m, const json_t *names)
{
    if (!json_is_array(names) || json_array_size(names) != m->n_labels)
        return 0;
    m->labels = xcalloc(m->n_labels, sizeof *m->labels);
    for (uint32_t i = 0; i < m->n_labels; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        m->labels[i] = strdup(name ? name : "");
        if (!m->labels[i])
            return -1;
    }
    return 0;
}

static int take_adapters(struct model_info *m, const json_t *list)
{
    m->adapters.n = (uint32_t)json_array_size(list);
    if (!json_is_array(list) || m->adapters.n > ADAPTERS_MOST)
        return -1;
    for (uint32_t i = 0; i < m->adapters.n; i++) {
        const json_t *o = json_array_get(list, i);
        if (text_field(o, "name", m->adapters.at[i].name, sizeof m->adapters.at[i].name) ||
            text_field(o, "digest", m->adapters.at[i].digest, sizeof m->adapters.at[i].digest))
            return -1;
    }
    return 0;
}

static int take_description(struct model_info *m, const json_t *o, struct err *e)
{
    char pool[16], activation[16], named[16];
    int bad = text_field(o, "architecture", m->architecture, sizeof m->architecture) ||
              text_field(o, "digest", m->digest, sizeof m->digest) ||
              text_field(o, "identity", m->identity, sizeof m->identity) ||
              text_field(o, "dtype", m->dtype, sizeof m->dtype) ||
              text_field(o, "mode", m->rank_mode, sizeof m->rank_mode) ||
              text_field(o, "default_pool", pool, sizeof pool) ||
              text_field(o, "default_activation", activation, sizeof activation) ||
              text_field(o, "config_activation", named, sizeof named) ||
              text_field(o, "no_config_activation", m->no_config_activation,
                  sizeof m->no_config_activation);
    m->vocab_size = (uint32_t)json_integer_value(json_object_get(o, "vocab_size"));
    m->max_len = (uint32_t)json_integer_value(json_object_get(o, "max_len"));
    m->weight_bytes = (uint64_t)json_integer_value(json_object_get(o, "weight_bytes"));
    m->n_labels = (uint32_t)json_integer_value(json_object_get(o, "n_labels"));
    m->hidden_size = (uint32_t)json_integer_value(json_object_get(o, "hidden_size"));
    m->pool.step_token = (int32_t)json_integer_value(json_object_get(o, "step_token"));
    m->pad_token = (int32_t)json_integer_value(json_object_get(o, "pad_token"));
    json_int_t pad_rule = json_integer_value(json_object_get(o, "pad_rule"));
    m->pad_rule = pad_rule != PAD_RULE_NONE;
    m->pad_first = pad_rule == PAD_RULE_BEFORE_FIRST;
    m->shares_prefixes = json_is_true(json_object_get(o, "shares_prefixes"));
    m->pool.type = bad ? -1 : pool_type_from_name(pool, strlen(pool));
    m->pool.activation = bad ? -1 : activation_from_name(activation, strlen(activation));
    int found = bad ? -1 : activation_from_name(named, strlen(named));
    m->config_activation = found > 0 ? found : ACTIVATION_DEFAULT;
    if (bad || m->vocab_size == 0 || m->hidden_size == 0 || m->max_len == 0 || m->n_labels == 0 ||
        m->pool.type < 0 || m->pool.activation < 0 ||
        take_labels(m, json_object_get(o, "labels")) != 0 ||
        take_adapters(m, json_object_get(o, "adapters")) != 0)
        return err_set(e, ASSAY_EINTERNAL,
            "the worker's description of the model is not what this broker expects");
    return 0;
}

void model_info_set_pad_rule(struct model_info *m, const char *word)
{
    int asked = strcmp(word, "auto") == 0 ? m->pad_rule : strcmp(word, "on") == 0;
    m->pad_rule = asked && m->pad_token >= 0;
    const char *tail = m->tail && strcmp(m->tail, "none") != 0 ? m->tail : NULL;
    snprintf(m->mode, sizeof m->mode, "%s%s%s%s%s%s%s%s", m->rank_mode, m->text[0] ? " text=" : "",
        m->text, m->pad_rule ? " pad_rule=on" : "", tail ? " tail=" : "", tail ? tail : "",
        m->recipe ? " recipe=" : "", m->recipe ? m->recipe->name : "");
}

static void name_model(struct model_info *m, const char *dir)
{
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && dir[start - 1] != '/')
        start--;
    snprintf(m->name, sizeof m->name, "%.*s", (int)(end - start), dir + start);
    utf8_make_printable(m->name);
}

int model_info_load(struct model_info *m, const struct model_question *q, struct err *e)
{
    char tp_text[16], pp_text[16], len_text[16], gpu_text[16], kv_text[24], words[4096];
    char *out = xcalloc(1, OUTPUT_BYTES);
    snprintf(tp_text, sizeof tp_text, "%u", q->tp);
    snprintf(pp_text, sizeof pp_text, "%u", q->pp);
    snprintf(len_text, sizeof len_text, "%u", q->max_len);
    snprintf(gpu_text, sizeof gpu_text, "%d", q->gpu);
    snprintf(kv_text, sizeof kv_text, "%llu", (unsigned long long)q->kv_cache_bytes);
    char cache[4200];
    snprintf(cache, sizeof cache, "%s/digest.cache", q->cache_dir);
    const char *argv[36 + 2 * ADAPTERS_MOST] = {q->worker_path, "--describe", "--model",
        q->model_dir, "--tp", tp_text, "--max-len", len_text, "--gpu", gpu_text, "--cache-dir",
        q->cache_dir, "--digest-cache", cache, "--quant", q->quant, "--dtype", q->dtype,
        "--weights", q->weights, "--activations", q->activations, "--head", q->head, "--kv-cache",
        kv_text, "--pp", pp_text};
    for (uint32_t i = 0, n = 28; i < q->n_loras; i++) {
        argv[n++] = "--lora";
        argv[n++] = q->loras[i];
    }
    json_error_t why;
    json_t *o = NULL;
    *m = (struct model_info){0};
    int rc = child_output((char *const *)argv, (struct child_limits){q->limit_ms, q->stop_fd},
        (struct child_text){out, OUTPUT_BYTES}, (struct child_text){words, sizeof words}, e);
    if (rc > 0) {
        rc = err_set(e, ASSAY_EFORMAT, "%s", child_last_line(words, "the worker gave no reason"));
    } else if (rc == 0 && !(o = json_loads(out, 0, &why))) {
        rc = err_set(e, ASSAY_EINTERNAL, "%s --describe: not JSON: %s", q->worker_path, why.text);
    } else if (rc == 0) {
        rc = take_description(m, o, e);
        name_model(m, q->name_of ? q->name_of : q->model_dir);
    }
    json_decref(o);
    free(out);
    if (rc != 0)
        model_info_release(m);
    return rc;
}

void model_info_release(struct model_info *m)
{
    for (uint32_t i = 0; m->labels && i < m->n_labels; i++)
        free(m->labels[i]);
    free(m->labels);
    m->labels = NULL;
}
