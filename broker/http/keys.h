/* keys.h - the file of API keys: one a line, a name and a token of at least KEYS_LEAST_BYTES;
 * behind it perhaps the word admin, for a key that may change jobs and sees all files and batches;
 * empty lines and lines that begin with # are passed over.
 *
 * Only hashes are kept. A token is compared with every key, each in constant time, so the time says
 * nothing of how much of a guess is right. */
#ifndef ASSAY_HTTP_KEYS_H
#define ASSAY_HTTP_KEYS_H

#include "broker/http/asker.h"
#include "schema/err.h"

#define KEYS_LEAST_BYTES 16

struct keys;

/* Reads a file that no other user may read. Returns 0, ASSAY_EUNAUTHORIZED for one that others may,
 * ASSAY_EFORMAT with the line, or ASSAY_EIO. */
int keys_read(struct keys **keys, const char *path, struct err *e);
void keys_free(struct keys **keys);

/* The name of the key in an Authorization header, "Bearer TOKEN"; NULL for any other, and for a
 * header that is NULL. Borrowed. */
const char *keys_find(const struct keys *keys, const char *authorization);
/* Who it is to files and batches. keys NULL: somebody who sees all. */
struct asker keys_asker(const struct keys *keys, const char *authorization);
/* May it pause, resume, cancel and retry jobs? keys NULL: nobody may. */
int keys_may_change(const struct keys *keys, const char *authorization);

#endif
