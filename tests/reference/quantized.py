"""Matrices of few bits as checkpoints store them: made here, packed, and their values in float32. numpy alone, and none of the
formats' own libraries: make_quantized.py compares with these.

A format is a function (weight, settings, rng) -> (tensors by suffix, values): `tensors` is what the file gets in place of
`weight`, `values` the float32 matrix that they mean. Scales are random and not fitted: any numbers will do, and more of them
occur.
"""
import numpy

SCALES = {"F32": numpy.float32, "F16": numpy.float16, "BF16": None}


def round_bf16(x):
    """float32 values that a bfloat16 holds."""
    bits = numpy.ascontiguousarray(x, numpy.float32).view(numpy.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000).view(numpy.float32)


def pack(numbers, bits):
    """Along the last axis into int32, the first in the lowest bits; what is missing at the end is 0."""
    per_word = 32 // bits
    width = -numbers.shape[-1] % per_word
    padded = numpy.pad(numbers.astype(numpy.uint32), [(0, 0)] * (numbers.ndim - 1) + [(0, width)])
    parts = padded.reshape(*padded.shape[:-1], -1, per_word) << (numpy.arange(per_word, dtype=numpy.uint32) * bits)
    return numpy.bitwise_or.reduce(parts, axis=-1).view(numpy.int32)


def group_numbers(rows, cols, settings, rng):
    """(stored [rows, cols], scale and zero [rows, groups], group of each column)."""
    bits, size = settings["bits"], settings.get("group_size") or cols
    groups = -(-cols // size)
    of = numpy.arange(cols) // size
    if settings.get("order"):
        of = rng.permutation(of)
    stored = rng.integers(0, 1 << bits, (rows, cols))
    zero = rng.integers(1, 1 << bits, (rows, groups)) if settings["zeros"] else numpy.full((rows, groups), 1 << bits - 1)
    scale = numpy.exp(rng.normal(0, 0.3, (rows, groups))) * 2.2 / (cols ** 0.5 * (1 << bits))
    kind = settings["scale"]
    scale = round_bf16(scale) if kind == "BF16" else scale.astype(SCALES[kind])
    return stored, scale, zero, of


def values_of(stored, scale, zero, of):
    """(stored - zero) * scale, each step in float32."""
    exact = stored.astype(numpy.float32) - zero.astype(numpy.float32)[:, of]
    return exact * scale.astype(numpy.float32)[:, of]


def pack_quantized(shape, settings, rng):
    """compressed-tensors' pack-quantized."""
    rows, cols = shape
    stored, scale, zero, of = group_numbers(rows, cols, settings, rng)
    tensors = {"weight_packed": pack(stored, settings["bits"]), "weight_scale": scale,
               "weight_shape": numpy.array([rows, cols], numpy.int64)}
    if settings["zeros"]:
        tensors["weight_zero_point"] = numpy.ascontiguousarray(pack(zero.T, settings["bits"]).T)
    if settings.get("order"):
        tensors["weight_g_idx"] = of.astype(numpy.int32)
    return tensors, values_of(stored, scale, zero, of)


def gptq(shape, settings, rng):
    """GPTQ's qweight, qzeros (in its first format less 1), scales and g_idx. Every zero point is of 1 .. 2^bits - 1."""
    rows, cols = shape
    stored, scale, zero, of = group_numbers(rows, cols, settings, rng)
    bits = settings["bits"]
    kept = zero if settings["v2"] else zero - 1
    tensors = {"qweight": numpy.ascontiguousarray(pack(stored, bits).T), "scales": numpy.ascontiguousarray(scale.T),
               "qzeros": pack(kept.T, bits)}
    if settings["g_idx"]:
        tensors["g_idx"] = of.astype(numpy.int32)
    return tensors, values_of(stored, scale, zero, of)


def e4m3_values():
    """What each byte means in e4m3 (finite only): sign, four bits of exponent with bias 7, three of mantissa."""
    byte = numpy.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = numpy.where(exponent > 0, (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa / 8 * 2.0 ** -6)
    value[byte & 127 == 127] = numpy.nan
    return numpy.where(byte & 128, -value, value).astype(numpy.float32)


def to_e4m3(x):
    """The bytes of the nearest finite values, some of them exchanged for any byte that is no NaN."""
    finite = numpy.array([b for b in range(256) if b & 127 != 127], numpy.uint8)
    order = finite[numpy.argsort(e4m3_values()[finite], kind="stable")]
    sorted_values = e4m3_values()[order]
    return order[numpy.clip(numpy.searchsorted(sorted_values, x), 0, len(order) - 1)]


def plain(shape, settings, rng):
    """compressed-tensors' int-, float- and naive-quantized: a byte a weight. A scale (and zero point) is of a block of rows and
    columns: `block` has their numbers, None for all."""
    rows, cols = shape
    high, wide = (n or all for n, all in zip(settings["block"], shape))
    table = -(-rows // high), -(-cols // wide)
    row, col = numpy.arange(rows)[:, None] // high, numpy.arange(cols)[None, :] // wide
    is_float = settings["type"] == "float"
    scale = numpy.exp(rng.normal(0, 0.3, table)) * (0.03 if is_float else 1 / 64) / cols ** 0.5
    scale = round_bf16(scale) if settings["scale"] == "BF16" else scale.astype(SCALES[settings["scale"]])
    if is_float:
        stored = to_e4m3(rng.normal(0, 32, shape))
        any_byte = to_e4m3(rng.uniform(-448, 448, shape) * 2.0 ** rng.integers(-17, 1, shape))
        stored = numpy.where(rng.random(shape) < 0.1, any_byte, stored)
        exact = e4m3_values()[stored]
    else:
        stored = rng.integers(-128, 128, shape).astype(numpy.int8)
        exact = stored.astype(numpy.float32)
    name = settings.get("scale_name", "weight_scale")
    tensors = {"weight": stored, name: scale.reshape(1) if settings["block"] == (None, None) else scale}
    if settings.get("zeros"):
        zero = rng.integers(-128, 128, table).astype(numpy.int8)
        exact = exact - zero.astype(numpy.float32)[row, col]
        tensors["weight_zero_point"] = zero.reshape(tensors[name].shape)
    for extra in settings.get("inputs", []):
        tensors[extra] = numpy.array([-9], numpy.int8) if "zero" in extra else numpy.array([0.03], numpy.float32)
    return tensors, exact * scale.astype(numpy.float32)[row, col]


def interleave(numbers):
    """AWQ's order of each eight: 0 2 4 6 1 3 5 7."""
    return numbers.reshape(*numbers.shape[:-1], -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]].reshape(numbers.shape)


def awq(shape, settings, rng):
    """AWQ's gemm packing: qweight [columns, rows / 8], qzeros, scales."""
    rows, cols = shape
    stored, scale, zero, of = group_numbers(rows, cols, settings, rng)
    tensors = {"qweight": pack(interleave(stored.T), 4), "scales": numpy.ascontiguousarray(scale.T),
               "qzeros": pack(interleave(zero.T), 4)}
    return tensors, values_of(stored, scale, zero, of)
