/* identity.c - lists the files that decide scores, and hashes what stat(2) says of each
 * (identity.h). */
#include "schema/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/regular.h"

#define IDENTITY_BYTES 32
/* File times step with the kernel's tick, on some file systems every two seconds. */
#define TICK_NS 20000000ll
#define COARSE_NS 2000000000ll
#define SECOND_NS 1000000000ll

static int matters(const struct dirent *entry)
{
    const char *name = entry->d_name, *dot = strrchr(name, '.');
    return strcmp(name, "config.json") == 0 || strcmp(name, "tokenizer.json") == 0 ||
           strcmp(name, "model.safetensors.index.json") == 0 ||
           strcmp(name, "config_sentence_transformers.json") == 0 ||
           (dot && strcmp(dot, ".safetensors") == 0);
}

int checkpoint_names(struct dirent ***names, const char *dir, struct err *e)
{
    int n = scandir(dir, names, matters, alphasort);
    return n < 0 ? err_errno(e, ASSAY_EFORMAT, "%s: cannot list it", dir) : n;
}

void checkpoint_free_names(struct dirent **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    if (n >= 0)
        free(names);
}

static void add_file(
    struct identity *id, crypto_generichash_state *hash, const char *name, const struct stat *st)
{
    const struct timespec *c = &st->st_ctim, *last = &id->changed;
    int64_t facts[] = {(int64_t)st->st_dev, (int64_t)st->st_ino, st->st_size, st->st_mtim.tv_sec,
        st->st_mtim.tv_nsec, c->tv_sec, c->tv_nsec};
    crypto_generichash_update(hash, (const uint8_t *)name, strlen(name) + 1);
    crypto_generichash_update(hash, (const uint8_t *)facts, sizeof facts);
    if (c->tv_sec > last->tv_sec || (c->tv_sec == last->tv_sec && c->tv_nsec > last->tv_nsec))
        id->changed = *c;
}

/* Refuses a file that was listed but cannot be examined, with the error of opening it. */
static int refuse_file(const char *path, struct err *e)
{
    int fd = regular_open(path, NULL, e);
    if (fd < 0)
        return fd;
    close(fd);
    return err_set(e, ASSAY_EFORMAT, "%s: replaced while it was read", path);
}

int checkpoint_identity(struct identity *id, const char *dir, struct err *e)
{
    crypto_generichash_state hash;
    uint8_t bytes[IDENTITY_BYTES];
    struct dirent **names = NULL;
    *id = (struct identity){.hex = ""};
    if (sodium_init() < 0)
        return err_set(e, ASSAY_EIO, "libsodium cannot start");
    int n = checkpoint_names(&names, dir, e), rc = n < 0 ? n : 0;
    crypto_generichash_init(&hash, NULL, 0, sizeof bytes);
    for (int i = 0; rc == 0 && i < n; i++) {
        char path[4096];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        if (stat(path, &st) == 0)
            add_file(id, &hash, names[i]->d_name, &st);
        else
            rc = refuse_file(path, e);
    }
    checkpoint_free_names(names, n);
    crypto_generichash_final(&hash, bytes, sizeof bytes);
    sodium_bin2hex(id->hex, sizeof id->hex, bytes, sizeof bytes);
    return rc;
}

int checkpoint_check_identity(const char *dir, const char *hex, const char *during, struct err *e)
{
    struct identity now;
    int rc = checkpoint_identity(&now, dir, e);
    if (rc == 0 && strcmp(now.hex, hex) != 0)
        rc = err_set(e, ASSAY_EFORMAT,
            "%s: the checkpoint's files changed while %s; restart when they are complete", dir,
            during);
    return rc;
}

int checkpoint_settle(const struct identity *id)
{
    struct timespec now;
    long long step = id->changed.tv_nsec == 0 ? COARSE_NS : TICK_NS;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec - id->changed.tv_sec > 2 * COARSE_NS / SECOND_NS)
        return 1;
    if (id->changed.tv_sec - now.tv_sec > COARSE_NS / SECOND_NS)
        return 0;
    long long left =
        (id->changed.tv_sec - now.tv_sec) * SECOND_NS + id->changed.tv_nsec - now.tv_nsec + step;
    struct timespec nap = {left / SECOND_NS, left % SECOND_NS};
    while (left > 0 && nanosleep(&nap, &nap) != 0 && errno == EINTR)
        ;
    return 1;
}
