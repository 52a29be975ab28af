/* keys.c - see keys.h. */
#include "broker/http/keys.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "schema/alloc.h"
#include "schema/regular.h"
#include "schema/utf8.h"

#define KEYS_MOST 1024
#define LINE_BYTES 1024
#define NAME_BYTES 65

struct key {
    char name[NAME_BYTES];
    int is_admin;
    unsigned char hash[crypto_generichash_BYTES];
};

struct keys {
    struct key *all;
    int n;
};

static void hash_token(unsigned char *hash, const char *token)
{
    crypto_generichash(
        hash, crypto_generichash_BYTES, (const unsigned char *)token, strlen(token), NULL, 0);
}

static int add(struct keys *keys, char *line, const char *path, int number, struct err *e)
{
    char *rest = NULL, *name = strtok_r(line, " \t\r\n", &rest);
    char *token = name ? strtok_r(NULL, " \t\r\n", &rest) : NULL;
    char *right = token ? strtok_r(NULL, " \t\r\n", &rest) : NULL;
    if (!name || *name == '#')
        return 0;
    if (!token || (right && strcmp(right, "admin") != 0) || strtok_r(NULL, " \t\r\n", &rest) ||
        strlen(name) >= NAME_BYTES ||
        utf8_valid((const uint8_t *)name, strlen(name)) < strlen(name))
        return err_set(e, ASSAY_EFORMAT,
            "%s: line %d: expected a name in UTF-8, a token and perhaps the word admin", path,
            number);
    if (strlen(token) < KEYS_LEAST_BYTES)
        return err_set(e, ASSAY_EFORMAT,
            "%s: line %d: expected a token of at least %d bytes, found "
            "%zu",
            path, number, KEYS_LEAST_BYTES, strlen(token));
    if (keys->n == KEYS_MOST)
        return err_set(e, ASSAY_EFORMAT, "%s: expected at most %d keys", path, KEYS_MOST);
    struct key *key = &keys->all[keys->n++];
    snprintf(key->name, sizeof key->name, "%s", name);
    key->is_admin = right != NULL;
    hash_token(key->hash, token);
    return 0;
}

static int read_lines(struct keys *keys, FILE *f, const char *path, struct err *e)
{
    char line[LINE_BYTES];
    int rc = 0;
    for (int number = 1; rc == 0 && fgets(line, sizeof line, f); number++)
        rc = strlen(line) == sizeof line - 1
                 ? err_set(e, ASSAY_EFORMAT, "%s: line %d: too long", path, number)
                 : add(keys, line, path, number, e);
    sodium_memzero(line, sizeof line);
    if (rc == 0 && ferror(f))
        rc = err_errno(e, ASSAY_EIO, "%s", path);
    if (rc == 0 && keys->n == 0)
        rc = err_set(e, ASSAY_EFORMAT, "%s: expected at least one key, found none", path);
    return rc;
}

int keys_read(struct keys **out, const char *path, struct err *e)
{
    struct stat st;
    FILE *f = regular_stream(path, &st, e);
    *out = NULL;
    if (!f)
        return e->code;
    struct keys *keys = xcalloc(1, sizeof *keys);
    keys->all = xcalloc(KEYS_MOST, sizeof *keys->all);
    int rc = (st.st_mode & 077) == 0
                 ? read_lines(keys, f, path, e)
                 : err_set(e, ASSAY_EUNAUTHORIZED,
                       "%s: expected a file that only its owner may read (chmod 600)", path);
    fclose(f);
    *out = keys;
    if (rc != 0)
        keys_free(out);
    return rc;
}

void keys_free(struct keys **keys)
{
    if (*keys)
        free((*keys)->all);
    free(*keys);
    *keys = NULL;
}

static const struct key *find(const struct keys *keys, const char *authorization)
{
    unsigned char hash[crypto_generichash_BYTES];
    const struct key *found = NULL;
    if (!keys || !authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    authorization += 7;
    while (*authorization == ' ')
        authorization++;
    hash_token(hash, authorization);
    for (int i = 0; i < keys->n; i++)
        if (sodium_memcmp(hash, keys->all[i].hash, sizeof hash) == 0)
            found = &keys->all[i];
    return found;
}

const char *keys_find(const struct keys *keys, const char *authorization)
{
    const struct key *found = find(keys, authorization);
    return found ? found->name : NULL;
}

int keys_may_change(const struct keys *keys, const char *authorization)
{
    const struct key *found = find(keys, authorization);
    return found && found->is_admin;
}

struct asker keys_asker(const struct keys *keys, const char *authorization)
{
    const struct key *found = find(keys, authorization);
    return (struct asker){found ? found->name : NULL, !keys || (found && found->is_admin)};
}
