/* module_names.c - see module_names.h. Each pattern is compiled once and tried on the name of every
 * module. Names are as in the reference's model: "model.layers.0.mlp.up_proj". */
#include "worker/module_names.h"

#include <stdio.h>
#include <string.h>

#include "worker/layer_matrix.h"
#include "worker/module_pattern.h"

#define MOST_NAMES 10000

/* One entry of the list. */
struct entry {
    const char *text; /* a name; or NULL: */
    struct module_pattern *pattern;
    int failed; /* a match took too many steps */
};

static int matches(struct entry *p, const char *name)
{
    if (p->text)
        return strcmp(p->text, name) == 0;
    int rc = module_pattern_matches(p->pattern, name);
    p->failed |= rc < 0;
    return rc == 1;
}

static int is_class(const struct entry *p, const char *class_name)
{
    return p->text && strcmp(p->text, class_name) == 0;
}

static int matches_head(struct entry *p, const struct model_config *c)
{
    char name[96];
    if (c->head->kind != HEAD_MLP)
        return matches(p, c->head_name);
    snprintf(name, sizeof name, "%s.0", c->head_name);
    int found = matches(p, name);
    snprintf(name, sizeof name, "%s.2", c->head_name);
    return matches(p, name) || found;
}

static void add_matches(struct modules *m, struct entry *p, const struct model_config *c)
{
    char name[96];
    int all = is_class(p, "Linear");
    for (uint32_t i = 0; i < c->n_layers; i++)
        for (int k = 0; k < N_LAYER_MATRICES; k++) {
            snprintf(name, sizeof name, "model.layers.%u.%s", i, layer_matrix_names[k]);
            if (all || matches(p, name))
                m->matrices[i] |= (uint8_t)(1 << k);
        }
    m->head |= all || matches_head(p, c);
    m->embedding |= is_class(p, "Embedding") || matches(p, "model.embed_tokens");
}

static int open_entry(
    struct entry *p, const struct json_file *f, const char *key, const char *text, struct err *e)
{
    size_t at;
    *p = (struct entry){.text = text};
    if (strncmp(text, "re:", 3) != 0)
        return 0;
    *p = (struct entry){.pattern = module_pattern_new(text + 3, MODULE_BEGINNING, &at)};
    return p->pattern ? 0
                      : err_set(e, ASSAY_EFORMAT,
                            "%s: %s%s: expected patterns, found '%.80s', which fails at character "
                            "%zu",
                            f->file, f->where, key, text, at);
}

static int add_entry(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, const char *text, struct err *e)
{
    struct entry p;
    int rc = open_entry(&p, f, key, text, e);
    if (rc != 0)
        return rc;
    add_matches(m, &p, c);
    module_pattern_free(&p.pattern);
    return p.failed ? err_set(e, ASSAY_EFORMAT,
                          "%s: %s%s: expected patterns that are quickly tried, found '%.80s'",
                          f->file, f->where, key, text)
                    : 0;
}

/* Calls `add` with each name of the list at `key`. */
static int each_name(const struct json_file *f, const char *key, struct err *e,
    int (*add)(void *arg, const char *name, struct err *e), void *arg)
{
    const json_t *list = json_object_get(f->object, key);
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) > MOST_NAMES)
        return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected a list of at most %d names", f->file,
            f->where, key, MOST_NAMES);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        int rc = text ? add(arg, text, e)
                      : err_set(e, ASSAY_EFORMAT, "%s: %s%s[%zu]: expected a name, found no string",
                            f->file, f->where, key, i);
        if (rc != 0)
            return rc;
    }
    return 0;
}

struct naming {
    struct modules *m, *of_autoawq;
    const struct model_config *c;
    const struct json_file *f;
    const char *key;
};

static int add_named(void *arg, const char *name, struct err *e)
{
    struct naming *n = arg;
    return add_entry(n->m, n->c, n->f, n->key, name, e);
}

int modules_named(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, struct err *e)
{
    return each_name(f, key, e, add_named, &(struct naming){m, NULL, c, f, key});
}

static int add_pattern(
    struct naming *n, struct modules *m, const char *format, const char *name, struct err *e)
{
    char pattern[600];
    if (snprintf(pattern, sizeof pattern, format, name) >= (int)sizeof pattern)
        return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected names, found one of %zu bytes",
            n->f->file, n->f->where, n->key, strlen(name));
    return add_entry(m, n->c, n->f, n->key, pattern, e);
}

static int add_kept(void *arg, const char *name, struct err *e)
{
    struct naming *n = arg;
    int rc = add_pattern(n, n->m, "re:(?:%s)(?:(?<=\\.)|(?=\\.|$))", name, e);
    if (rc == 0)
        rc = add_pattern(n, n->m, "re:.*\\Q%s\\E$", name, e);
    return rc == 0 && n->of_autoawq ? add_pattern(n, n->of_autoawq, "re:.*\\Q%s\\E", name, e) : rc;
}

int modules_kept(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, struct err *e)
{
    return each_name(f, key, e, add_kept, &(struct naming){m, NULL, c, f, key});
}

int modules_kept_alike(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, struct err *e)
{
    struct modules of_autoawq = {.head = 0};
    int rc = each_name(f, key, e, add_kept, &(struct naming){m, &of_autoawq, c, f, key});
    for (uint32_t i = 0; rc == 0 && i < c->n_layers; i++)
        if (m->matrices[i] != of_autoawq.matrices[i])
            rc = err_set(e, ASSAY_EFORMAT,
                "%s: %s%s: transformers and AutoAWQ leave other matrices of layer %u; expected "
                "whole "
                "names of modules, such as 'model.layers.%u' or 'mlp.down_proj'",
                f->file, f->where, key, i, i);
    return rc;
}
