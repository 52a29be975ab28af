/* adapters.h - adapters: what one may be called, how many there may be at once, and the list of
 * those that are loaded. A row names its adapter; where it is computed it has the adapter's number,
 * which is its place in the list, from 1 on. 0 is the base model alone. */
#ifndef ASSAY_ADAPTERS_H
#define ASSAY_ADAPTERS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ADAPTERS_MOST 64
#define ADAPTERS_NAME_BYTES 65

/* The number of an adapter that is not loaded: no row with it is computed. */
#define ADAPTERS_UNKNOWN UINT32_MAX

struct adapters {
    uint32_t n;
    struct {
        char name[ADAPTERS_NAME_BYTES];
        char digest[65];     /* of its files, 64 hex digits */
        uint32_t max_length; /* tokens that its tokenizer's files leave of a text; 0: all */
    } at[ADAPTERS_MOST];
};

/* The number of the adapter of this name, or ADAPTERS_UNKNOWN. `a` may be NULL: there are none. */
static inline uint32_t adapters_find(const struct adapters *a, const char *name, size_t n)
{
    for (uint32_t i = 0; a && i < a->n; i++)
        if (strlen(a->at[i].name) == n && memcmp(a->at[i].name, name, n) == 0)
            return i + 1;
    return ADAPTERS_UNKNOWN;
}

/* Whether these n bytes are a name: 1 to 64 letters, digits, '.', '_' and '-'. */
static inline int adapters_is_name(const char *name, size_t n)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t i = 0;
    while (i < n && memchr(letters, name[i], sizeof letters - 1))
        i++;
    return n > 0 && n < ADAPTERS_NAME_BYTES && i == n;
}

/* The length of NAME in "NAME=DIR", or 0 if the text is not that. */
static inline size_t adapters_name_of(const char *text)
{
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : 0;
    return n > 0 && equals[1] && adapters_is_name(text, n) ? n : 0;
}

#endif
