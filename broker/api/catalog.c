/* catalog.c - finds a model by its name, or says which there are (catalog.h). */
#include "broker/api/catalog.h"

#include <assert.h>
#include <stdio.h>

#define SHOWN 80

void catalog_add(struct catalog *c, const struct catalog_model *m)
{
    assert(c->n < CATALOG_MOST);
    c->of[c->n++] = *m;
}

const struct catalog_model *catalog_of_id(const struct catalog *c, uint32_t id)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->of[i].id == id)
            return &c->of[i];
    return NULL;
}

static int is_unknown(const struct catalog *c, const char *field, struct slice name, struct err *e)
{
    char names[280] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < c->n && n < sizeof names; i++)
        n += (size_t)snprintf(
            names + n, sizeof names - n, "%s%s", i ? ", " : "", c->of[i].info->name);
    return err_field(e, ASSAY_EMODEL, field, "expected %s%s, found '%.*s'",
        c->n > 1 ? "one of " : "", names, (int)(name.len < SHOWN ? name.len : SHOWN),
        (const char *)name.at);
}

int catalog_find(const struct catalog *c, const char *field, struct slice name,
    const struct catalog_model **m, struct err *e)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (slice_is(name, c->of[i].info->name)) {
            *m = &c->of[i];
            return 0;
        }
    return is_unknown(c, field, name, e);
}
