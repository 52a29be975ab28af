/* parts.c - see parts.h. */
#include "broker/text/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/request.h"
#include "schema/utf8.h"

/* Of the part with which a template is tried. A template that writes the list itself, as Python or
 * as JSON, writes the key too. */
#define WORD "part%uofassay"
#define KEY "keyofassay"

/* Reads the next part: its type and text, absent where it has none that is a string. */
static int read_part(struct msg_reader *r, struct slice *type, struct slice *text)
{
    uint32_t n = 0;
    int something, rc = 0;
    *type = *text = (struct slice){0};
    if (msg_peek(r) != MSG_MAP)
        return -1;
    msg_read_map(r, "", &n, NULL);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct slice key = {0}, *to;
        if (msg_peek(r) != MSG_STR || msg_read_text(r, "", &key, NULL) != 0)
            return -1;
        to = slice_is(key, "type") ? type : slice_is(key, "text") ? text : NULL;
        if (to && msg_peek(r) == MSG_STR)
            rc = msg_read_text(r, "", to, NULL);
        else
            rc = request_skip_value(r, "", &something, NULL);
    }
    return rc;
}

int parts_check(struct slice parts, struct err *e)
{
    struct msg_reader r;
    struct slice type, text;
    char field[40];
    uint32_t n = 0;
    msg_reader_init(&r, parts.at, parts.len);
    msg_read_array(&r, "", &n, NULL);
    for (uint32_t i = 0; i < n; i++) {
        int rc = read_part(&r, &type, &text);
        snprintf(field, sizeof field, "content[%u]", i);
        if (rc == 0 && slice_is(type, "text") && text.at &&
            utf8_valid(text.at, text.len) == text.len)
            continue;
        if (rc == 0 && type.at && !slice_is(type, "text"))
            return err_field(e, ASSAY_EBADTEXT, field,
                "expected the type text, since these models read text alone, found '%.*s'",
                (int)(type.len < 40 ? type.len : 40), (const char *)type.at);
        return err_field(e, ASSAY_EBADTEXT, field,
            "expected a part {type: text, text: ..} with a text in UTF-8, found another");
    }
    return 0;
}

void parts_join(struct slice parts, struct buffer *out)
{
    struct msg_reader r;
    struct slice type, text;
    uint32_t n = 0;
    buffer_reserve(out, 1);
    msg_reader_init(&r, parts.at, parts.len);
    msg_read_array(&r, "", &n, NULL);
    for (uint32_t i = 0; i < n && read_part(&r, &type, &text) == 0; i++) {
        if (i > 0)
            buffer_text(out, "\n");
        buffer_append(out, text.at, text.len);
    }
}

/* ---- is a list read? ---- */

static void write_part(struct msg_writer *w, uint32_t i)
{
    char word[40];
    snprintf(word, sizeof word, WORD, i);
    msg_array(w, 1);
    msg_map(w, 3);
    msg_key_str(w, "type", "text");
    msg_key_str(w, "text", word);
    msg_key_int(w, KEY, 0);
}

/* Writes message i with our part for its content. */
static void write_message(struct msg_writer *w, const struct chat_message *m, uint32_t i)
{
    struct msg_reader r;
    struct slice key;
    uint32_t n = 0;
    int something;
    msg_reader_init(&r, m->raw.at, m->raw.len);
    msg_read_map(&r, "", &n, NULL);
    msg_map(w, n);
    for (uint32_t k = 0; k < n && msg_read_str(&r, "", &key, NULL) == 0; k++) {
        const uint8_t *from = r.at;
        request_skip_value(&r, "", &something, NULL);
        msg_str_len(w, (const char *)key.at, key.len);
        if (slice_is(key, "content"))
            write_part(w, i);
        else
            msgpack_sbuffer_write(&w->buffer, (const char *)from, (size_t)(r.at - from));
    }
}

static int occurs(const struct chat_text *t, const char *text)
{
    return t->text.len > 0 && memmem(t->text.at, t->text.len, text, strlen(text)) != NULL;
}

static int check_written(const struct chat_talk *talk, const struct chat_text *text, struct err *e)
{
    char word[40], field[40];
    for (uint32_t i = 0; i < talk->n; i++) {
        snprintf(word, sizeof word, WORD, i);
        snprintf(field, sizeof field, "messages[%u].content", i);
        if (talk->messages[i].parts.at && (!occurs(text, word) || occurs(text, KEY)))
            return err_field(e, ASSAY_EBADTEXT, field,
                "expected a text, as this chat template takes it, found a list of parts; "
                "join_content makes one text of theirs, joined with newlines");
    }
    return 0;
}

int parts_are_read(
    const struct chat *c, struct jinja_run *run, const struct chat_talk *talk, struct err *e)
{
    struct chat_message *messages = xcalloc(talk->n, sizeof *messages);
    struct msg_writer *bytes = xcalloc(talk->n, sizeof *bytes);
    struct chat_talk tried = *talk;
    struct chat_text text = {0};
    struct err ignored = {0};
    for (uint32_t i = 0; i < talk->n; i++) {
        messages[i] = talk->messages[i];
        msg_writer_init(&bytes[i]);
        if (!messages[i].parts.at)
            continue;
        write_message(&bytes[i], &messages[i], i);
        messages[i].raw =
            (struct slice){(const uint8_t *)bytes[i].buffer.data, bytes[i].buffer.size};
    }
    tried.messages = messages;
    if (chat_interpret(c, run, &tried, &text, &ignored) != 0)
        text.text.len = 0; /* nothing was written */
    int rc = check_written(talk, &text, e);
    for (uint32_t i = 0; i < talk->n; i++)
        msg_writer_release(&bytes[i]);
    chat_text_release(&text);
    free(messages);
    free(bytes);
    return rc;
}
