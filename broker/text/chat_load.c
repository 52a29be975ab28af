/* chat_load.c - finds a checkpoint's chat template (chat.h), and its writer by its hash. The hashes
 * are those of the published templates; tests/reference/make_chat_vectors.py says how they were
 * checked. */
#include "broker/text/chat.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/json.h"
#include "schema/log.h"
#include "schema/regular.h"

#define PROCESSOR "chat_template.json"
#define CONFIG "tokenizer_config.json"
#define TEMPLATE_MAX_BYTES (4u << 20)
#define CONFIG_MAX_BYTES (64u << 20)

static const struct {
    const char *hash;
    enum chat_template template;
} known[] = {
    {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3", CHAT_CHATML},
    {"fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e", CHAT_CHATML},
    {"58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7", CHAT_CHATML},
    {"d7b5b8c7b58f7a6bf868aa46a5f73ee976d7292f40fcb9c3e7a1defd8d235cfb", CHAT_CHATML},
    {"e772b6ad1ea2a9b717ead97c3d9266a75e14489ec55a751b956003420d7b4981", CHAT_CHATML}, /* our own */
    {"af9c0233881b083b52ff773580215222b5440ac3d0beeeca99b76329b048f8db", CHAT_QWEN15},
    {"793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb", CHAT_QWEN2},
    {"55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", CHAT_QWEN25},
    {"4039eed0f28b7aaa337e70c76cfedba3271ee32505835a095a8c92e536b3c355", CHAT_QWEN25_BASE},
    {"2976f7de3b9489e3237dc5ad2734060f756d026da00f24464c59c2e3bb40ee37", CHAT_QWEN25_MATH},
    {"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", CHAT_QWEN3},
    {"a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", CHAT_QWEN3},
    {"3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7", CHAT_QWEN3},
    {"30a75d10e60b57e2f260420163dd59720dacf9f63b9a8de070d65dd80a7b30f7", CHAT_QWEN3},
    {"64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326", CHAT_QWEN3_INSTRUCT_2507},
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", CHAT_LLAMA3},
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2", CHAT_LLAMA3_FIRST},
    {"93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7", CHAT_LLAMA31},
};

enum chat_template chat_from_hash(const char *hash)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].hash, hash) == 0)
            return known[i].template;
    return CHAT_NONE;
}

/* Normalizes newlines as Jinja does: CR LF and CR become LF, and one newline at the end is
 * dropped. */
static size_t plain_newlines(const char *source, size_t len, char *text)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        if (source[i] != '\r')
            text[n++] = source[i];
        else if (i + 1 == len || source[i + 1] != '\n')
            text[n++] = '\n';
    return n > 0 && text[n - 1] == '\n' ? n - 1 : n;
}

static int ends_with(const char *text, size_t n, const char *end)
{
    size_t len = strlen(end);
    return n >= len && memcmp(text + n - len, end, len) == 0;
}

/* Drops white space at the end that the template does not write: after a tag that strips, and one
 * newline after a block or a comment (transformers' trim_blocks). */
static size_t drop_end(const char *text, size_t n)
{
    size_t end = n;
    while (end > 0 && isspace((unsigned char)text[end - 1]))
        end--;
    int strips =
        ends_with(text, end, "-%}") || ends_with(text, end, "-}}") || ends_with(text, end, "-#}");
    int trims = (ends_with(text, end, "%}") && !ends_with(text, end, "+%}")) ||
                (ends_with(text, end, "#}") && !ends_with(text, end, "+#}"));
    return strips || (trims && n == end + 1 && text[end] == '\n') ? end : n;
}

enum chat_template chat_from_source(const char *source, size_t len, char hash[CHAT_HASH_HEX])
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    char *text = xcalloc(len + 1, 1);
    size_t n = drop_end(text, plain_newlines(source, len, text));
    crypto_hash_sha256(digest, (const uint8_t *)text, n);
    sodium_bin2hex(hash, CHAT_HASH_HEX, digest, sizeof digest);
    free(text);
    return chat_from_hash(hash);
}

static int writes_bos(enum chat_template t)
{
    return t == CHAT_LLAMA3 || t == CHAT_LLAMA3_FIRST || t == CHAT_LLAMA31;
}

static void set_template(struct chat *c, const char *source, size_t len, const char *file)
{
    struct err why = {0};
    snprintf(c->origin, sizeof c->origin, "%s", file);
    c->template = chat_from_source(source, len, c->hash);
    if (jinja_parse(&c->jinja, (struct slice){(const uint8_t *)source, len}, &why) != 0)
        snprintf(c->reason, sizeof c->reason,
            "the chat template in %s cannot be used: %.200s; send text or ids, or name another one "
            "with --chat-template",
            file, why.msg);
    else if (c->template == CHAT_NONE)
        c->template = CHAT_JINJA;
}

/* Returns 1 if the file exists, 0 if not. name: how to call it in errors. */
static int load_path(struct chat *c, const char *path, const char *name, struct err *e)
{
    struct err why = {0};
    int fd = regular_open(path, NULL, &why);
    if (fd < 0 && errno == ENOENT)
        return 0;
    FILE *f = fd < 0 ? NULL : fdopen(fd, "rb");
    if (!f) {
        *e = why;
        return fd < 0 ? fd : err_errno(e, ASSAY_EFORMAT, "%s: cannot read it", path);
    }
    char *text = xcalloc(TEMPLATE_MAX_BYTES, 1);
    size_t len = fread(text, 1, TEMPLATE_MAX_BYTES, f);
    int rc = ferror(f) ? err_errno(e, ASSAY_EFORMAT, "%s: cannot read it", path) : 1;
    if (rc == 1 && len == TEMPLATE_MAX_BYTES)
        rc = err_set(e, ASSAY_EFORMAT, "%s: expected less than %u bytes", path, TEMPLATE_MAX_BYTES);
    if (rc == 1)
        set_template(c, text, len, name);
    free(text);
    fclose(f);
    return rc;
}

