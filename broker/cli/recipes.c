/* recipes.c - `assay info --recipes`, and what may not stand beside --recipe (text/recipe.h). */
#include <stdio.h>
#include <stdlib.h>

#include "broker/cli/cli.h"
#include "broker/cli/json_print.h"
#include "broker/text/recipe.h"

int cli_check_recipe(const struct cli *c)
{
    static const enum cli_option others[] = {CLI_HEAD, CLI_POOL, CLI_STEP_TOKEN, CLI_ACTIVATION,
        CLI_PAD_RULE, CLI_TAIL, CLI_GENERATION_PROMPT};
    static const enum cli_option of_templates[] = {CLI_CHAT_TEMPLATE, CLI_TEMPLATE_DATE};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (c->value[others[i]])
            return cli_usage("--recipe and --%s: expected one of them; the recipe says it already",
                cli_option_info(others[i])->name);
    for (int i = 0; i < 2 && !recipe_uses_template(recipe_find(c->value[CLI_RECIPE])); i++)
        if (c->value[of_templates[i]])
            return cli_usage(
                "--recipe and --%s: expected one of them; the recipe %s writes its own "
                "text",
                cli_option_info(of_templates[i])->name, c->value[CLI_RECIPE]);
    return 0;
}

static void describe_head(const struct recipe *r, char *out, size_t size)
{
    if (r->words[0])
        snprintf(out, size, "tokens '%s' and '%s': %s", r->words[0], r->words[1], r->how);
    else
        snprintf(out, size, "%s", r->head ? r->head : "the checkpoint's own");
}

static void print_recipe(const struct recipe *r)
{
    char head[120];
    describe_head(r, head, sizeof head);
    printf("%s\n", r->name);
    printf("  for            %s\n", r->checkpoints);
    printf("  architectures  %s\n", r->architectures);
    printf("  head           %s\n", head);
    printf("  rows           %s\n", recipe_rows(r));
    printf("  text           %s\n", r->text);
    printf("  scored         %s\n", r->pooled);
    if (r->by_itself)
        printf("  chosen         by itself for these rows: nobody else has the architecture\n");
}

static json_t *recipe_json(const struct recipe *r)
{
    char head[120];
    describe_head(r, head, sizeof head);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "name", r->name, "for",
        r->checkpoints, "architectures", r->architectures, "head", head, "rows", recipe_rows(r),
        "text", r->text, "scored", r->pooled, "by_itself", r->by_itself);
}

int print_recipes(const struct cli *c)
{
    struct err e = {0};
    const struct recipe *r;
    json_t *all = json_array();
    for (size_t k = 0; (r = recipe_at(k)); k++)
        if (c->value[CLI_JSON])
            json_array_append_new(all, recipe_json(r));
        else
            print_recipe(r);
    int rc = c->value[CLI_JSON] ? json_print_line(stdout, all, &e) : 0;
    json_decref(all);
    return rc == 0 ? EX_OK : cli_fail(&e);
}
