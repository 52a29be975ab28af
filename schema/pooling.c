/* pooling.c - names of pool types and activations. See pooling.h. */
#include "schema/pooling.h"

#include <string.h>

static const char *const pool_names[] = {
    "DEFAULT", "LAST", "ALL", "STEP", "MEAN", "CLS", "POSITIONS"};
static const char *const activation_names[] = {
    "default", "none", "softmax", "sigmoid", "class1", "config"};

static int find(const char *const *names, int n, const char *name, unsigned long len)
{
    for (int i = 1; i < n; i++)
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
            return i;
    return -1;
}

int pool_type_from_name(const char *name, unsigned long len)
{
    return find(pool_names, 7, name, len);
}

const char *pool_type_name(int type)
{
    return type >= 0 && type < 7 ? pool_names[type] : "?";
}

int activation_from_name(const char *name, unsigned long len)
{
    return find(activation_names, 6, name, len);
}

const char *activation_name(int activation)
{
    return activation >= 0 && activation < 6 ? activation_names[activation] : "?";
}

uint32_t activation_values(int activation, uint32_t n_labels)
{
    return activation == ACTIVATION_CLASS1 ? 1 : n_labels;
}

struct pooling pooling_resolve(struct pooling asked, struct pooling own)
{
    return (struct pooling){asked.type == POOL_DEFAULT ? own.type : asked.type,
        asked.activation == ACTIVATION_DEFAULT ? own.activation : asked.activation,
        asked.step_token < 0 ? own.step_token : asked.step_token};
}
