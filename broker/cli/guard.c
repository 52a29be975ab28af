/* guard.c - recognises brokers' directories and checkpoints' files, by name and by what is in
 * them (guard.h). */
#include "broker/cli/guard.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/store/store.h"
#include "schema/regular.h"

#define TEMPLATES "additional_chat_templates" /* the only folder of a checkpoint that counts */

static int leads_to(const char *path, const struct stat *st)
{
    struct stat other;
    return path && stat(path, &other) == 0 && regular_is_same(&other, st);
}

/* ---- directories ---- */

static int has(const char *dir, const char *name)
{
    char path[PATH_MAX + 64];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static int has_pid(const char *dir)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/lock", dir);
    return store_is_lock(AT_FDCWD, path);
}

/* Returns the file that marks a broker's data directory, NULL if there is none. */
static const char *sign_of_broker(const char *dir)
{
    return has(dir, "assay.db") ? "assay.db" : has(dir, GUARD_MARK) ? GUARD_MARK : NULL;
}

/* Returns the file that a starting broker, or a run, creates before the database; NULL: none. */
static const char *sign_of_start(const char *dir)
{
    return has(dir, GUARD_LOCK) ? GUARD_LOCK : has_pid(dir) ? "lock" : NULL;
}

/* Cuts path to its parent directory. Returns 0 at the root. */
static int go_up(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || strcmp(path, "/") == 0)
        return 0;
    slash[slash == path] = '\0';
    return 1;
}

/* Is `path` this directory, or in it at any depth? */
static int is_within(const char *path, const struct stat *dir)
{
    char at[PATH_MAX];
    if (!path || strcmp(path, "-") == 0 || !realpath(path, at))
        return 0;
    do
        if (leads_to(at, dir))
            return 1;
    while (go_up(at));
    return 0;
}

/* ---- outputs ---- */

/* Is it a name that a broker or a run writes to? */
static int is_written(const char *path)
{
    static const char *const names[] = {
        "assay.db", "lock", "assayd.log", "digest.cache", "reserve", "synced", GUARD_LOCK, NULL};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int i = 0;
    while (names[i] && strcmp(names[i], name) != 0)
        i++;
    return names[i] != NULL;
}

static int refuse_place(const char *place, const char *dir, const char *why, struct err *e)
{
    return err_set(e, ASSAY_EBADREQ,
        "--output: '%.150s' is in '%.150s', %s; expected a file elsewhere", place, dir, why);
}

/* Refuses a place beside a broker's files, or anywhere in a directory that is removed as a
 * whole. */
static int check_folders(const struct cli *c, const char *place, struct err *e)
{
    char at[PATH_MAX], why[64];
    struct stat st;
    snprintf(at, sizeof at, "%s", place);
    for (int depth = 0; go_up(at); depth++) {
        const char *sign = depth == 0            ? sign_of_broker(at)
                           : has(at, GUARD_MARK) ? GUARD_MARK
                                                 : NULL;
        if (depth == 0 && !sign && is_written(place))
            sign = sign_of_start(at);
        snprintf(why, sizeof why, "a broker's data directory (it has '%s')", sign ? sign : "");
        if (sign)
            return refuse_place(place, at, why, e);
        if (depth == 0 && c->value[CLI_DATA] && stat(at, &st) == 0 &&
            leads_to(c->value[CLI_DATA], &st))
            return refuse_place(place, at, "the directory of --data", e);
    }
    return 0;
}

/* Could a file with this name belong to a checkpoint? One that does not exist yet would be read
 * with it. */
static int is_checkpoint_name(const char *name)
{
    static const char *const ends[] = {".safetensors", ".json", ".jinja", ".model", ".bin", ".pt",
        ".pth", ".gguf", ".py", ".md", "merges.txt", "vocab.txt", NULL};
    size_t len = strlen(name);
    int i = 0;
    while (ends[i] && (len < strlen(ends[i]) || strcmp(name + len - strlen(ends[i]), ends[i]) != 0))
        i++;
    return ends[i] != NULL;
}

