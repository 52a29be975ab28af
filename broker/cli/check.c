/* check.c - `assay check`: what a checkpoint's directory is taken for, and what is missing. The
 * worker describes config.json and the weights, as it does for a broker; the tokenizer and the chat
 * template are loaded here, as a broker loads them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/json_print.h"
#include "broker/cli/reply.h"
#include "broker/text/adapter_text.h"
#include "broker/text/sample.h"
#include "broker/workers/spawn.h"
#include "schema/alloc.h"

#define OUTPUT_BYTES (1u << 20)
#define LIMIT_MS 3600000 /* the digest of a large checkpoint on a slow disk */
#define MAX_ARGUMENTS (16 + 2 * ADAPTERS_MOST)

struct check {
    const struct cli *cli;
    json_t *model; /* what the worker says */
    struct text_options options;
    struct text_model text; /* released only if it was loaded */
    int has_text;
    int32_t step_token; /* of rows that name none; POOL_NO_STEP_TOKEN: none */
    struct err no_text; /* why texts cannot be scored; code 0: they can */
    const char *kind;   /* rows that need more than a text as it is, for people, */
    struct err no_kind; /* and why they cannot be scored; code 0: they can */
    int is_fault;       /* that is one: texts as they are need no chat template */
};

/* ---- the worker ---- */

static void add_option(const char **argv, int *n, const char *name, const char *value)
{
    if (!value)
        return;
    argv[(*n)++] = name;
    argv[(*n)++] = value;
}

static int describe(struct check *k, struct err *e)
{
    char worker[4200], words[4096];
    const struct cli *c = k->cli;
    const char *argv[MAX_ARGUMENTS] = {worker, "--describe", "--model", c->operand};
    json_error_t why;
    int n = 4;
    const struct recipe *recipe = c->value[CLI_RECIPE] ? recipe_find(c->value[CLI_RECIPE]) : NULL;
    char head[RECIPE_HEAD_BYTES];
    if (recipe && (recipe_check_dir(recipe, c->operand, e) != 0 ||
                      recipe_head_of_dir(recipe, c->operand, head, e) != 0))
        return e->code;
    snprintf(worker, sizeof worker, "%s/assay-worker", c->bin_dir);
    if (c->value[CLI_WORKER])
        snprintf(worker, sizeof worker, "%s", c->value[CLI_WORKER]);
    add_option(argv, &n, "--head", recipe ? head : c->value[CLI_HEAD]);
    add_option(argv, &n, "--weights", c->value[CLI_WEIGHTS]);
    add_option(argv, &n, "--activations", c->value[CLI_ACTIVATIONS]);
    add_option(argv, &n, "--max-len", c->value[CLI_MAX_LEN]);
    for (int i = 0; i < c->n_loras; i++)
        add_option(argv, &n, "--lora", c->loras[i]);
    char *out = xcalloc(1, OUTPUT_BYTES);
    int rc = child_output((char *const *)argv, (struct child_limits){LIMIT_MS, -1},
        (struct child_text){out, OUTPUT_BYTES}, (struct child_text){words, sizeof words}, e);
    if (rc > 0)
        rc = err_set(e, ASSAY_EFORMAT, "%s", child_last_line(words, "the worker gave no reason"));
    if (rc == 0 && !(k->model = json_loads(out, 0, &why)))
        rc = err_set(e, ASSAY_EINTERNAL, "%s --describe: not JSON: %s", worker, why.text);
    free(out);
    return rc;
}

/* ---- the text ---- */

static int is_by_steps(const struct check *k)
{
    return strcmp(reply_text(k->model, "default_pool"), "STEP") == 0;
}

/* The token that ends a step, as the broker takes it. */
static void find_step_token(struct check *k)
{
    int32_t id;
    if (text_model_step_token(&k->text, &id, &k->no_text) == 0 && id >= 0 &&
        id < reply_int(k->model, "vocab_size"))
        k->step_token = id;
}

static int has_template(const struct check *k)
{
    return k->text.chat.template != CHAT_NONE || k->text.chat.origin[0];
}

