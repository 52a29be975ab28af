/* buffer.h - growing byte buffers, zero-initialized and freed by buffer_release, and growing
 * lists. */
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
/* Makes room for n more bytes after len and returns their place; the caller writes there and adds
 * to len. */
uint8_t *buffer_reserve(struct buffer *b, size_t n);
void buffer_release(struct buffer *b);

/* Returns the list with room for one more after its n items of `size` bytes. The list may move; the
 * caller frees it. */
void *list_grow(void *list, size_t n, size_t *room, size_t size);

#endif
