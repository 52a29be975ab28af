/* upload.c - see upload.h. libmicrohttpd's post processor takes the parts apart. */
#include "broker/http/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/alloc.h"

#define FIELD_BYTES 64             /* of purpose and expires_after */
#define BUFFER_BYTES 8192          /* the post processor's: a part's head fits in it */
#define WRITE_BACK_BYTES (8 << 20) /* written so far the disk begins, so that the sync is short */
#define SHORTEST_S 3600            /* OpenAI's bounds of expires_after */
#define LONGEST_S 2592000

struct upload {
    struct MHD_PostProcessor *post;
    struct files *files;
    struct folder *folder;
    int fd;
    char temporary[FOLDER_NAME_BYTES]; /* "": kept, or never there */
    char name[FILES_NAME_BYTES];
    char purpose[FIELD_BYTES], anchor[FIELD_BYTES], seconds[FIELD_BYTES];
    int n_files;
    int64_t bytes, begun; /* begun: bytes that the disk was told to write */
    struct err error;
};

static enum MHD_Result refuse(struct upload *u, int code, const char *field, const char *why)
{
    if (u->error.code == 0)
        err_field(&u->error, code, field, "%s", why);
    return MHD_YES; /* the rest is read, or the client would not see why */
}

static enum MHD_Result take_field(
    struct upload *u, char *field, const char *key, uint64_t at, const char *bytes, size_t n)
{
    if (at + n >= FIELD_BYTES || memchr(bytes, '\0', n))
        return refuse(u, ASSAY_EBADREQ, key, "a field of the form is too long");
    if (at == 0 && field[0])
        return refuse(u, ASSAY_EBADREQ, key, "a field of the form comes twice");
    memcpy(field + at, bytes, n);
    return MHD_YES;
}

static enum MHD_Result write_piece(struct upload *u, const char *bytes, size_t n)
{
    if (u->bytes + (int64_t)n > files_max_bytes(u->files)) {
        if (u->error.code == 0)
            err_field(&u->error, ASSAY_ETOOLARGE, "file",
                "`file`: expected at most %lld bytes (--max-file-bytes), found more",
                (long long)files_max_bytes(u->files));
        return MHD_YES;
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
    return MHD_YES;
}

static enum MHD_Result take_file(
    struct upload *u, const char *name, uint64_t at, const char *bytes, size_t n)
{
    int begins = at == 0 && (u->n_files == 0 || u->bytes > 0); /* a part may begin with no bytes */
    u->n_files += begins;
    if (begins && u->n_files == 1 && u->error.code == 0) {
        if (!name)
            return refuse(u, ASSAY_EBADREQ, "file", "`file`: expected a file with its name");
        if (files_check_name(name, &u->error) == 0)
            snprintf(u->name, sizeof u->name, "%s", name);
    }
    if (begins && u->n_files > 1)
        return refuse(u, ASSAY_EBADREQ, "file", "`file`: expected once, found twice");
    return u->error.code == 0 ? write_piece(u, bytes, n) : MHD_YES;
}

static enum MHD_Result take_part(void *cls, enum MHD_ValueKind kind, const char *key,
    const char *filename, const char *content_type, const char *transfer_encoding,
    const char *bytes, uint64_t at, size_t n)
{
    struct upload *u = cls;
    (void)kind;
    (void)content_type;
    if (transfer_encoding && strcmp(transfer_encoding, "binary") != 0 &&
        strcmp(transfer_encoding, "8bit") != 0 && strcmp(transfer_encoding, "7bit") != 0)
        return refuse(u, ASSAY_EBADREQ, key ? key : "",
            "Content-Transfer-Encoding: expected none, 7bit, 8bit or binary");
    if (key && strcmp(key, "file") == 0)
        return take_file(u, filename, at, bytes, n);
    if (key && strcmp(key, "purpose") == 0)
        return take_field(u, u->purpose, key, at, bytes, n);
    if (key && strcmp(key, "expires_after[anchor]") == 0)
        return take_field(u, u->anchor, key, at, bytes, n);
    if (key && strcmp(key, "expires_after[seconds]") == 0)
        return take_field(u, u->seconds, key, at, bytes, n);
    if (u->error.code == 0)
        err_field(&u->error, ASSAY_EBADREQ, key ? key : "",
            "`%.60s`: expected file, purpose or expires_after, found another field",
            key ? key : "");
    return MHD_YES;
}

struct upload *upload_new(struct MHD_Connection *connection, struct files *files,
    struct folder *folder, uint64_t bytes, struct err *e)
{
    struct upload *u = xcalloc(1, sizeof *u);
    u->fd = -1;
    u->files = files;
    u->folder = folder;
    u->post = MHD_create_post_processor(connection, BUFFER_BYTES, take_part, u);
    if (!u->post)
        err_set(e, ASSAY_EBADREQ, "Content-Type: expected multipart/form-data with a boundary");
    if (u->post && files_check_room(files, e) == 0 && folder_has_room(folder, bytes, e) == 0)
        u->fd = folder_temporary(folder, u->temporary, e);
    if (u->fd < 0)
        upload_free(&u);
    return u;
}

int upload_take(struct upload *u, const char *bytes, size_t n)
{
    if (MHD_post_process(u->post, bytes, n) == MHD_NO)
        refuse(u, ASSAY_EBADREQ, "", "the body is no multipart/form-data that can be read");
    return u->error.code == 0 ? 0 : -1;
}

static int read_expiry(const struct upload *u, int64_t *seconds, struct err *e)
{
    char *end;
    *seconds = 0;
    if (!u->anchor[0] && !u->seconds[0])
        return 0;
    *seconds = strtoll(u->seconds, &end, 10);
    if (strcmp(u->anchor, "created_at") == 0 && *end == '\0' && *seconds >= SHORTEST_S &&
        *seconds <= LONGEST_S)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "expires_after",
        "`expires_after`: expected the anchor created_at and %d to %d seconds", SHORTEST_S,
        LONGEST_S);
}

/* Everything that was sent is there: the last boundary was seen. */
static int end_parts(struct upload *u)
{
    enum MHD_Result rc = MHD_destroy_post_processor(u->post);
    u->post = NULL;
    if (rc == MHD_NO)
        refuse(u, ASSAY_EBADREQ, "", "the body is no whole multipart/form-data: it ends too early");
    return u->error.code;
}

int upload_end(struct upload *u, json_t **object, struct err *e)
{
    struct file_new file = {.id = "", .name = u->name, .purpose = u->purpose, .bytes = u->bytes};
    if (end_parts(u) == 0 && u->n_files == 0)
        refuse(u, ASSAY_EBADREQ, "file", "`file`: expected a file, found none");
    if (u->error.code == 0 && strcmp(u->purpose, "batch") != 0)
        err_field(&u->error, ASSAY_EBADREQ, "purpose", "`purpose`: expected batch, found '%.40s'",
            u->purpose);
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
    if (u->post)
        MHD_destroy_post_processor(u->post);
    if (u->fd >= 0)
        close(u->fd);
    folder_drop(u->folder, u->temporary);
    free(u);
}
