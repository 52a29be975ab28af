/* asker.h - who asks for files and batches, and which of them are there for it.
 *
 * A file or batch is its maker's, by the name of the API key. Others do not find it, as if it did not
 * exist; a key with the word admin sees all. Tokens of one name see the same, so a token can be
 * replaced. What was made without a key has no owner: only admins see it where keys are asked for. */
#ifndef ASSAY_HTTP_ASKER_H
#define ASSAY_HTTP_ASKER_H

#include <string.h>

struct asker {
    const char *name; /* of its key; NULL: it has none */
    int sees_all;     /* an admin; anybody, where no keys are asked for; this process itself */
};

/* owner: a name; NULL or "": none. */
static inline int asker_sees(const struct asker *asker, const char *owner)
{
    return asker->sees_all || (owner && *owner && asker->name && strcmp(asker->name, owner) == 0);
}

/* This process, for its own work. */
static const struct asker asker_own __attribute__((unused)) = {NULL, 1};

#endif