/* Tries the rows that the recipe takes, or else what the architecture is for. */
static void try_rows(struct check *k)
{
    static const char *const names[] = {"conversations", "prompt and steps", "query and document"};
    const struct recipe *r = k->text.recipe;
    unsigned kinds = r ? r->rows : is_by_steps(k) ? RECIPE_STEPS : RECIPE_ANSWERS;
    k->is_fault = r || has_template(k);
    for (int i = 0; i < 3 && !k->no_kind.code; i++) {
        k->kind = names[i];
        if ((kinds >> i & 1) && (r || i != 1 || k->step_token >= 0))
            sample_write(&k->text, 1u << i, k->step_token, &k->no_kind);
    }
}

/* Are the adapters' rows written as the base's? */
static int check_adapters(const struct check *k, struct err *e)
{
    const struct cli *c = k->cli;
    int rc = 0;
    for (int i = 0; k->has_text && rc == 0 && i < c->n_loras; i++) {
        char name[ADAPTERS_NAME_BYTES];
        size_t n = adapters_name_of(c->loras[i]);
        snprintf(name, sizeof name, "%.*s", (int)n, c->loras[i]);
        uint32_t max_length;
        rc = adapter_text_check(&k->text, &k->options, name, c->loras[i] + n + 1, &max_length, e);
    }
    return rc;
}

static void load_text(struct check *k)
{
    const struct cli *c = k->cli;
    const char *tail = c->value[CLI_TAIL];
    k->options = (struct text_options){c->value[CLI_CHAT_TEMPLATE], c->value[CLI_TEMPLATE_DATE],
        reply_text(k->model, "architecture"),
        c->value[CLI_RECIPE] ? recipe_find(c->value[CLI_RECIPE]) : NULL,
        tail ? (unsigned)tail_from_name(tail) : 0};
    struct text_model *t = &k->text;
    k->step_token = (int32_t)reply_int(k->model, "step_token");
    if (text_model_load(t, c->operand, &k->options, &k->no_text) != 0)
        return;
    k->has_text = 1;
    if (!t->tokenizer)
        err_set(&k->no_text, ASSAY_EBADTEXT, "%s", t->reason);
    else
        find_step_token(k);
    if (!k->no_text.code)
        try_rows(k);
}

static int is_whole(const struct check *k)
{
    return !k->no_text.code && !(k->no_kind.code && k->is_fault);
}

static const char *template_name(const struct check *k)
{
    const struct chat *chat = &k->text.chat;
    if (!k->has_text || chat->template == CHAT_NONE)
        return NULL;
    return chat->template == CHAT_JINJA ? "interpreted" : chat_name(chat->template);
}

/* ---- the report ---- */

static void print_model(const struct check *k)
{
    const json_t *m = k->model;
    printf("model          %s\n", reply_text(m, "architecture"));
    printf("trunk          %lld layers, %lld wide, %lld heads of %lld (%lld for keys and values)\n",
        (long long)reply_int(m, "n_layers"), (long long)reply_int(m, "hidden_size"),
        (long long)reply_int(m, "n_heads"), (long long)reply_int(m, "head_dim"),
        (long long)reply_int(m, "n_kv_heads"));
    printf("weights        %s, %.1f MB, digest %.12s\n", reply_text(m, "dtype"),
        (double)reply_int(m, "weight_bytes") / 1e6, reply_text(m, "digest"));
    printf("vocabulary     %lld ids\n", (long long)reply_int(m, "vocab_size"));
    printf("longest row    %lld tokens\n", (long long)reply_int(m, "max_len"));
    printf("mode           %s\n", reply_text(m, "mode"));
}

static void print_adapters(const struct check *k)
{
    const json_t *list = json_object_get(k->model, "adapters");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *a = json_array_get(list, i);
        printf("%s%s, digest %.12s, %s head\n", i == 0 ? "adapters       " : "               ",
            reply_text(a, "name"), reply_text(a, "digest"),
            json_is_true(json_object_get(a, "has_head")) ? "its own" : "the base's");
    }
}

/* The recipe, or those that there are for the architecture. */
static void print_recipe(const struct check *k)
{
    const struct recipe *r = k->text.recipe;
    struct err why;
    int n = 0;
    if (r)
        printf("recipe         %s%s: %s; scored is %s\n", r->name,
            k->cli->value[CLI_RECIPE] ? "" : ", the architecture's own", r->text, r->pooled);
    for (size_t i = 0; !k->text.recipe && (r = recipe_at(i)); i++)
        if (recipe_check_architecture(r, reply_text(k->model, "architecture"), &why) == 0)
            printf("%s%s",
                n++ ? ", " : "recipes        none is chosen; for the architecture: ", r->name);
    printf("%s", n > 0 ? "\n" : "");
}

