/* buffer.h - bytes that grow, zero-initialized and given back by buffer_release; and lists that do. */
#ifndef ASSAY_BUFFER_H
#define ASSAY_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *at;
    size_t len, room;
};

void buffer_append(struct buffer *b, const void *bytes, size_t len);
void buffer_text(struct buffer *b, const char *text); /* without its NUL */
/* Room for n more behind len; the caller writes there and adds to len itself. */
uint8_t *buffer_reserve(struct buffer *b, size_t n);
void buffer_release(struct buffer *b);

/* The list with room for one more behind its n items of `size` bytes; it may move. free it. */
void *list_grow(void *list, size_t n, size_t *room, size_t size);

#endif
