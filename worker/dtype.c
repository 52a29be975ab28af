/* dtype.c - see dtype.h. Converts one element at a time through float32: meant for vectors and for
 * conversions that happen once, when a model is loaded. */
#include "worker/dtype.h"

#include <string.h>

const char *dtype_name(enum dtype t)
{
    static const char *const names[] = {"f32", "f16", "bf16", "fp8", "int8", "packed"};
    return names[t];
}

static float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* binary16's exponent bias is 112 less than float32's; multiplying by 2^112 corrects that, for
 * subnormals too. */
static float widen_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, special = (h & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
    float f = float_of_bits((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    return float_of_bits(bits_of_float(f) | sign | special);
}

/* Drops the low `n` bits, rounding to nearest even. */
static uint32_t round_bits(uint32_t bits, int n)
{
    return (bits + (1u << (n - 1)) - 1 + (bits >> n & 1)) >> n;
}

static uint16_t narrow_bf16(float f)
{
    uint32_t bits = bits_of_float(f);
    return f != f ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)round_bits(bits, 16);
}

/* Below 2^-14 the result is subnormal: adding 0.5 leaves the value rounded to multiples of 2^-24 in
 * the low bits of the sum. */
static uint16_t narrow_f16(float f)
{
    uint32_t bits = bits_of_float(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (f != f)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000)
        return (uint16_t)(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | round_bits(magnitude - 0x38000000, 13));
}

static float load(const void *from, enum dtype type, int64_t i)
{
    float f;
    uint16_t h;
    if (type == DTYPE_F32) {
        memcpy(&f, (const char *)from + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, (const char *)from + 2 * i, sizeof h);
    return type == DTYPE_BF16 ? float_of_bits((uint32_t)h << 16) : widen_f16(h);
}

static void store(void *to, enum dtype type, int64_t i, float f)
{
    if (type == DTYPE_F32) {
        memcpy((char *)to + 4 * i, &f, sizeof f);
        return;
    }
    uint16_t h = type == DTYPE_BF16 ? narrow_bf16(f) : narrow_f16(f);
    memcpy((char *)to + 2 * i, &h, sizeof h);
}

void dtype_convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, int64_t n)
{
    if (to_type == from_type) {
        memcpy(to, from, (size_t)(n * dtype_bytes(to_type)));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        store(to, to_type, i, load(from, from_type, i));
}
