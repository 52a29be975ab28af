/* upload.c - see upload.h. */
#include "broker/http/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "broker/http/multipart.h"
#include "schema/alloc.h"

#define FIELD_BYTES 64             /* of purpose and expires_after */
#define WRITE_BACK_BYTES (8 << 20) /* written so far the disk begins, so that the sync is short */
#define SHORTEST_S 3600            /* OpenAI's bounds of expires_after */
#define LONGEST_S 2592000

enum part { PART_OTHER, PART_FILE, PART_PURPOSE, PART_ANCHOR, PART_SECONDS, PART_COUNT };

static const char *const names[PART_COUNT] = {
    "", "file", "purpose", "expires_after[anchor]", "expires_after[seconds]"};

struct upload {
    struct multipart *parts;
    enum part part; /* which is read */
    struct files *files;
    struct folder *folder;
    const char *owner; /* borrowed */
    int fd;
    char temporary[FOLDER_NAME_BYTES]; /* "": kept, or never there */
    char name[FILES_NAME_BYTES];
    char fields[PART_COUNT][FIELD_BYTES]; /* by enum part */
    int n_parts[PART_COUNT];
    int is_broken;        /* it is no form */
    int64_t bytes, begun; /* begun: bytes that the disk was told to write */
    struct err error;
};

/* The rest is read, or the client would not see why. */
static void refuse(struct upload *u, int code, const char *field, const char *why)
{
    if (u->error.code == 0)
        err_field(&u->error, code, field, "%s", why);
}

static void take_field(struct upload *u, const char *bytes, size_t n)
{
    char *field = u->fields[u->part];
    size_t len = strlen(field);
    if (len + n >= FIELD_BYTES || memchr(bytes, '\0', n))
        return refuse(u, ASSAY_EBADREQ, names[u->part], "a field of the form is too long");
    memcpy(field + len, bytes, n);
}

static void write_piece(struct upload *u, const char *bytes, size_t n)
{
    if (u->bytes + (int64_t)n > files_max_bytes(u->files)) {
        err_field(&u->error, ASSAY_ETOOLARGE, "file",
            "`file`: expected at most %lld bytes (--max-file-bytes), found more",
            (long long)files_max_bytes(u->files));
        return;
    }
    while (u->error.code == 0 && n > 0) {
        ssize_t done = write(u->fd, bytes, n);
        if (done < 0 && errno != EINTR)
            folder_write_error("the file cannot be kept", &u->error);
        bytes += done > 0 ? done : 0;
        n -= done > 0 ? (size_t)done : 0;
        u->bytes += done > 0 ? done : 0;
    }
    if (u->bytes - u->begun >= WRITE_BACK_BYTES) {
        sync_file_range(u->fd, u->begun, u->bytes - u->begun, SYNC_FILE_RANGE_WRITE);
        u->begun = u->bytes;
    }
}

static void begin_file(struct upload *u, const char *name)
{
    if (!name || !*name)
        return refuse(u, ASSAY_EBADREQ, "file", "`file`: expected a file with its name");
    if (files_check_name(name, &u->error) == 0)
        snprintf(u->name, sizeof u->name, "%s", name);
}

static void begin_part(void *arg, const struct multipart_part *part)
{
    struct upload *u = arg;
    if (u->error.code != 0)
        return;
    if (*part->encoding && strcasecmp(part->encoding, "binary") != 0 &&
        strcasecmp(part->encoding, "8bit") != 0 && strcasecmp(part->encoding, "7bit") != 0)
        return refuse(u, ASSAY_EBADREQ, part->name,
            "Content-Transfer-Encoding: expected none, 7bit, 8bit or binary");
    u->part = PART_OTHER;
    for (int k = PART_FILE; k < PART_COUNT; k++)
        if (strcmp(names[k], part->name) == 0)
            u->part = (enum part)k;
    if (u->part == PART_OTHER)
        err_field(&u->error, ASSAY_EBADREQ, part->name,
            "`%.60s`: expected file, purpose or expires_after, found another field", part->name);
    else if (u->n_parts[u->part]++ > 0)
        err_field(&u->error, ASSAY_EBADREQ, part->name, "`%.60s`: expected once, found twice",
            part->name);
    else if (u->part == PART_FILE)
        begin_file(u, part->filename);
}

static void take_part(void *arg, const char *bytes, size_t n)
{
    struct upload *u = arg;
    if (u->error.code == 0 && u->part == PART_FILE)
        write_piece(u, bytes, n);
    else if (u->error.code == 0)
        take_field(u, bytes, n);
}

struct upload *upload_new(const char *type, struct files *files, struct folder *folder,
    const char *owner, uint64_t bytes, struct err *e)
{
    struct upload *u = xcalloc(1, sizeof *u);
    u->fd = -1;
    u->files = files;
    u->folder = folder;
    u->owner = owner;
    struct multipart_taker taker = {.begin = begin_part, .take = take_part, .arg = u};
    if (multipart_new(&u->parts, type, &taker, e) == 0 && files_check_room(files, e) == 0 &&
        folder_has_room(folder, bytes, e) == 0)
        u->fd = folder_temporary(folder, u->temporary, e);
    if (u->fd < 0)
        upload_free(&u);
    return u;
}

int upload_take(struct upload *u, const char *bytes, size_t n)
{
    struct err e = {0};
    if (u->is_broken)
        return -1;
    u->is_broken = multipart_feed(u->parts, bytes, n, &e) != 0;
    if (u->is_broken)
        refuse(u, ASSAY_EBADREQ, "", e.msg);
    return u->error.code == 0 ? 0 : -1;
}

static int read_expiry(const struct upload *u, int64_t *seconds, struct err *e)
{
    const char *anchor = u->fields[PART_ANCHOR], *text = u->fields[PART_SECONDS];
    char *end;
    *seconds = 0;
    if (!anchor[0] && !text[0])
        return 0;
    *seconds = strtoll(text, &end, 10);
    if (strcmp(anchor, "created_at") == 0 && *end == '\0' && *seconds >= SHORTEST_S &&
        *seconds <= LONGEST_S)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "expires_after",
        "`expires_after`: expected the anchor created_at and %d to %d seconds", SHORTEST_S,
        LONGEST_S);
}

int upload_end(struct upload *u, json_t **object, struct err *e)
{
    const char *purpose = u->fields[PART_PURPOSE];
    struct file_new file = {
        .id = "", .name = u->name, .purpose = purpose, .owner = u->owner, .bytes = u->bytes};
    if (!multipart_is_whole(u->parts))
        refuse(u, ASSAY_EBADREQ, "", "the body is no whole multipart/form-data: it ends too early");
    if (u->n_parts[PART_FILE] == 0)
        refuse(u, ASSAY_EBADREQ, "file", "`file`: expected a file, found none");
    if (u->error.code == 0 && strcmp(purpose, "batch") != 0)
        err_field(&u->error, ASSAY_EBADREQ, "purpose", "`purpose`: expected batch, found '%.40s'",
            purpose);
    if (u->error.code == 0)
        read_expiry(u, &file.expires_after_s, &u->error);
    if (u->error.code == 0 &&
        files_add(u->files, &file, u->fd, u->temporary, object, &u->error) == 0)
        u->temporary[0] = '\0';
    *e = u->error;
    return e->code;
}

void upload_free(struct upload **out)
{
    struct upload *u = *out;
    *out = NULL;
    if (!u)
        return;
    multipart_free(&u->parts);
    if (u->fd >= 0)
        close(u->fd);
    folder_drop(u->folder, u->temporary);
    free(u);
}