static int has_config(const char *dir, const char *name)
{
    char path[PATH_MAX + 64];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &st) == 0;
}

/* Returns the directory of the run's k-th adapter, NULL: there is none. */
static const char *adapter_dir(const struct cli *c, int k)
{
    const char *dir = k < c->n_loras ? strchr(c->loras[k], '=') : NULL;
    return dir ? dir + 1 : NULL;
}

/* Is it the directory of the run's checkpoint, or of one of its adapters? */
static int is_read_as_model(const struct cli *c, const struct stat *dir)
{
    int found = leads_to(c->value[CLI_MODEL], dir);
    for (int k = 0; !found && k < c->n_loras; k++)
        found = leads_to(adapter_dir(c, k), dir);
    return found;
}

/* Does the directory hold a checkpoint or an adapter, even if this run does not use it? */
static int is_checkpoint(const char *dir)
{
    int found = 0;
    DIR *entries = has_config(dir, "config.json") || has_config(dir, "adapter_config.json")
                       ? opendir(dir)
                       : NULL;
    for (struct dirent *d; !found && entries && (d = readdir(entries)) != NULL;)
        found = strstr(d->d_name, ".safetensors") != NULL;
    if (entries)
        closedir(entries);
    return found;
}

/* Is the directory a checkpoint's, or the folder of templates in one? */
static int belongs_to_checkpoint(const struct cli *c, const char *dir)
{
    char at[PATH_MAX];
    struct stat st;
    if (!realpath(dir, at))
        return 0;
    const char *slash = strrchr(at, '/');
    if (strcmp(slash + 1, TEMPLATES) == 0)
        go_up(at);
    return stat(at, &st) == 0 && (is_checkpoint(at) || is_read_as_model(c, &st));
}

/* path: of the output, as given or as resolved. */
static int check_name_beside(const struct cli *c, const char *path, struct err *e)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    if (!is_checkpoint_name(name) || !belongs_to_checkpoint(c, dir))
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "--output: '%.200s' is in a checkpoint's directory, and is a file of the checkpoint or "
        "would "
        "be read as one; expected another place, or a name that ends in .jsonl",
        path);
}

/* Is it a file of the checkpoint, or the target of a link there? */
static int is_in_checkpoint(const char *dir, const struct stat *st)
{
    char path[PATH_MAX + 300];
    DIR *entries = opendir(dir);
    int found = 0;
    for (struct dirent *d; !found && entries && (d = readdir(entries)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", dir, d->d_name);
        found = (is_checkpoint_name(d->d_name) && leads_to(path, st)) ||
                (strcmp(d->d_name, TEMPLATES) == 0 && is_in_checkpoint(path, st));
    }
    if (entries)
        closedir(entries);
    return found;
}

static int is_program(const struct cli *c, const struct stat *st)
{
    static const char *const names[] = {"assay", "assayd", "assay-worker", "assay-worker-cuda"};
    char path[PATH_MAX + 20];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", c->bin_dir, names[i]);
        if (leads_to(path, st))
            return 1;
    }
    return leads_to(c->value[CLI_WORKER], st);
}

