/* text_digest.c - see text_digest.h. The code that needs a file that cannot be read reports the
 * error; here it counts as one that is neither absent nor any file, as rows fail with it. */
#include "broker/text/text_digest.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/text/chat.h"
#include "schema/log.h"
#include "schema/regular.h"

/* Changes with the way in which rows become text, and text becomes ids, so that a job is not
 * finished by a program that reads the same files otherwise. */
#define TEXT_VERSION "4"
#define MAX_BYTES (64u << 20)
#define BLOCK_BYTES 65536
#define FOLDER "additional_chat_templates"

struct sum {
    crypto_generichash_state hash;
    int n; /* entries */
};

static void add_bytes(struct sum *s, const void *bytes, size_t n)
{
    crypto_generichash_update(&s->hash, bytes, n);
}

static void add_text(struct sum *s, const char *text)
{
    add_bytes(s, text, strlen(text) + 1);
    s->n++;
}

static void add_file(struct sum *s, const char *dir, const char *name)
{
    char path[4096], block[BLOCK_BYTES];
    struct stat st;
    ssize_t n;
    if (snprintf(path, sizeof path, "%s%s%s", dir, dir[0] ? "/" : "", name) >= (int)sizeof path)
        return;
    int fd = regular_open(path, &st, NULL);
    if (fd < 0 && errno == ENOENT)
        return;
    if (dir[0]) /* where a file of one's own lies says nothing */
        add_bytes(s, name, strlen(name) + 1);
    if (fd < 0) {
        add_text(s, "unreadable");
        return;
    }
    for (size_t done = 0; done < MAX_BYTES && (n = read(fd, block, sizeof block)) > 0;) {
        add_bytes(s, block, (size_t)n);
        done += (size_t)n;
    }
    add_bytes(s, "", 1);
    close(fd);
    s->n++;
}

/* A file in the folder is another file than one of the same name beside it. */
static void add_folder(struct sum *s, const char *dir)
{
    char path[4096], name[sizeof FOLDER + NAME_MAX + 1];
    struct dirent **entries = NULL;
    if (snprintf(path, sizeof path, "%s/" FOLDER, dir) >= (int)sizeof path)
        return;
    int n = scandir(path, &entries, NULL, alphasort);
    if (n < 0 && regular_exists(path))
        add_text(s, FOLDER);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, FOLDER "/%s", entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            add_file(s, dir, name);
        free(entries[i]);
    }
    free(entries);
}

void text_digest(
    char hex[TEXT_DIGEST_HEX], const char *dir, const char *template_name, const char *date)
{
    static const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "chat_template.jinja"};
    char path[4096];
    uint8_t digest[16];
    char whole[2 * sizeof digest + 1];
    struct sum s = {.n = 0};
    hex[0] = '\0';
    if (snprintf(path, sizeof path, "%s/tokenizer.json", dir) >= (int)sizeof path ||
        access(path, F_OK) != 0 || sodium_init() < 0)
        return;
    crypto_generichash_init(&s.hash, NULL, 0, sizeof digest);
    add_bytes(&s, TEXT_VERSION, sizeof TEXT_VERSION);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        add_file(&s, dir, names[i]);
    add_folder(&s, dir);
    if (template_name && chat_from_name(template_name) == CHAT_COUNT)
        add_file(&s, "", template_name);
    else if (template_name)
        add_text(&s, template_name);
    if (date)
        add_text(&s, date);
    crypto_generichash_final(&s.hash, digest, sizeof digest);
    sodium_bin2hex(whole, sizeof whole, digest, sizeof digest);
    if (s.n > 0)
        snprintf(hex, TEXT_DIGEST_HEX, "%.8s", whole);
}

int text_digest_check(
    const char *hex, const char *dir, const char *template_name, const char *date, struct err *e)
{
    char now[TEXT_DIGEST_HEX];
    text_digest(now, dir, template_name, date);
    if (strcmp(now, hex) == 0)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: the tokenizer's files or the chat templates changed while the broker started; restart "
        "when they are complete",
        dir);
}
