/* shard.c - `assay shard`: cuts a file of lines into N files of equally many, in order, for as many
 * machines. Byte for byte: the files one after the other are the input, decompressed.
 *
 * The input is read twice, to count its lines and to copy them, so it is a file and no pipe. The
 * directory is filled as DIR.part and renamed when it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "broker/cli/input/columns.h"
#include "broker/cli/input/foreign.h"
#include "broker/cli/input/inflate.h"
#include "schema/alloc.h"
#include "schema/regular.h"

#define SHARDS_MOST 100000
#define PIECE_BYTES (1u << 20)
#define BEGIN_BYTES 65536 /* of the first line, in which an id is looked for */

struct shards {
    const char *input;
    char dir[PATH_MAX], part[PATH_MAX];
    int64_t n_lines, n;
    int64_t line; /* which is copied, from 0 */
    int64_t k;    /* the shard that is open */
    FILE *out;
    char *piece; /* [PIECE_BYTES] */
    int has_no_input;
};

static int read_error(const struct shards *s, struct err *e)
{
    return errno == EBADMSG
               ? err_set(e, ASSAY_EIO, "cannot read '%s': it is damaged or cut off", s->input)
               : err_errno(e, ASSAY_EIO, "cannot read '%s'", s->input);
}

/* A stream of the lines; NULL: *e says why. */
static FILE *open_input(struct shards *s, struct err *e)
{
    FILE *file = regular_stream(s->input, NULL, e);
    FILE *lines = file ? inflate_stream(file, s->input) : NULL;
    s->has_no_input = !file;
    const struct foreign *foreign = lines ? foreign_look(lines) : NULL;
    if (!foreign)
        return lines;
    err_set(e, ASSAY_EBADMSG, "%s: expected JSON lines, found %s: %s", s->input, foreign->name,
        foreign->remedy);
    fclose(lines);
    return NULL;
}

/* Results of lines without an id are numbered within their shard. */
static void warn_of_ids(const struct shards *s, size_t n)
{
    const char *end = memchr(s->piece, '\n', n);
    json_t *line = json_loadb(s->piece, end ? (size_t)(end - s->piece) : n, 0, NULL), *value;
    const char *key;
    int has_id = !line || n > BEGIN_BYTES;
    json_object_foreach(line, key, value)
    {
        has_id |= columns_is_id(key, strlen(key)) != 0 && !json_is_null(value);
    }
    json_decref(line);
    if (!has_id)
        cli_say("shard: the first line has no id: results of such lines get their number within "
                "the shard as their id");
}

/* ---- the two passes ---- */

static int count_piece(struct shards *s, const char *at, size_t n, struct err *e)
{
    (void)e;
    for (const char *end = at + n; (at = memchr(at, '\n', (size_t)(end - at))) != NULL; at++)
        s->n_lines++;
    return 0;
}

static int64_t first_line(const struct shards *s, int64_t k)
{
    return k * (s->n_lines / s->n) + (k < s->n_lines % s->n ? k : s->n_lines % s->n);
}

static int close_shard(struct shards *s, struct err *e)
{
    FILE *out = s->out;
    s->out = NULL;
    int failed = out && (fflush(out) != 0 || fsync(fileno(out)) != 0);
    failed |= out && fclose(out) != 0;
    return failed ? err_errno(e, ASSAY_EIO, "%s/%" PRId64 ".jsonl", s->part, s->k) : 0;
}

/* Opens the shard that the line is of, and those without lines before it. */
static int turn_to(struct shards *s, int64_t line, struct err *e)
{
    char path[PATH_MAX + 32];
    int rc = 0;
    while (rc == 0 && s->k < s->n && (!s->out || first_line(s, s->k + 1) <= line)) {
        if (s->out && (rc = close_shard(s, e)) == 0)
            s->k++;
        if (rc != 0 || s->k == s->n)
            break;
        snprintf(path, sizeof path, "%s/%" PRId64 ".jsonl", s->part, s->k);
        s->out = fopen(path, "wx");
        if (!s->out)
            rc = err_errno(e, ASSAY_EIO, "%s", path);
    }
    return rc;
}

static int copy_piece(struct shards *s, const char *at, size_t n, struct err *e)
{
    for (const char *end = at + n; at < end;) {
        int rc = turn_to(s, s->line, e);
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = newline ? (size_t)(newline + 1 - at) : (size_t)(end - at);
        if (rc != 0)
            return rc;
        if (!s->out)
            return err_set(e, ASSAY_EIO, "'%s' has changed while it was read", s->input);
        if (fwrite(at, 1, len, s->out) != len)
            return err_errno(e, ASSAY_EIO, "%s/%" PRId64 ".jsonl", s->part, s->k);
        s->line += newline != NULL;
        at += len;
    }
    return 0;
}

