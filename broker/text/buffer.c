/* buffer.c - appends to buffers and grows lists by doubling (buffer.h). */
#include "broker/text/buffer.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "schema/log.h"

uint8_t *buffer_reserve(struct buffer *b, size_t n)
{
    if (n > b->room - b->len) {
        size_t room = b->room * 2 > b->len + n ? b->room * 2 : b->len + n + 256;
        uint8_t *at = realloc(b->at, room);
        if (!at)
            die(EX_OSERR, "out of memory: %zu bytes of text", room);
        b->at = at;
        b->room = room;
    }
    return b->at + b->len;
}

void buffer_append(struct buffer *b, const void *bytes, size_t len)
{
    if (len > 0)
        memcpy(buffer_reserve(b, len), bytes, len);
    b->len += len;
}

void buffer_text(struct buffer *b, const char *text)
{
    buffer_append(b, text, strlen(text));
}

void buffer_release(struct buffer *b)
{
    free(b->at);
    *b = (struct buffer){0};
}

void *list_grow(void *list, size_t n, size_t *room, size_t size)
{
    if (n < *room)
        return list;
    *room = *room ? *room * 2 : 64;
    void *bigger = realloc(list, *room * size);
    if (!bigger)
        die(EX_OSERR, "out of memory: a list of %zu items", *room);
    return bigger;
}
