/* jsonl.c - reads line by line into one buffer, parses each with jansson, and says what is wrong
 * with one that is no object (jsonl.h). */
#include "broker/cli/input/jsonl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "broker/cli/input/beginning.h"
#include "broker/cli/input/foreign.h"
#include "broker/cli/input/forgive.h"
#include "broker/cli/input/inflate.h"
#include "broker/cli/input/line_count.h"
#include "broker/cli/signals.h"
#include "schema/alloc.h"
#include "schema/regular.h"
#include "schema/json.h"
#include "schema/log.h"
#include "schema/utf8.h"

#define COUNT_MS 20           /* for one look at the count */
#define LOOK_BYTES (1u << 16) /* of a line, between two looks whether a signal came */
#define POLL_MS 100
#define SILENT_MS 2000 /* after that, say that the pipe has no writer */

struct jsonl {
    FILE *file;
    struct stat opened;
    int is_begun;            /* the first bytes were looked at */
    const char *name, *path; /* NULL: stdin */
    int64_t number;
    struct line_count count;
    char *text;
    size_t text_bytes, text_len;
    const struct renames *names; /* NULL: nothing is tolerated */
};

/* main.c holds a closed stdin with an O_PATH directory. Reading that fails with an error of its
 * own, so it does not count here. */
static int is_directory(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && !(fcntl(fd, F_GETFL) & O_PATH);
}

/* Opens a pipe, and waits for a writer: opening it for reading alone would wait without a word. */
static int open_pipe(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), is_there = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (int waited = 0; fd >= 0 && !is_there && !cli_interrupted(); waited += POLL_MS) {
        is_there = poll(&p, 1, POLL_MS) > 0;
        if (!is_there && waited == SILENT_MS)
            cli_say("waiting for somebody to write to the pipe '%s'", path);
    }
    if (is_there)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

static FILE *open_file(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISFIFO(st.st_mode))
        return fopen(path, "rbe");
    int fd = open_pipe(path);
    return fd < 0 ? NULL : fdopen(fd, "rb");
}

int jsonl_open(struct jsonl **out, const char *path, struct err *e)
{
    struct jsonl *j = xcalloc(1, sizeof *j);
    int is_file = path && strcmp(path, "-") != 0;
    j->name = is_file ? path : "stdin";
    j->path = is_file ? path : NULL;
    line_count_init(&j->count, NULL);
    j->file = is_file ? open_file(path) : stdin;
    *out = j;
    if (j->file && !is_directory(fileno(j->file)))
        return fstat(fileno(j->file), &j->opened) == 0
                   ? 0
                   : err_errno(e, ASSAY_EIO, "cannot read '%s'", j->name);
    int rc = j->file ? err_set(e, ASSAY_EIO, "'%s': expected a file, found a directory", j->name)
                     : err_errno(e, ASSAY_EIO, "cannot read '%s'", path);
    jsonl_close(out);
    return rc;
}

void jsonl_close(struct jsonl **out)
{
    struct jsonl *j = *out;
    if (!j)
        return;
    if (j->file && j->file != stdin)
        fclose(j->file);
    line_count_release(&j->count);
    free(j->text);
    free(j);
    *out = NULL;
}

void jsonl_forgive(struct jsonl *j, const struct renames *names)
{
    j->names = names;
}

const struct stat *jsonl_opened(const struct jsonl *j)
{
    return &j->opened;
}

int jsonl_is_changed(const struct jsonl *j)
{
    struct stat now;
    const struct stat *was = &j->opened;
    int fd = fileno(j->file); /* a compressed file has none that can be asked */
    if (!S_ISREG(was->st_mode) || (fd >= 0 ? fstat(fd, &now) : j->path ? stat(j->path, &now) : -1))
        return 0;
    return regular_is_same(was, &now) &&
           (now.st_size != was->st_size || now.st_mtim.tv_sec != was->st_mtim.tv_sec ||
               now.st_mtim.tv_nsec != was->st_mtim.tv_nsec);
}

int64_t jsonl_count(struct jsonl *j)
{
    return line_count_go_on(&j->count, COUNT_MS);
}

static void grow_text(struct jsonl *j)
{
    j->text_bytes = j->text_bytes ? j->text_bytes * 2 : 4096;
    j->text = realloc(j->text, j->text_bytes);
    if (!j->text)
        die(71, "event=out_of_memory wanted=%zu bytes", j->text_bytes);
}

static int is_stopped(void)
{
    int stopped = cli_interrupted(); /* asked once: a signal may come between two questions */
    if (stopped)
        errno = EINTR;
    return stopped;
}

