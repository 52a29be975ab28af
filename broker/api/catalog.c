/* catalog.c - finds a model by its name, or says which there are (catalog.h). */
#include "broker/api/catalog.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "schema/alloc.h"

#define SHOWN 80

struct catalog *catalog_new(uint64_t version)
{
    struct catalog *c = xcalloc(1, sizeof *c);
    c->version = version;
    atomic_init(&c->n_users, 1);
    return c;
}

void catalog_add(struct catalog *c, const struct catalog_model *m)
{
    assert(c->n < CATALOG_MOST);
    c->of[c->n++] = *m;
    c->n_current += m->is_current != 0;
}

struct catalog *catalog_use(struct catalog *c)
{
    if (c)
        atomic_fetch_add(&c->n_users, 1);
    return c;
}

void catalog_let_go(struct catalog **c)
{
    if (*c && atomic_fetch_sub(&(*c)->n_users, 1) == 1)
        free(*c);
    *c = NULL;
}

const struct catalog_model *catalog_first(const struct catalog *c)
{
    uint32_t i = 0;
    assert(c->n_current > 0);
    while (!c->of[i].is_current)
        i++;
    return &c->of[i];
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
        if (c->of[i].is_current)
            n += (size_t)snprintf(
                names + n, sizeof names - n, "%s%s", n > 0 ? ", " : "", c->of[i].info->name);
    return err_field(e, ASSAY_EMODEL, field, "expected %s%s, found '%.*s'",
        c->n_current > 1 ? "one of " : "", names, (int)(name.len < SHOWN ? name.len : SHOWN),
        (const char *)name.at);
}

int catalog_find(const struct catalog *c, const struct catalog_pins *pins, const char *field,
    struct slice name, const struct catalog_model **m, struct err *e)
{
    for (uint32_t i = 0; pins && i < pins->n; i++) {
        const struct catalog_model *pinned = catalog_of_id(c, pins->ids[i]);
        if (pinned && slice_is(name, pinned->info->name)) {
            *m = pinned;
            return 0;
        }
    }
    for (uint32_t i = 0; i < c->n; i++)
        if (c->of[i].is_current && slice_is(name, c->of[i].info->name)) {
            *m = &c->of[i];
            return 0;
        }
    return is_unknown(c, field, name, e);
}
