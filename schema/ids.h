/* ids.h - converts token ids between memory, the wire and the database (table row_input).
 *
 * The database keeps n ids in one of two forms, told apart by their length:
 *     planes  2 n + (n + 3) / 4 bytes: the low 16 bits of each id, little-endian; then the two bits
 *             above them, four ids a byte, the first in the lowest bits, unused bits 0
 *     plain   4 n bytes: little-endian int32
 * Planes hold ids from 0 to 2^18 - 1, which covers the vocabularies in use (Qwen2: 151,936), in
 * little more than half the bytes; a queue writes each byte twice, to the log and to its place.
 * Rows with a larger id are plain, and so are all rows from before version 3 of the schema. The two
 * lengths are equal for n = 0 only.
 *
 * Other work on each token of each row is here too, because this file is compiled for speed
 * (Makefile). */
#ifndef ASSAY_IDS_H
#define ASSAY_IDS_H

#include <stddef.h>
#include <stdint.h>

/* Returns the most bytes that ids_pack may need for n ids. */
size_t ids_room(uint32_t n);
/* Packs n ids into `out`. Returns the bytes used. */
size_t ids_pack(const int32_t *ids, uint32_t n, uint8_t *out);
/* Unpacks n ids from len bytes. Returns 0, or -1 when len fits neither form of n ids. */
int ids_unpack(const uint8_t *bytes, size_t len, uint32_t n, int32_t *ids)
    __attribute__((warn_unused_result));
/* Does len fit one of the forms of n ids? */
int ids_are_sound(size_t len, uint32_t n);
/* Unpacks ids [from, from + count) of n; the length must be sound. */
void ids_unpack_part(
    const uint8_t *bytes, size_t len, uint32_t n, uint32_t from, uint32_t count, int32_t *ids);
/* Copies n little-endian int32 from the wire. */
void ids_from_wire(const uint8_t *bytes, uint32_t n, int32_t *ids);
/* Is each id from 0 to vocab_size - 1? vocab_size is 1 to 2^31 - 1. */
int ids_are_below(const int32_t *ids, uint32_t n, uint32_t vocab_size);

#endif