/* Reads the next line, without its newline, into j->text. Returns 1, 0 at the end of the file, 2 if
 * the line is beyond JSONL_MAX_BYTES, -1 with EINTR if a signal came: a line may have no end, and
 * so may a row of blank ones. */
static int read_line(struct jsonl *j)
{
    int byte = EOF, too_long = 0, stopped = is_stopped();
    j->text_len = 0;
    for (uint64_t n = 1; !stopped && (byte = getc_unlocked(j->file)) != EOF && byte != '\n'; n++) {
        stopped = n % LOOK_BYTES == 0 && is_stopped();
        too_long |= j->text_len >= JSONL_MAX_BYTES;
        if (too_long)
            continue;
        if (j->text_len == j->text_bytes)
            grow_text(j);
        j->text[j->text_len++] = (char)byte;
    }
    if (stopped || too_long)
        return stopped ? -1 : 2;
    return byte != EOF || j->text_len > 0;
}

static void drop_mark(struct jsonl *j)
{
    if (j->text_len < 3 || memcmp(j->text, UTF8_BOM, 3) != 0)
        return;
    j->text_len -= 3;
    memmove(j->text, j->text + 3, j->text_len);
}

static int is_blank(const struct jsonl *j)
{
    for (size_t i = 0; i < j->text_len; i++)
        if (!strchr(" \t\r", j->text[i]) || j->text[i] == '\0')
            return 0;
    return 1;
}

const char *json_kind(const json_t *value)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
        "a real number", "a boolean", "a boolean", "null"};
    return value ? names[json_typeof(value)] : "nothing";
}

/* Counts values by the commas, colons and brackets outside of strings. */
static int has_too_many_values(const struct jsonl *j)
{
    uint64_t n = 0;
    int in_string = 0;
    for (size_t i = 0; i < j->text_len; i++) {
        char c = j->text[i];
        if (c == '"')
            in_string = !in_string;
        else if (in_string)
            i += c == '\\';
        else
            n += c == '{' || c == '[' ? 16 : c == ',' || c == ':';
    }
    return n > JSONL_MAX_VALUES;
}

static json_t *load(const char *text, size_t len, json_error_t *why)
{
    return json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, why);
}

/* Why a line is not valid. */
struct fault {
    json_error_t why;
    size_t at;    /* byte in the line */
    char key[64]; /* a duplicate key as it is written, cut to size */
};

/* Copies the string that ends at `end`. */
static void copy_key(const char *text, size_t end, char *key, size_t size)
{
    const char *from = text, *stop = text + end;
    for (const char *at = text; at && at < stop;) {
        from = *at == '"' ? at + 1 : from;
        at = *at == '"' ? json_string_end(at, stop) : at + 1;
    }
    size_t len = from < stop ? (size_t)(stop - 1 - from) : 0;
    snprintf(key, size, "%.*s", (int)(len < size ? len : size - 1), from);
    key[utf8_valid((const uint8_t *)key, strlen(key))] = '\0';
}

static json_t *load_or_tell(const char *text, size_t len, struct fault *f)
{
    json_t *value = load(text, len, &f->why);
    f->at = f->why.position > 0 && (size_t)f->why.position < len ? (size_t)f->why.position : len;
    if (!value && json_error_code(&f->why) == json_error_duplicate_key)
        copy_key(text, f->at, f->key, sizeof f->key);
    return value;
}

static json_t *load_line(
    const struct jsonl *j, const char *text, size_t len, int *large_ids, struct fault *f)
{
    struct buffer mended = {0};
    json_t *value = load_or_tell(text, len, f);
    if (value || !j->names)
        return value;
    *large_ids = forgive_line(text, len, j->names, &mended);
    value = load_or_tell((const char *)mended.at, mended.len, f);
    buffer_release(&mended);
    if (!value)
        f->at = forgive_origin(text, len, j->names, f->at);
    return value;
}

static void tell_fault(const struct jsonl *j, const struct fault *f, struct jsonl_line *line)
{
    long long number = (long long)line->number;
    int has_more = json_error_code(&f->why) == json_error_end_of_input_expected;
    int has_mark = has_more && memmem(j->text, j->text_len, UTF8_BOM, 3) != NULL;
    if (f->key[0])
        err_set(&line->err, ASSAY_EBADREQ, "line %lld: key \"%s\" twice in an object at byte %zu",
            number, f->key, f->at);
    else if (has_more)
        err_set(&line->err, ASSAY_EBADREQ,
            "line %lld: not JSON: expected one object, found more behind it at byte %zu%s", number,
            f->at,
            has_mark ? "; a byte order mark stands within the line: expected a newline before it"
                     : "");
    else
        err_set(&line->err, ASSAY_EBADREQ, "line %lld: %s: %s at byte %zu", number,
            json_fault_kind(&f->why), f->why.text, f->at);
}