/* Gives all pieces to `take`. Returns 0 and whether the last line has no end. */
static int pass(struct shards *s,
    int (*take)(struct shards *s, const char *at, size_t n, struct err *e), int *is_open,
    struct err *e)
{
    FILE *lines = open_input(s, e);
    int rc = 0, is_first = take == count_piece;
    size_t n;
    if (!lines)
        return e->code;
    *is_open = 0;
    while (rc == 0 && (n = fread(s->piece, 1, PIECE_BYTES, lines)) > 0) {
        if (is_first)
            warn_of_ids(s, n);
        is_first = 0;
        rc = take(s, s->piece, n, e);
        *is_open = s->piece[n - 1] != '\n';
    }
    if (rc == 0 && ferror(lines))
        rc = read_error(s, e);
    fclose(lines);
    return rc;
}

/* ---- the directory ---- */

static int sync_folder(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? 0 : err_errno(e, ASSAY_EIO, "%s", path);
    if (fd >= 0)
        close(fd);
    return rc;
}

static int begin_folder(struct shards *s, struct err *e)
{
    if (regular_exists(s->dir))
        return err_set(
            e, ASSAY_EBADREQ, "--dir: expected a new directory, found that %s exists", s->dir);
    if (mkdir(s->part, 0777) == 0)
        return 0;
    return errno == EEXIST
               ? err_set(e, ASSAY_EBADREQ,
                     "%s exists: another run fills it, or one was killed; remove it then", s->part)
               : err_errno(e, ASSAY_EIO, "%s", s->part);
}

static void drop_folder(struct shards *s)
{
    char path[PATH_MAX + 32];
    if (s->out)
        fclose(s->out);
    s->out = NULL;
    for (int64_t k = 0; k <= s->k && k < s->n; k++) {
        snprintf(path, sizeof path, "%s/%" PRId64 ".jsonl", s->part, k);
        unlink(path);
    }
    rmdir(s->part);
}

/* The lines are counted. */
static int fill(struct shards *s, struct err *e)
{
    char above[PATH_MAX];
    const char *slash = strrchr(s->dir, '/');
    int is_open, rc = pass(s, copy_piece, &is_open, e);
    if (rc == 0)
        rc = turn_to(s, s->n_lines, e); /* closes the last, makes those without lines */
    if (rc == 0)
        rc = close_shard(s, e);
    if (rc == 0 && s->line + is_open != s->n_lines)
        rc = err_set(e, ASSAY_EIO, "'%s' has changed while it was read", s->input);
    if (rc == 0)
        rc = sync_folder(s->part, e);
    if (rc == 0 && rename(s->part, s->dir) != 0)
        rc = err_errno(e, ASSAY_EIO, "%s", s->dir);
    snprintf(
        above, sizeof above, "%.*s", slash ? (int)(slash - s->dir + 1) : 1, slash ? s->dir : ".");
    return rc == 0 ? sync_folder(above, e) : rc;
}

static int cut(struct shards *s, struct err *e)
{
    int is_open = 0, rc = pass(s, count_piece, &is_open, e);
    s->n_lines += is_open;
    if (rc == 0)
        rc = begin_folder(s, e);
    if (rc != 0)
        return rc;
    rc = fill(s, e);
    if (rc != 0)
        drop_folder(s);
    return rc;
}

static int read_count(const struct cli *c, int64_t *n)
{
    char *end = NULL;
    const char *text = c->second ? c->second : "nothing";
    errno = 0;
    *n = strtoll(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && errno == 0 && *n >= 1 && *n <= SHARDS_MOST)
        return 0;
    return cli_usage(
        "shard: expected N, a number of shards from 1 to %d, behind INPUT, found %s%s%s",
        SHARDS_MOST, c->second ? "'" : "", text, c->second ? "'" : "");
}

int verb_shard(const struct cli *c)
{
    struct shards s = {.input = c->operand};
    const char *dir = c->value[CLI_DIR];
    struct err e = {0};
    int rc = read_count(c, &s.n);
    if (rc == 0 && !dir)
        rc = cli_usage("shard: expected --dir DIR, where the shards are to be, found none");
    size_t len = rc == 0 ? strlen(dir) : 0;
    while (len > 1 && dir[len - 1] == '/')
        len--;
    if (rc == 0)
        rc = cli_path(s.dir, sizeof s.dir, "%.*s", (int)len, dir);
    if (rc == 0)
        rc = cli_path(s.part, sizeof s.part, "%s.part", s.dir);
    if (rc != 0)
        return rc;
    s.piece = xcalloc(1, PIECE_BYTES);
    rc = cut(&s, &e);
    free(s.piece);
    if (rc == 0)
        cli_say("shard: %" PRId64 " line%s in %" PRId64 " file%s: %s/0.jsonl to %" PRId64 ".jsonl",
            s.n_lines, cli_s(s.n_lines), s.n, cli_s(s.n), s.dir, s.n - 1);
    if (rc == 0)
        return EX_OK;
    if (e.code == ASSAY_EBADREQ)
        return cli_usage("shard: %s", e.msg);
    rc = cli_fail(&e);
    return s.has_no_input ? EX_NOINPUT : rc;
}
