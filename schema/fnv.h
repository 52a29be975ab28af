/* fnv.h - FNV-1a of 64 bits, for what one program tells another of itself. No guard against anyone
 * who chooses the bytes. */
#ifndef ASSAY_FNV_H
#define ASSAY_FNV_H

#include <stddef.h>
#include <stdint.h>

#define FNV_NOTHING 0xcbf29ce484222325ull /* the hash of no bytes */

/* Returns the hash of all bytes so far, of which `hash` is the hash, and of these after them. */
static inline uint64_t fnv_add(uint64_t hash, const void *bytes, size_t n)
{
    for (const uint8_t *at = (const uint8_t *)bytes, *end = at + n; at < end; at++)
        hash = (hash ^ *at) * 0x100000001b3ull;
    return hash;
}

#endif
