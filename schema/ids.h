/* ids.h - token ids as the database keeps them (table row_input).
 *
 * n ids take one of two forms, told apart by their length:
 *     planes  2 n + (n + 3) / 4 bytes: the low 16 bits of each id, little-endian; then the two bits
 *             above them, four ids a byte, the first in the lowest bits, unused bits 0
 *     plain   4 n bytes: little-endian int32
 * Planes hold ids from 0 to 2^18 - 1, which is every id of the vocabularies at hand (Qwen2: 151,936), in
 * little more than half of the bytes: what a queue writes, it writes twice, into the log and into its
 * place. Rows with an id beyond that are plain, and so are all that were kept before version 3 of the
 * schema. The two lengths are the same for n = 0 alone.
 *
 * And what else is done to each token of each row that comes, compiled for speed (Makefile). */
#ifndef ASSAY_IDS_H
#define ASSAY_IDS_H

#include <stddef.h>
#include <stdint.h>

/* Room that ids_pack may need for n ids. */
size_t ids_room(uint32_t n);
/* Into `out`; returns the bytes used. */
size_t ids_pack(const int32_t *ids, uint32_t n, uint8_t *out);
/* n ids out of len bytes: 0, or -1 when so many bytes are neither form of n ids. */
int ids_unpack(const uint8_t *bytes, size_t len, uint32_t n, int32_t *ids)
    __attribute__((warn_unused_result));
/* Are len bytes one of the forms of n ids? */
int ids_are_sound(size_t len, uint32_t n);
/* Ids [from, from + count) of n that are sound. */
void ids_unpack_part(
    const uint8_t *bytes, size_t len, uint32_t n, uint32_t from, uint32_t count, int32_t *ids);
/* n little-endian int32 as they came over the wire. */
void ids_from_wire(const uint8_t *bytes, uint32_t n, int32_t *ids);
/* Is each of them from 0 to vocab_size - 1? 1 to 2^31 - 1 are sizes. */
int ids_are_below(const int32_t *ids, uint32_t n, uint32_t vocab_size);

#endif
