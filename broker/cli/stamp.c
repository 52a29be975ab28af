/* stamp.c - hashes what an output was made from, and keeps that as an extended attribute of it
 * (stamp.h). */
#include "broker/cli/stamp.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "broker/cli/deflate.h"
#include "schema/regular.h"

#define NAME "user.assay.made"
#define UNFINISHED "unfinished"
#define TEMPLATES "additional_chat_templates" /* the only folder of a checkpoint that counts */

static void add_text(crypto_generichash_state *hash, const char *text)
{
    crypto_generichash_update(hash, (const unsigned char *)text, strlen(text) + 1);
}

static int64_t changed_ns(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* Adds the file's identity, size and times. */
static void add_stat(crypto_generichash_state *hash, const struct stat *st)
{
    char text[200];
    /* with ctime, because a copy may keep the old mtime */
    snprintf(text, sizeof text,
        "%" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %" PRId64 ".%09" PRId64,
        (uint64_t)st->st_dev, (uint64_t)st->st_ino, (int64_t)st->st_size, changed_ns(st),
        (int64_t)st->st_ctim.tv_sec, (int64_t)st->st_ctim.tv_nsec);
    add_text(hash, text);
}

/* Returns 0 or -1. */
static int add_file(crypto_generichash_state *hash, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return -1;
    add_stat(hash, &st);
    return 0;
}

/* A checkpoint's directory, and two files in it that are not the checkpoint's. */
struct folder {
    const char *dir, *place, *part;
};

static int is_file(const char *path, const struct stat *st)
{
    struct stat other;
    return stat(path, &other) == 0 && regular_is_same(st, &other);
}

static int add_folder(crypto_generichash_state *hash, const struct folder *f);

/* Folders do not count, but for one: a run's own may be there, and change. */
static int add_entry(crypto_generichash_state *hash, const struct folder *f, const char *name)
{
    char path[PATH_MAX + 300];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    if (name[0] == '.')
        return 0;
    if (stat(path, &st) != 0)
        return -1;
    if (S_ISDIR(st.st_mode) && strcmp(name, TEMPLATES) != 0)
        return 0;
    if (is_file(f->place, &st) || is_file(f->part, &st))
        return 0;
    add_text(hash, name);
    if (S_ISDIR(st.st_mode))
        return add_folder(hash, &(struct folder){path, f->place, f->part});
    add_stat(hash, &st);
    return 0;
}

static int add_folder(crypto_generichash_state *hash, const struct folder *f)
{
    struct dirent **entries = NULL;
    int n = scandir(f->dir, &entries, NULL, alphasort), rc = n < 0 ? -1 : 0;
    for (int i = 0; i < n; i++) {
        rc |= add_entry(hash, f, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

/* Adds every option, but for those that say where the work is done, how fast, or what is told of
 * it. */
static void add_options(crypto_generichash_state *hash, const struct cli *c)
{
    static const enum cli_option others[] = {CLI_CONNECT, CLI_DATA, CLI_JSON, CLI_TIMEOUT, CLI_HELP,
        CLI_OUTPUT, CLI_MODEL, CLI_PRIORITY, CLI_THREADS, CLI_MAX_BATCH_TOKENS, CLI_SCORE_CACHE,
        CLI_KV_CACHE, CLI_NO_DEDUPE, CLI_NO_WAIT, CLI_MAX_WAIT, CLI_KEEP_DATA, CLI_FORCE, CLI_LORA};
    int counts[CLI_OPTION_COUNT];
    for (int k = 0; k < CLI_OPTION_COUNT; k++)
        counts[k] = 1;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        counts[others[i]] = 0;
    for (int k = 0; k < CLI_OPTION_COUNT; k++) {
        const char *value = counts[k] ? c->value[k] : NULL;
        add_text(hash, value ? "given" : "");
        add_text(hash, value ? value : "");
    }
}

/* Adds every adapter: its name, and the files in its directory. */
static int add_adapters(
    crypto_generichash_state *hash, const struct cli *c, const char *place, const char *part)
{
    int rc = 0;
    for (int i = 0; i < c->n_loras; i++) {
        char name[ADAPTERS_NAME_BYTES];
        const char *dir = strchr(c->loras[i], '=');
        snprintf(name, sizeof name, "%.*s", (int)strcspn(c->loras[i], "="), c->loras[i]);
        add_text(hash, name);
        rc |= dir ? add_folder(hash, &(struct folder){dir + 1, place, part}) : -1;
    }
    return rc;
}

static int add_programs(crypto_generichash_state *hash, const struct cli *c)
{
    static const char *const names[] = {"assay", "assayd", "assay-worker"};
    char path[PATH_MAX + 20];
    int rc = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", c->bin_dir, names[i]);
        rc |= add_file(hash, path);
    }
    /* The broker takes this worker if it exists and finds a GPU. */
    snprintf(path, sizeof path, "%s/assay-worker-cuda", c->bin_dir);
    add_text(hash, access(path, F_OK) == 0 ? "cuda" : "");
    if (access(path, F_OK) == 0)
        rc |= add_file(hash, path);
    if (c->value[CLI_WORKER])
        rc |= add_file(hash, c->value[CLI_WORKER]);
    const char *template = c->value[CLI_CHAT_TEMPLATE];
    if (template && !cli_is_listed(CLI_CHAT_TEMPLATE, template))
        rc |= add_file(hash, template);
    return rc;
}

void stamp_make(const struct cli *c, const struct stat *input, const char *place, const char *part,
    char stamp[STAMP_BYTES])
{
    const struct folder checkpoint = {c->value[CLI_MODEL], place, part};
    crypto_generichash_state hash;
    unsigned char digest[16];
    stamp[0] = '\0';
    if (sodium_init() < 0)
        return;
    crypto_generichash_init(&hash, NULL, 0, sizeof digest);
    add_text(&hash, ASSAY_VERSION);
    add_options(&hash, c);
    add_text(&hash, deflate_suffix(place));
    add_stat(&hash, input);
    int rc = add_programs(&hash, c) | add_folder(&hash, &checkpoint) |
             add_adapters(&hash, c, place, part);
    crypto_generichash_final(&hash, digest, sizeof digest);
    if (rc == 0)
        sodium_bin2hex(stamp, STAMP_BYTES, digest, sizeof digest);
}

/* Formats the stamp with the file's current size and time. */
static void seal(char whole[STAMP_BYTES + 64], const char *stamp, const struct stat *st)
{
    snprintf(whole, STAMP_BYTES + 64, "%s %" PRId64 " %" PRId64, stamp, (int64_t)st->st_size,
        changed_ns(st));
}

int stamp_is_on(const char *path, const char *stamp)
{
    struct stat st;
    char expected[STAMP_BYTES + 64], found[STAMP_BYTES + 64];
    if (!stamp[0] || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    ssize_t n = getxattr(path, NAME, found, sizeof found - 1);
    seal(expected, stamp, &st);
    return n == (ssize_t)strlen(expected) && memcmp(found, expected, (size_t)n) == 0;
}

void stamp_put(int fd, const char *stamp)
{
    struct stat st;
    char whole[STAMP_BYTES + 64];
    if (!stamp[0] || fstat(fd, &st) != 0) {
        fremovexattr(fd, NAME);
        return;
    }
    seal(whole, stamp, &st);
    fsetxattr(fd, NAME, whole, strlen(whole), 0); /* some file systems keep no attributes */
}

void stamp_begin(int fd)
{
    fsetxattr(fd, NAME, UNFINISHED, strlen(UNFINISHED), 0);
}

int stamp_is_begun(const char *path)
{
    char found[sizeof UNFINISHED];
    ssize_t n = lgetxattr(path, NAME, found, sizeof found);
    if (n < 0 && errno == ENOTSUP)
        return -1;
    return n == (ssize_t)strlen(UNFINISHED) && memcmp(found, UNFINISHED, (size_t)n) == 0;
}