int guard_output(const struct cli *c, const char *place, struct err *e)
{
    struct stat st;
    int rc = check_folders(c, place, e);
    if (rc == 0)
        rc = check_name_beside(c, place, e);
    if (rc == 0 && c->value[CLI_OUTPUT])
        rc = check_name_beside(c, c->value[CLI_OUTPUT], e);
    if (rc != 0 || stat(place, &st) != 0)
        return rc;
    if (c->value[CLI_MODEL] && is_in_checkpoint(c->value[CLI_MODEL], &st))
        return err_set(e, ASSAY_EBADREQ,
            "--output: '%.200s' is a file of the checkpoint; expected another file", place);
    for (int k = 0; k < c->n_loras; k++)
        if (adapter_dir(c, k) && is_in_checkpoint(adapter_dir(c, k), &st))
            return err_set(e, ASSAY_EBADREQ,
                "--output: '%.200s' is a file of an adapter; expected another file", place);
    const char *template = c->value[CLI_CHAT_TEMPLATE];
    if (template && leads_to(template, &st))
        return err_set(e, ASSAY_EBADREQ,
            "--output: '%.200s' is the chat template; expected another file", place);
    if (is_program(c, &st))
        return err_set(e, ASSAY_EBADREQ,
            "--output: '%.200s' is a program that this run needs; expected another file", place);
    return 0;
}

/* ---- a private broker's directory ---- */

static int is_empty(const char *dir)
{
    DIR *entries = opendir(dir);
    int n = 0;
    for (struct dirent *d; entries && n == 0 && (d = readdir(entries)) != NULL;)
        n += strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
    if (entries)
        closedir(entries);
    return entries && n == 0;
}

/* Checks a directory that nobody named: it must be of an earlier run, or empty. */
static int check_whose(const char *data, struct err *e)
{
    struct stat st;
    if (lstat(data, &st) != 0)
        return 0;
    const char *found = S_ISLNK(st.st_mode)    ? "a symbolic link"
                        : !S_ISDIR(st.st_mode) ? "a file"
                        : !is_empty(data) && !sign_of_broker(data) && !sign_of_start(data)
                            ? "a directory with other files in it"
                            : NULL;
    if (!found)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "'%.200s': expected a place for this run's work, found %s; move it away, or name a "
        "directory with --data",
        data, found);
}

/* Is the input a file that the broker writes? */
static int is_broker_file(const char *input, const struct stat *dir)
{
    char at[PATH_MAX];
    return input && strcmp(input, "-") != 0 && realpath(input, at) && is_written(at) && go_up(at) &&
           leads_to(at, dir);
}

/* The broker's socket lies in the directory, and an endpoint may have no control characters. */
static int check_name(const struct cli *c, const char *data, struct err *e)
{
    const char *at = data;
    while (*at && (unsigned char)*at >= ' ' && *at != 127)
        at++;
    if (!*at)
        return 0;
    const char *output = c->value[CLI_OUTPUT];
    int of_output = output && strncmp(data, output, strlen(output)) == 0;
    return err_set(e, ASSAY_EBADREQ,
        "%s '%.150s' has a control character in its name, and this run keeps its work in '%.150s'; "
        "expected another name, or --data with a directory for that",
        of_output ? "--output" : "the input", of_output ? output : c->operand, data);
}

static int refuse_work(const char *what, const char *path, const char *data, struct err *e)
{
    return err_set(e, ASSAY_EBADREQ,
        "%s '%.150s' is in '%.150s', where this run keeps its work; expected it elsewhere", what,
        path, data);
}

int guard_work(const struct cli *c, const char *data, int is_own, struct err *e)
{
    const struct {
        const char *what, *path;
    } read[] = {{"the input", c->operand}, {"the checkpoint", c->value[CLI_MODEL]},
        {"the worker", c->value[CLI_WORKER]}};
    struct stat st;
    int rc = is_own ? check_whose(data, e) : 0;
    if (rc == 0 && is_own)
        rc = check_name(c, data, e);
    if (rc != 0 || stat(data, &st) != 0)
        return rc;
    for (size_t i = 0; i < sizeof read / sizeof read[0]; i++)
        if (is_own ? is_within(read[i].path, &st) : i == 0 && is_broker_file(read[i].path, &st))
            return refuse_work(read[i].what, read[i].path, data, e);
    for (int k = 0; is_own && k < c->n_loras; k++)
        if (is_within(adapter_dir(c, k), &st))
            return refuse_work("the adapter", adapter_dir(c, k), data, e);
    return 0;
}