/* Parses the members before the fault, so that the error can carry the line's id. */
static void take_beginning(const struct jsonl *j, size_t fault, struct jsonl_line *line)
{
    struct buffer text = {0};
    struct fault ignored = {0};
    int large_ids = 0;
    if (!j->names)
        return;
    beginning_of(j->text, j->text_len, fault, j->names, &text);
    if (text.len > 0)
        line->beginning = load_line(j, (const char *)text.at, text.len, &large_ids, &ignored);
    buffer_release(&text);
    if (!large_ids)
        return;
    json_decref(line->beginning);
    line->beginning = NULL;
}

static void parse(struct jsonl *j, struct jsonl_line *line)
{
    struct fault fault = {0};
    json_t *value = NULL;
    line->bytes = j->text_len;
    if (has_too_many_values(j)) {
        err_set(&line->err, ASSAY_ETOOLARGE,
            "line %lld: expected at most %u values (an object or array counts as 16), found more",
            (long long)line->number, JSONL_MAX_VALUES);
        take_beginning(j, j->text_len, line);
    } else if (!(value = load_line(j, j->text, j->text_len, &line->large_ids, &fault))) {
        tell_fault(j, &fault, line);
        take_beginning(j, fault.at, line);
    } else if (!json_is_object(value)) {
        err_set(&line->err, ASSAY_EBADREQ, "line %lld: expected an object, found %s",
            (long long)line->number, json_kind(value));
        json_decref(value);
    } else {
        line->object = value;
    }
}

static int tell_read_error(const struct jsonl *j, struct err *e)
{
    if (errno == EINTR && cli_interrupted())
        return err_set(e, ASSAY_EIO, "stopped while '%s' was read", j->name);
    if (errno == EBADMSG)
        return err_set(e, ASSAY_EIO, "cannot read '%s': near line %lld: it is damaged or cut off",
            j->name, (long long)j->number);
    if (errno == EOVERFLOW)
        return err_set(e, ASSAY_EIO,
            "cannot read '%s': expected zstd with a window of at most %u MiB, found a larger one; "
            "compress it again without --long, or with --long=%d",
            j->name, 1u << (INFLATE_MAX_WINDOW_LOG - 20), INFLATE_MAX_WINDOW_LOG);
    return err_errno(e, ASSAY_EIO, "cannot read '%s'", j->name);
}

/* Looks at the first bytes of the file. */
static int begin(struct jsonl *j, struct err *e)
{
    if (j->is_begun)
        return 0;
    FILE *stream = inflate_stream(j->file, j->name);
    if (!stream)
        return err_errno(e, ASSAY_EIO, "cannot read '%s'", j->name);
    j->file = stream;
    j->is_begun = 1;
    errno = 0;
    const struct foreign *found = foreign_look(j->file);
    if (found)
        return err_set(e, ASSAY_EBADREQ,
            "'%s': expected JSON lines in UTF-8, plain or compressed with gzip or zstd, found %s; "
            "%s",
            j->name, found->name, found->remedy);
    return ferror(j->file) ? tell_read_error(j, e) : 0;
}

int jsonl_look(struct jsonl *j, struct err *e)
{
    struct stat st; /* a pipe may have no bytes yet: it is looked at when it is read */
    if (fstat(fileno(j->file), &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    int rc = begin(j, e);
    if (rc == 0)
        line_count_init(&j->count, j->path);
    return rc;
}

int jsonl_next(struct jsonl *j, struct jsonl_line *line, struct err *e)
{
    int got;
    if (begin(j, e) != 0)
        return e->code;
    errno = 0;
    do {
        got = read_line(j);
        j->number++;
        drop_mark(j);
    } while (got == 1 && is_blank(j));
    if (got < 0 || ferror(j->file))
        return tell_read_error(j, e);
    if (got == 0)
        return 0;
    *line = (struct jsonl_line){.number = j->number, .is_cut = got == 2};
    if (got == 2) {
        err_set(&line->err, ASSAY_ETOOLARGE, "line %lld: expected at most %u bytes, found more",
            (long long)j->number, JSONL_MAX_BYTES);
        take_beginning(j, j->text_len, line);
    } else {
        parse(j, line);
    }
    return 1;
}
