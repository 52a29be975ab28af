"""The quantized forms that make_big.py writes, as published checkpoints have them. Plain Python; the numbers are random, and for timing
that will do: matrices come to the magnitudes of the bfloat16 ones.

A form has the quantization_config, and what stands in place of a matrix [rows, columns]: suffix to (type, shape, bytes to repeat).
"""
import struct
import typing

BYTES = {"BF16": 2, "F16": 2, "I32": 4, "I64": 8, "I8": 1, "F8_E4M3": 1}
GROUP = 128


class Form(typing.NamedTuple):
    config: dict
    parts: typing.Callable


def bfloat16(values):
    """Their upper halves as float32, little-endian."""
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def float16(value):
    return struct.pack("<e", value)


def int4(rows, columns, rng):
    """Symmetric, a scale for each group: compressed-tensors' pack-quantized."""
    return {"weight_packed": ("I32", (rows, columns // 8), rng.randbytes(1 << 16)),
            "weight_scale": ("BF16", (rows, columns // GROUP), bfloat16([0.0043])),
            "weight_shape": ("I64", (2,), struct.pack("<2q", rows, columns))}


def gptq(rows, columns, rng):
    """Symmetric: every zero point is 8, and kept less 1."""
    return {"qweight": ("I32", (columns // 8, rows), rng.randbytes(1 << 16)), "scales": ("F16", (columns // GROUP, rows), float16(0.0043)),
            "qzeros": ("I32", (columns // GROUP, rows // 8), b"\x77"),
            "g_idx": ("I32", (columns,), struct.pack(f"<{columns}i", *(k // GROUP for k in range(columns))))}


def awq(rows, columns, rng):
    return {"qweight": ("I32", (columns, rows // 8), rng.randbytes(1 << 16)), "scales": ("F16", (columns // GROUP, rows), float16(0.0043)),
            "qzeros": ("I32", (columns // GROUP, rows // 8), b"\x88")}


def int8(rows, columns, rng):
    return {"weight": ("I8", (rows, columns), rng.randbytes(1 << 17)), "weight_scale": ("BF16", (rows, 1), bfloat16([0.00027]))}


def fp8(rows, columns, rng):
    """Bytes of magnitudes from a half to 1.9, of either sign."""
    return {"weight": ("F8_E4M3", (rows, columns), bytes(0x30 | b & 0x8f for b in rng.randbytes(1 << 17))),
            "weight_scale": ("BF16", (rows, 1), bfloat16([0.018]))}


def compressed(kind, weights, inputs=None):
    weights = {"symmetric": True, "dynamic": False, "group_size": None, **weights}
    return {"quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed", "ignore": ["score"],
            "kv_cache_scheme": None, "config_groups": {"group_0": {
                "targets": ["Linear"], "weights": weights, "output_activations": None, "input_activations": inputs}}}


def by_token(kind):
    """Activations are rounded when they are computed, with a scale of each token's own."""
    return {"num_bits": 8, "type": kind, "strategy": "token", "symmetric": True, "dynamic": True, "group_size": None}


FORMS = {
    "int4": Form(compressed("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}), int4),
    "gptq": Form({"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False, "checkpoint_format": "gptq",
                  "lm_head": False}, gptq),
    "awq": Form({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                 "modules_to_not_convert": None}, awq),
    "int8": Form(compressed("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, by_token("int")), int8),
    "fp8": Form(compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, by_token("float")), fp8),
}
