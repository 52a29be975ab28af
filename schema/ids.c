/* ids.c - packs and unpacks both forms of ids, in loops that compilers vectorize (ids.h). */
#include "schema/ids.h"

#include <endian.h>
#include <string.h>

#define LARGEST ((1u << 18) - 1)

static size_t planes_bytes(uint32_t n)
{
    return 2 * (size_t)n + ((size_t)n + 3) / 4;
}

size_t ids_room(uint32_t n)
{
    return 4 * (size_t)n;
}

static int fit_planes(const int32_t *ids, uint32_t n)
{
    uint32_t all = 0;
    for (uint32_t i = 0; i < n; i++)
        all |= (uint32_t)ids[i];
    return all <= LARGEST;
}

static void put_plain(const int32_t *ids, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = (uint32_t)ids[i];
        uint8_t *at = out + 4 * (size_t)i;
        at[0] = (uint8_t)id;
        at[1] = (uint8_t)(id >> 8);
        at[2] = (uint8_t)(id >> 16);
        at[3] = (uint8_t)(id >> 24);
    }
}

static void put_low(int32_t id, uint8_t *out)
{
    uint16_t low = htole16((uint16_t)id);
    memcpy(out, &low, sizeof low);
}

/* Low bits in one pass, high bits of four ids a byte in another, so the compiler vectorizes
 * both. */
static void put_planes(const int32_t *ids, uint32_t n, uint8_t *out)
{
    uint8_t *high = out + 2 * (size_t)n;
    uint32_t i = 0;
    unsigned bits = 0;
    for (uint32_t k = 0; k < n; k++)
        put_low(ids[k], out + 2 * (size_t)k);
    for (; i + 4 <= n; i += 4)
        *high++ = (uint8_t)((uint32_t)ids[i] >> 16 | (uint32_t)ids[i + 1] >> 16 << 2 |
                            (uint32_t)ids[i + 2] >> 16 << 4 | (uint32_t)ids[i + 3] >> 16 << 6);
    for (uint32_t k = 0; i + k < n; k++)
        bits |= (uint32_t)ids[i + k] >> 16 << 2 * k;
    if (i < n)
        *high = (uint8_t)bits;
}

size_t ids_pack(const int32_t *ids, uint32_t n, uint8_t *out)
{
    if (fit_planes(ids, n)) {
        put_planes(ids, n, out);
        return planes_bytes(n);
    }
    put_plain(ids, n, out);
    return 4 * (size_t)n;
}

int ids_are_sound(size_t len, uint32_t n)
{
    return len == planes_bytes(n) || len == 4 * (size_t)n;
}

/* Unpacks n ids; the first id's high bits must be the lowest of their byte. */
static void get_planes(const uint8_t *low, const uint8_t *high, uint32_t n, int32_t *ids)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] =
            low[2 * (size_t)i] | low[2 * (size_t)i + 1] << 8 | (high[i / 4] >> i % 4 * 2 & 3) << 16;
}

void ids_unpack_part(
    const uint8_t *bytes, size_t len, uint32_t n, uint32_t from, uint32_t count, int32_t *ids)
{
    const uint8_t *high = bytes + 2 * (size_t)n;
    if (len != planes_bytes(n)) {
        ids_from_wire(bytes + 4 * (size_t)from, count, ids);
        return;
    }
    uint32_t k = 0;
    for (; k < count && (from + k) % 4 != 0; k++) {
        uint32_t i = from + k;
        get_planes(bytes + 2 * (size_t)i, &(uint8_t){high[i / 4] >> i % 4 * 2}, 1, ids + k);
    }
    get_planes(bytes + 2 * ((size_t)from + k), high + (from + k) / 4, count - k, ids + k);
}

int ids_unpack(const uint8_t *bytes, size_t len, uint32_t n, int32_t *ids)
{
    if (!ids_are_sound(len, n))
        return -1;
    ids_unpack_part(bytes, len, n, 0, n, ids);
    return 0;
}

void ids_from_wire(const uint8_t *bytes, uint32_t n, int32_t *ids)
{
    if (n > 0)
        memcpy(ids, bytes, n * sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)le32toh((uint32_t)ids[i]);
}

/* A negative id has the top bit set; so has the difference for an id that is too large. */
int ids_are_below(const int32_t *ids, uint32_t n, uint32_t vocab_size)
{
    uint32_t upper = 0;
    for (uint32_t i = 0; i < n; i++)
        upper |= (uint32_t)ids[i] | (vocab_size - 1 - (uint32_t)ids[i]);
    return upper >> 31 == 0;
}