static void print_head(const struct check *k)
{
    const json_t *m = k->model;
    int64_t n = reply_int(m, "n_labels"), pad = reply_int(m, "pad_token");
    printf("scores         %lld label%s", (long long)n, cli_s(n));
    if (!k->text.recipe)
        printf(", pooling %s, activation %s", reply_text(m, "default_pool"),
            reply_text(m, "default_activation"));
    if (reply_int(m, "pad_rule") != 0 && pad >= 0)
        printf(", pad token %lld is passed over", (long long)pad);
    printf("\n");
    print_recipe(k);
    if (k->text.recipe)
        return;
    if (is_by_steps(k) && k->step_token >= 0)
        printf("step token     %d\n", (int)k->step_token);
    else if (is_by_steps(k))
        printf("step token     none: rows need --step-token\n");
}

static void print_text(const struct check *k)
{
    const struct chat *chat = &k->text.chat;
    if (k->has_text && k->text.tokenizer)
        printf("tokenizer      BPE over %s, %u ids\n",
            tokenizer_is_of_characters(k->text.tokenizer) ? "characters" : "bytes",
            tokenizer_n_ids(k->text.tokenizer));
    else
        printf("tokenizer      none that can be used\n");
    if (template_name(k))
        printf("chat template  %s%s%s\n", template_name(k), chat->origin[0] ? ", in " : "",
            chat->origin);
    else
        printf("chat template  none: %s\n", k->has_text ? chat->reason : "the files are not read");
    if (k->no_text.code)
        printf("text rows      cannot be scored: %s\n", k->no_text.msg);
    else if (k->no_kind.code)
        printf(
            "text rows      can be scored as they are; %s cannot: %s\n", k->kind, k->no_kind.msg);
    else if (tokenizer_n_ids(k->text.tokenizer) > reply_int(k->model, "vocab_size"))
        printf("text rows      can be scored, except those with ids that the embedding lacks\n");
    else
        printf("text rows      can be scored\n");
}

static int print_json(const struct check *k, struct err *e)
{
    const char *name = template_name(k);
    json_t *line = json_deep_copy(k->model);
    json_object_set_new(line, "step_token", json_integer(k->step_token));
    json_object_set_new(line, "tokenizer_ids",
        k->has_text && k->text.tokenizer ? json_integer(tokenizer_n_ids(k->text.tokenizer))
                                         : json_null());
    json_object_set_new(line, "chat_template", name ? json_string(name) : json_null());
    json_object_set_new(
        line, "chat_template_in", name ? json_string(k->text.chat.origin) : json_null());
    json_object_set_new(
        line, "recipe", k->text.recipe ? json_string(k->text.recipe->name) : json_null());
    const struct err *why = k->no_text.code ? &k->no_text : &k->no_kind;
    json_object_set_new(line, "text_rows", json_boolean(is_whole(k)));
    json_object_set_new(line, "reason", why->code ? json_string(why->msg) : json_null());
    int rc = json_print_line(stdout, line, e);
    json_decref(line);
    return rc;
}

int verb_check(const struct cli *c)
{
    struct check k = {.cli = c};
    struct err e = {0};
    if ((c->value[CLI_RECIPE] && cli_check_recipe(c) != 0) || cli_check_numbers(c) != 0)
        return EX_USAGE;
    for (int i = 0; i < c->n_loras; i++)
        if (!adapters_name_of(c->loras[i]))
            return cli_usage("check: --lora: expected NAME=DIR, NAME of letters, digits, '.', '_' "
                             "and '-', found '%s'",
                c->loras[i]);
    if (describe(&k, &e) != 0)
        return cli_fail(&e);
    load_text(&k);
    int rc = is_whole(&k) ? EX_OK : EX_CONFIG;
    if (check_adapters(&k, &e) != 0) {
        rc = cli_fail(&e);
    } else if (c->value[CLI_JSON]) {
        rc = print_json(&k, &e) != 0 ? cli_fail(&e) : rc;
    } else {
        print_model(&k);
        print_head(&k);
        print_text(&k);
        print_adapters(&k);
    }
    if (k.has_text)
        text_model_release(&k.text);
    json_decref(k.model);
    return rc;
}