static int load_jinja(struct chat *c, const char *dir, const char *name, struct err *e)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return err_set(e, ASSAY_EFORMAT, "%s: path too long", name);
    return load_path(c, path, name, e);
}

static int has_tool_use(const char *dir)
{
    return regular_is_in(dir, "additional_chat_templates/tool_use.jinja");
}

/* Does `additional_chat_templates` hold any template? If so, the one in tokenizer_config.json is
 * ignored. */
static int has_additional(const char *dir)
{
    char path[4096];
    int n = 0;
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d)) != NULL;)
        n += ends_with(entry->d_name, strlen(entry->d_name), ".jinja");
    if (d)
        closedir(d);
    return n > 0;
}

/* `chat_template` is a string, or a list or an object of named templates. transformers takes
 * "tool_use" for a conversation with tools, else "default"; the last one of a name, if a list has
 * several. */
static const json_t *find_template(const json_t *config, const char *wanted)
{
    const json_t *v = json_object_get(config, "chat_template"), *found = NULL;
    json_t *item;
    size_t k;
    if (json_is_object(v))
        return json_object_get(v, wanted);
    if (!json_is_array(v))
        return strcmp(wanted, "default") == 0 ? v : NULL;
    json_array_foreach(v, k, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, wanted) == 0)
            found = json_object_get(item, "template");
    }
    return found;
}

static int load_config(struct chat *c, const char *dir, struct err *e)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/tokenizer_config.json", dir) >= (int)sizeof path)
        return err_set(e, ASSAY_EFORMAT, "tokenizer_config.json: path too long");
    if (!regular_exists(path))
        return 0;
    struct err why = {0};
    json_t *config = json_read_file(dir, CONFIG, CONFIG_MAX_BYTES, &why);
    if (!config) {
        *e = why;
        return why.code;
    }
    const json_t *source = find_template(config, "default");
    c->has_tool_use = json_is_string(find_template(config, "tool_use"));
    if (json_is_string(source))
        set_template(c, json_string_value(source), json_string_length(source), CONFIG);
    json_decref(config);
    return 0;
}

void chat_check_bos(struct chat *c, const json_t *tokens)
{
    const char *bos = json_string_value(json_object_get(tokens, "bos_token"));
    if (writes_bos(c->template) && c->jinja && !(bos && strcmp(bos, "<|begin_of_text|>") == 0))
        c->template = CHAT_JINJA;
}

void chat_release(struct chat *c)
{
    jinja_free(&c->jinja);
}

/* The template in a JSON file's chat_template, as in tokenizer_config.json. */
static int load_json(struct chat *c, const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    char dir[4096] = ".";
    if (slash &&
        snprintf(dir, sizeof dir, "%.*s", (int)(slash - path) + 1, path) >= (int)sizeof dir)
        return err_set(e, ASSAY_EFORMAT, "%s: path too long", path);
    json_t *config = json_read_file(dir, slash ? slash + 1 : path, CONFIG_MAX_BYTES, e);
    const json_t *source = find_template(config, "default");
    if (!config)
        return e->code;
    c->has_tool_use = json_is_string(find_template(config, "tool_use"));
    if (json_is_string(source))
        set_template(c, json_string_value(source), json_string_length(source), path);
    int rc = json_is_string(source) ? 1
                                    : err_set(e, ASSAY_EFORMAT,
                                          "%s: chat_template: expected a string, found none", path);
    json_decref(config);
    return rc;
}

int chat_load_file(struct chat *c, const char *path, struct err *e)
{
    *c = (struct chat){.template = CHAT_NONE};
    int rc = ends_with(path, strlen(path), ".json") ? load_json(c, path, e)
                                                    : load_path(c, path, path, e);
    return rc == 0  ? err_set(e, ASSAY_EFORMAT, "%s: expected a chat template, found no file", path)
           : rc > 0 ? 0
                    : rc;
}

int chat_load(struct chat *c, const char *dir, struct err *e)
{
    *c = (struct chat){.template = CHAT_NONE};
    snprintf(c->reason, sizeof c->reason,
        "the checkpoint has no chat template; send text or ids, or name one with --chat-template");
    int rc = load_jinja(c, dir, "additional_chat_templates/default.jinja", e);
    if (rc == 0)
        rc = load_jinja(c, dir, "chat_template.jinja", e);
    if (rc == 0 && has_additional(dir))
        snprintf(c->reason, sizeof c->reason,
            "additional_chat_templates has no default.jinja, and there is no chat_template.jinja; "
            "send "
            "text or ids, or name a template with --chat-template");
    else if (rc == 0)
        rc = load_config(c, dir, e);
    if (rc == 0 && !c->origin[0] && !has_additional(dir) && regular_is_in(dir, PROCESSOR))
        snprintf(c->reason, sizeof c->reason,
            "the checkpoint has a chat template in " PROCESSOR " alone, which is a processor's and "
            "which transformers' tokenizer does not read; send text or ids, or name the file with "
            "--chat-template");
    c->has_tool_use |= has_tool_use(dir);
    return rc < 0 ? rc : 0;
}
