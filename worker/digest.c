/* digest.c - checkpoint_digest (weights.h): the hash that identifies a checkpoint.
 *
 * schema/identity.h says which files count. The cache file holds a line for each of some
 * checkpoints: the files' identity, the digest of their contents, and a hash of those two as they
 * are written, between spaces. A digest belongs to the identity stored with it: the files had that
 * identity before and after they were read, and a later write changes it. A line without its hash,
 * or with another one, is damaged or from an earlier version, and is not believed: results are
 * compared and kept by digest. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "schema/regular.h"
#include "worker/weights.h"

#define DIGEST_BYTES 32
#define LINE_BYTES 164 /* 64, 64 and 32 digits, and what separates and ends them */
#define CACHE_LINES 16 /* checkpoints in the cache, the last one first */
#define BLOCK_BYTES (1u << 20)
#define TELL_BYTES (256u << 20) /* a large checkpoint takes minutes, so progress is logged */

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

static int digest_file(
    crypto_generichash_state *hash, const char *dir, const char *name, struct err *e)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = regular_open(path, &st, e);
    if (fd < 0)
        return fd;
    int rc = add_contents(hash, name, fd, (uint64_t)st.st_size) != 0
                 ? err_errno(e, ASSAY_EFORMAT, "%s: cannot read it", path)
                 : 0;
    close(fd);
    return rc;
}

static int digest_files(char hex[65], const char *dir, struct err *e)
{
    crypto_generichash_state hash;
    uint8_t digest[DIGEST_BYTES];
    struct dirent **names = NULL;
    int n = checkpoint_names(&names, dir, e), rc = n < 0 ? n : 0;
    crypto_generichash_init(&hash, NULL, 0, sizeof digest);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = digest_file(&hash, dir, names[i]->d_name, e);
    checkpoint_free_names(names, n);
    crypto_generichash_final(&hash, digest, sizeof digest);
    sodium_bin2hex(hex, 65, digest, sizeof digest);
    return rc;
}

int adapter_digest(char hex[65], const char *dir, struct err *e)
{
    crypto_generichash_state hash;
    uint8_t digest[DIGEST_BYTES];
    if (sodium_init() < 0)
        return err_set(e, ASSAY_EIO, "libsodium cannot start");
    crypto_generichash_init(&hash, NULL, 0, sizeof digest);
    int rc = digest_file(&hash, dir, "adapter_config.json", e);
    if (rc == 0)
        rc = digest_file(&hash, dir, "adapter_model.safetensors", e);
    crypto_generichash_final(&hash, digest, sizeof digest);
    sodium_bin2hex(hex, 65, digest, sizeof digest);
    return rc;
}

static void make_line(char line[LINE_BYTES], const char *stat_hex, const char *hex)
{
    uint8_t hash[16];
    char sum[33];
    int n = snprintf(line, LINE_BYTES, "%.64s %.64s", stat_hex, hex);
    crypto_generichash(hash, sizeof hash, (const uint8_t *)line, (size_t)n, NULL, 0);
    sodium_bin2hex(sum, sizeof sum, hash, sizeof hash);
    snprintf(line + n, LINE_BYTES - (size_t)n, " %s\n", sum);
}

/* Whether the line is sound, and then which state of a checkpoint has which digest. */
static int read_line(const char *read, char stat_hex[65], char hex[65])
{
    char line[LINE_BYTES];
    if (sscanf(read, "%64s %64s", stat_hex, hex) != 2 || strlen(stat_hex) != 64 ||
        strlen(hex) != 64)
        return 0;
    make_line(line, stat_hex, hex);
    return strcmp(line, read) == 0;
}

static int read_cache(const char *cache_file, const char *stat_hex, char hex[65])
{
    char read[LINE_BYTES], of[65], digest[65];
    FILE *f = cache_file ? fopen(cache_file, "re") : NULL;
    int found = 0;
    while (f && !found && fgets(read, sizeof read, f))
        found = read_line(read, of, digest) && strcmp(of, stat_hex) == 0;
    if (f)
        fclose(f);
    if (found)
        memcpy(hex, digest, 65);
    return found;
}

/* Copies the lines of other checkpoints that are in the cache: a broker may serve several. */
static void copy_others(FILE *to, const char *cache_file, const char *stat_hex)
{
    char read[LINE_BYTES], of[65], digest[65];
    FILE *f = fopen(cache_file, "re");
    for (int n = 1; f && n < CACHE_LINES && fgets(read, sizeof read, f);)
        if (read_line(read, of, digest) && strcmp(of, stat_hex) != 0) {
            fputs(read, to);
            n++;
        }
    if (f)
        fclose(f);
}

/* Writes the file whole or not at all, also if several processes do so at once. A failure is no
 * error: the next start reads the checkpoint's files again. */
static void write_cache(const char *cache_file, const char *stat_hex, const char *hex)
{
    char part[4096], line[LINE_BYTES];
    if (!cache_file ||
        snprintf(part, sizeof part, "%s.part%d", cache_file, (int)getpid()) >= (int)sizeof part)
        return;
    FILE *f = fopen(part, "we");
    if (!f)
        return;
    make_line(line, stat_hex, hex);
    fputs(line, f);
    copy_others(f, cache_file, stat_hex);
    if (fclose(f) != 0 || rename(part, cache_file) != 0)
        unlink(part);
}

int checkpoint_digest(
    char hex[65], struct identity *id, const char *dir, const char *cache_file, struct err *e)
{
    int rc = checkpoint_identity(id, dir, e);
    if (rc != 0 || read_cache(cache_file, id->hex, hex))
        return rc;
    rc = digest_files(hex, dir, e);
    int settled = rc == 0 && checkpoint_settle(id);
    if (rc == 0)
        rc = checkpoint_check_identity(dir, id->hex, "they were read", e);
    if (rc == 0 && settled)
        write_cache(cache_file, id->hex, hex);
    return rc;
}
