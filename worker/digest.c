/* digest.c - checkpoint_digest (weights.h): what the identity of a score calls "the checkpoint".
 *
 * The files that decide scores are config.json, tokenizer.json, the index and every *.safetensors
 * in the directory, in order of name. The cache file holds one line: the digest of their stat data,
 * a space, the digest of their contents. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/log.h"
#include "worker/weights.h"

#define DIGEST_BYTES 32
#define BLOCK_BYTES (1u << 20)
#define TELL_BYTES (256u << 20) /* a large checkpoint takes minutes: whoever waits is told */

static int matters(const struct dirent *entry)
{
    const char *name = entry->d_name, *dot = strrchr(name, '.');
    return strcmp(name, "config.json") == 0 || strcmp(name, "tokenizer.json") == 0 ||
           strcmp(name, "model.safetensors.index.json") == 0 ||
           (dot && strcmp(dot, ".safetensors") == 0);
}

static void add_stat(crypto_generichash_state *hash, const char *name, const struct stat *st)
{
    int64_t facts[] = {(int64_t)st->st_dev, (int64_t)st->st_ino, st->st_size, st->st_mtim.tv_sec,
        st->st_mtim.tv_nsec, st->st_ctim.tv_sec, st->st_ctim.tv_nsec};
    crypto_generichash_update(hash, (const uint8_t *)name, strlen(name) + 1);
    crypto_generichash_update(hash, (const uint8_t *)facts, sizeof facts);
}

static int add_contents(crypto_generichash_state *hash, const char *name, int fd, uint64_t size)
{
    uint8_t *block = xcalloc(1, BLOCK_BYTES);
    uint64_t done = 0;
    ssize_t n;
    crypto_generichash_update(hash, (const uint8_t *)name, strlen(name) + 1);
    crypto_generichash_update(hash, (const uint8_t *)&size, sizeof size);
    while ((n = read(fd, block, BLOCK_BYTES)) > 0) {
        crypto_generichash_update(hash, block, (size_t)n);
        if (done / TELL_BYTES != (done + (uint64_t)n) / TELL_BYTES)
            log_info("event=digest file=%s read_mib=%llu of=%llu", name,
                (unsigned long long)(done + (uint64_t)n) >> 20, (unsigned long long)size >> 20);
        done += (uint64_t)n;
    }
    free(block);
    return n < 0 ? -1 : 0;
}

/* Digest of all files, of their stat data or of their contents. */
static int digest_files(
    char hex[65], const char *dir, struct dirent **names, int n, int contents, struct err *e)
{
    crypto_generichash_state hash;
    uint8_t digest[DIGEST_BYTES];
    char path[4096];
    crypto_generichash_init(&hash, NULL, 0, sizeof digest);
    for (int i = 0; i < n; i++) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC), failed = fd < 0 || fstat(fd, &st) != 0;
        if (!failed && contents)
            failed = add_contents(&hash, names[i]->d_name, fd, (uint64_t)st.st_size) != 0;
        else if (!failed)
            add_stat(&hash, names[i]->d_name, &st);
        if (failed)
            err_errno(e, ASSAY_EFORMAT, "%s: cannot read it", path);
        if (fd >= 0)
            close(fd);
        if (failed)
            return ASSAY_EFORMAT;
    }
    crypto_generichash_final(&hash, digest, sizeof digest);
    sodium_bin2hex(hex, 65, digest, sizeof digest);
    return 0;
}

static int read_cache(const char *cache_file, const char *stat_hex, char hex[65])
{
    char known[65], found[65];
    FILE *f = cache_file ? fopen(cache_file, "re") : NULL;
    int ok = f && fscanf(f, "%64s %64s", known, found) == 2 && strcmp(known, stat_hex) == 0 &&
             strlen(found) == 64;
    if (f)
        fclose(f);
    if (ok)
        memcpy(hex, found, 65);
    return ok;
}

/* Written whole or not at all; failing to is no error, the next start reads the files again. */
static void write_cache(const char *cache_file, const char *stat_hex, const char *hex)
{
    char part[4096];
    if (!cache_file || snprintf(part, sizeof part, "%s.part", cache_file) >= (int)sizeof part)
        return;
    FILE *f = fopen(part, "we");
    if (!f)
        return;
    fprintf(f, "%s %s\n", stat_hex, hex);
    if (fclose(f) != 0 || rename(part, cache_file) != 0)
        unlink(part);
}

int checkpoint_digest(char hex[65], const char *dir, const char *cache_file, struct err *e)
{
    struct dirent **names = NULL;
    char stat_hex[65];
    if (sodium_init() < 0)
        return err_set(e, ASSAY_EIO, "libsodium cannot start");
    int n = scandir(dir, &names, matters, alphasort);
    if (n < 0)
        return err_errno(e, ASSAY_EFORMAT, "%s: cannot list it", dir);
    int rc = digest_files(stat_hex, dir, names, n, 0, e);
    if (rc == 0 && !read_cache(cache_file, stat_hex, hex)) {
        rc = digest_files(hex, dir, names, n, 1, e);
        if (rc == 0)
            write_cache(cache_file, stat_hex, hex);
    }
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return rc;
}
