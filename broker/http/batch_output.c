/* batch_output.c - see batch_output.h. */
#include "broker/http/batch_output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/ask/batch_line.h"

#define BUFFER_BYTES (1 << 16)

static int begin(struct output *o, struct folder *folder, struct err *e)
{
    int fd = folder_temporary(folder, o->temporary, e);
    if (fd < 0)
        return fd;
    o->stream = fdopen(fd, "w");
    if (o->stream) {
        setvbuf(o->stream, NULL, _IOFBF, BUFFER_BYTES);
        return 0;
    }
    close(fd);
    folder_drop(folder, o->temporary);
    return err_errno(e, ASSAY_EIO, "a file of results");
}

static char *text_of(const struct output_line *line, const char *id)
{
    int is_answered = line->status > 0;
    json_t *whole = batch_line_answer(id, line->custom_id,
        is_answered ? batch_line_response(line->status, line->request_id, json_incref(line->body))
                    : NULL,
        is_answered ? NULL : json_pack("{s:s, s:s}", "code", line->code, "message", line->message));
    char *text = answer_text(whole);
    json_decref(whole);
    return text;
}

int output_write(
    struct output *o, struct folder *folder, const struct output_line *line, struct err *e)
{
    char id[FOLDER_ID_BYTES], of[FOLDER_ID_BYTES + 16];
    if (!o->stream && begin(o, folder, e) != 0)
        return e->code;
    snprintf(of, sizeof of, "%s %u", line->batch, line->number);
    folder_id_of(id, "batch_req_", of);
    char *text = text_of(line, id);
    if (!text)
        return err_set(e, ASSAY_EINTERNAL, "a line of results cannot be written as JSON");
    int n = fprintf(o->stream, "%s\n", text);
    free(text);
    o->bytes += n > 0 ? n : 0;
    return n > 0 ? 0 : folder_write_error("a file of results", e);
}

int output_keep(struct output *o, struct files *files, const struct output_of *of, const char *what,
    char id[FOLDER_ID_BYTES], struct err *e)
{
    char whole[2 * FOLDER_ID_BYTES], name[2 * FOLDER_ID_BYTES];
    json_t *object = NULL;
    id[0] = '\0';
    if (!o->stream)
        return 0;
    if (fflush(o->stream) != 0)
        return folder_write_error("a file of results", e);
    snprintf(whole, sizeof whole, "%s %s", of->batch, what);
    snprintf(name, sizeof name, "%s_%s.jsonl", of->batch, what);
    folder_id_of(id, FOLDER_FILE, whole);
    struct file_new file = {.id = id,
        .name = name,
        .purpose = "batch_output",
        .bytes = o->bytes,
        .owner = *of->owner ? of->owner : NULL,
        .expires_after_s = of->expires_after_s};
    int rc = files_add(files, &file, fileno(o->stream), o->temporary, &object, e);
    json_decref(object);
    if (rc != 0)
        return rc;
    fclose(o->stream);
    *o = (struct output){0};
    return 0;
}

void output_drop(struct output *o, struct folder *folder)
{
    if (!o->stream)
        return;
    fclose(o->stream);
    folder_drop(folder, o->temporary);
    *o = (struct output){0};
}
