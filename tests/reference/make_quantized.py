"""Writes the quantized checkpoints under tests/models/quantized and the oracle's values under tests/vectors/quantized.

    python tests/reference/make_quantized.py          all of them
    python tests/reference/make_quantized.py NAME ..  only these

The values are transformers' in float32 over the matrices that quantized.py says the stored numbers mean. Where
compressed-tensors is installed, its own decompression is compared with them, bit for bit. `dequantized` in a vector file is
FNV-1a (64 bits) over each matrix's float32 values, row by row.
"""
import argparse
import contextlib
import json
import pathlib
import zlib

import numpy
import safetensors.torch
import torch
import transformers

import checkpoint
import make_models
import oracle
import quantized
from specs import ALL, FEW, LLAMA, MEAN, MIDDLE, QWEN3, REWARD, SHORT

TESTS = pathlib.Path(__file__).resolve().parents[1]
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def compressed(weights, ignore, targets=("Linear",), format="pack-quantized", inputs=None):
    """A quantization_config of compressed-tensors, with the fields that its files have."""
    weights = {"actorder": None, "block_structure": None, "dynamic": False, "observer": "minmax", "observer_kwargs": {},
               "type": "int", **weights}
    group = {"input_activations": inputs, "output_activations": None, "targets": list(targets), "weights": weights}
    return {"config_groups": {"group_0": group}, "format": format, "global_compression_ratio": None, "ignore": list(ignore),
            "kv_cache_scheme": None, "quant_method": "compressed-tensors", "quantization_status": "compressed"}


def packed(bits, group_size, symmetric, **more):
    return dict(num_bits=bits, group_size=group_size, strategy="group" if group_size else "channel", symmetric=symmetric, **more)


def plain(kind, strategy, **more):
    return dict(num_bits=8, type=kind, strategy=strategy, group_size=None, symmetric=True, **more)


def inputs(kind, strategy, **more):
    """How activations are to be quantized, which the values here leave out."""
    return {**plain(kind, strategy), "dynamic": strategy == "token", "observer": None, **more}


def fp8(**settings):
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", **settings}


def gptq(**settings):
    return {"quant_method": "gptq", **settings}


# name: (what differs from BASE, quantization_config, settings of the format, what is left as it is, row lengths, poolings, ranks)
SPECS = {
    "pack-int4-group": (
        dict(intermediate_size=1088, num_hidden_layers=1), compressed(packed(4, 32, True), ["score"]),
        dict(format="pack_quantized", bits=4, group_size=32, zeros=False, scale="BF16"), [], SHORT + MIDDLE, [None, ALL], [1, 2, 4]),
    "pack-int4-zeros": (
        dict(LLAMA, intermediate_size=160), compressed(packed(4, 16, False), ["re:.*score$", "model.layers.1.mlp.down_proj"]),
        dict(format="pack_quantized", bits=4, group_size=16, zeros=True, scale="F16"), ["model.layers.1.mlp.down_proj"],
        MIDDLE, [None, MEAN], [1, 2, 4]),
    "pack-int4-channel": (
        dict(REWARD, hidden_size=84, num_attention_heads=6, intermediate_size=204, vocab_size=331),
        compressed(packed(4, None, True), ["score.0", "score.2"]),
        dict(format="pack_quantized", bits=4, zeros=False, scale="F32"), [], FEW, [None], [1]),
    "pack-int4-order": (
        dict(QWEN3, head_dim=32, num_hidden_layers=1), compressed(packed(4, 32, False, actorder="group"), ["score"]),
        dict(format="pack_quantized", bits=4, group_size=32, zeros=True, order=True, scale="BF16"), [], MIDDLE, [None], [1, 2]),
    "pack-int8-channel": (
        dict(id2label={"0": "a", "1": "b"}), compressed(packed(8, None, False), ["lm_head"],
                                                        [r"re:.*self_attn\.[qkvo]_proj", r"re:model\.layers\.\d+\.mlp\.up.*"]),
        dict(format="pack_quantized", bits=8, zeros=True, scale="BF16"), ["gate_proj", "down_proj"], FEW, [None], [1, 2, 4]),
}
SPECS.update({
    "naive-fp8-channel": (
        dict(LLAMA, intermediate_size=160), compressed(plain("float", "channel"), ["score", "re:.*1.mlp.down_proj"], format="naive-quantized"),
        dict(format="plain", type="float", block=(1, None), scale="BF16"), ["model.layers.1.mlp.down_proj"], SHORT + MIDDLE, [None, ALL],
        [1, 2, 4]),
    "naive-fp8-blocks": (
        dict(intermediate_size=1088, num_hidden_layers=1),
        compressed(plain("float", "block", block_structure=[128, 128]), ["score"], format="naive-quantized"),
        dict(format="plain", type="float", block=(128, 128), scale="F32"), [], MIDDLE, [None, MEAN], [1, 2, 4]),
    "float-fp8-tensor": (
        dict(REWARD, hidden_size=84, num_attention_heads=6, intermediate_size=204, vocab_size=331),
        compressed(plain("float", "tensor"), ["score.0", "score.2"], format="float-quantized"),
        dict(format="plain", type="float", block=(None, None), scale="F32"), [], FEW, [None], [1]),
    "int-int8-channel": (
        dict(QWEN3, head_dim=32, num_hidden_layers=1),
        compressed({**plain("int", "channel"), "symmetric": False}, ["score"], format="int-quantized"),
        dict(format="plain", type="int", block=(1, None), zeros=True, scale="BF16"), [], MIDDLE, [None], [1, 2, 4]),
    "int-int8-groups": (
        dict(intermediate_size=160), compressed({**plain("int", "group"), "group_size": 16}, ["score"], format="int-quantized"),
        dict(format="plain", type="int", block=(1, 16), scale="F16"), [], FEW, [None], [1, 2]),
    "float-fp8-dynamic": (
        dict(intermediate_size=1088, num_hidden_layers=1),
        compressed(plain("float", "channel"), ["score"], format="float-quantized", inputs=inputs("float", "token")),
        dict(format="plain", type="float", block=(1, None), scale="BF16"), [], FEW, [None], [1, 2, 4]),
    "int-int8-static": (
        dict(LLAMA), compressed(plain("int", "channel"), ["score"], format="int-quantized", inputs=inputs("int", "tensor", symmetric=False)),
        dict(format="plain", type="int", block=(1, None), scale="BF16", inputs=["input_scale", "input_zero_point"]), [], FEW, [None], [1, 2]),
    "fp8-blocks": (
        dict(QWEN3, head_dim=32, intermediate_size=288),
        fp8(weight_block_size=[128, 128], modules_to_not_convert=["lm_head", "score", "model.layers.1.mlp.down_proj"]),
        dict(format="plain", type="float", block=(128, 128), scale="BF16", scale_name="weight_scale_inv"), ["model.layers.1.mlp.down_proj"],
        MIDDLE, [None, ALL], [1, 2, 4]),
    "fp8-tensor": (
        dict(LLAMA, hidden_size=128), fp8(weight_block_size=None, activation_scheme="static", modules_to_not_convert=None),
        dict(format="plain", type="float", block=(None, None), scale="F32", scale_name="weight_scale_inv", inputs=["activation_scale"]), [],
        FEW, [None], [1, 2]),
    "float-fp8-static": (
        dict(QWEN3, head_dim=32), compressed(plain("float", "tensor"), ["score"], format="float-quantized", inputs=inputs("float", "tensor")),
        dict(format="plain", type="float", block=(None, None), scale="BF16", inputs=["input_scale"]), [], FEW, [None], [1, 2]),
    "int-int8-dynamic": (
        dict(LLAMA), compressed(plain("int", "channel"), ["score"], format="int-quantized", inputs=inputs("int", "token")),
        dict(format="plain", type="int", block=(1, None), scale="BF16"), [], FEW, [None], [1, 2]),
    "pack-int4-dynamic": (
        dict(num_hidden_layers=1), compressed(packed(4, 16, True), ["score", "re:.*k_proj"], inputs=inputs("int", "token", symmetric=False)),
        dict(format="pack_quantized", bits=4, group_size=16, zeros=False, scale="BF16"), ["k_proj"], FEW, [None], [1, 2]),
    "float-fp8-groups": (
        dict(num_hidden_layers=1, intermediate_size=128),
        compressed(plain("float", "block", block_structure=[32, 32]), ["score"], format="float-quantized",
                   inputs=inputs("float", "group", group_size=32, dynamic=True)),
        dict(format="plain", type="float", block=(32, 32), scale="BF16"), [], FEW, [None], [1, 2]),
    "int-int8-dynamic-groups": (
        dict(num_hidden_layers=1, intermediate_size=128),
        compressed({**plain("int", "group"), "group_size": 32}, ["score"], format="int-quantized",
                   inputs=inputs("int", "group", group_size=32, dynamic=True, symmetric=False)),
        dict(format="plain", type="int", block=(1, 32), scale="BF16"), [], FEW, [None], [1, 2]),
    "fp8-blocks-whole": (
        dict(LLAMA, hidden_size=256, intermediate_size=256, num_hidden_layers=1), fp8(weight_block_size=[128, 128]),
        dict(format="plain", type="float", block=(128, 128), scale="F32", scale_name="weight_scale_inv"), [], FEW, [None], [1, 2]),
    "fp8-token": (
        dict(QWEN3, head_dim=32, num_hidden_layers=1), fp8(weight_block_size=None, modules_to_not_convert=["score"]),
        dict(format="plain", type="float", block=(None, None), scale="BF16", scale_name="weight_scale_inv"), [], FEW, [None], [1, 2, 4]),
    "fp8-static": (
        dict(LLAMA, intermediate_size=160), fp8(weight_block_size=[64, 32], activation_scheme="static"),
        dict(format="plain", type="float", block=(64, 32), scale="F32", scale_name="weight_scale_inv", inputs=["activation_scale"]), [],
        FEW, [None], [1, 2]),
    "int-int8-tensor": (
        dict(num_hidden_layers=1), compressed({**plain("int", "tensor"), "symmetric": False}, ["score"], format="naive-quantized"),
        dict(format="plain", type="int", block=(None, None), zeros=True, scale="F32"), [], FEW, [None], [1, 2]),
})
# AutoFP8's files, older than transformers' of the same method.
SPECS.update({
    "autofp8-static": (
        dict(QWEN3, head_dim=32), dict(quant_method="fp8", activation_scheme="static", ignored_layers=["score"]),
        dict(format="plain", type="float", block=(None, None), scale="F32", scale_name="weight_scale", inputs=["input_scale"]), [], FEW, [None],
        [1, 2]),
    "autofp8-dynamic": (
        dict(LLAMA, intermediate_size=160),
        dict(quant_method="fp8", activation_scheme="dynamic", ignored_layers=["score", "model.layers.1.mlp.down_proj"]),
        dict(format="plain", type="float", block=(None, None), scale="BF16", scale_name="weight_scale"), ["model.layers.1.mlp.down_proj"], FEW,
        [None], [1, 2]),
})
SPECS.update({
    "gptq-int4": (
        dict(intermediate_size=1088, num_hidden_layers=1),
        gptq(bits=4, group_size=32, sym=True, desc_act=False, checkpoint_format="gptq", lm_head=False, pack_dtype="int32",
             meta={"quantizer": ["gptqmodel:2.0.0"]}),
        dict(format="gptq", bits=4, group_size=32, zeros=False, scale="F16", v2=False, g_idx=True), [], SHORT + MIDDLE, [None, ALL],
        [1, 2, 4]),
    "gptq-int4-order": (
        dict(LLAMA, intermediate_size=160), gptq(bits=4, group_size=16, sym=False, desc_act=True, true_sequential=True,
                                                 model_file_base_name="model", static_groups=False),
        dict(format="gptq", bits=4, group_size=16, zeros=True, scale="F16", v2=False, g_idx=True, order=True), [], MIDDLE,
        [None, MEAN], [1, 2, 4]),
    "gptq-int8-v2": (
        dict(REWARD, hidden_size=96, intermediate_size=176),
        gptq(bits=8, group_size=-1, sym=False, desc_act=False, format="gptq_v2", checkpoint_format="gptq_v2", dynamic={},
             modules_in_block_to_quantize=[["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"], ["self_attn.o_proj"],
                                           ["mlp.up_proj", "mlp.down_proj"]]),
        dict(format="gptq", bits=8, zeros=True, scale="F32", v2=True, g_idx=False), ["gate_proj"], FEW, [None], [1, 2, 4]),
    "awq-int4": (
        dict(QWEN3, head_dim=32, intermediate_size=288, num_hidden_layers=1),
        dict(quant_method="awq", bits=4, group_size=32, zero_point=True, version="gemm", backend="autoawq", do_fuse=False,
             modules_to_not_convert=None),
        dict(format="awq", bits=4, group_size=32, zeros=True, scale="F16"), [], SHORT + MIDDLE, [None, ALL], [1, 2, 4]),
    "awq-int4-kept": (
        dict(LLAMA), dict(quant_method="awq", bits=4, group_size=16, zero_point=True, version="GEMM",
                          modules_to_not_convert=["lm_head", "down_proj", "model.layers.0.self_attn"]),
        dict(format="awq", bits=4, group_size=16, zeros=True, scale="BF16"),
        ["down_proj", *(f"model.layers.0.self_attn.{k}_proj" for k in "qkvo")], FEW, [None], [1, 2]),
})


# Of which of them vectors/rounded has values with rounded activations, and for how many ranks. Rows are short: where two sums of
# float32 differ in their last bits a number may round to the other side, which is a step of the 8 bits.
ROUNDED = {"float-fp8-dynamic": [1, 2, 4], "float-fp8-static": [1, 2], "float-fp8-groups": [1, 2], "int-int8-static": [1, 2],
           "int-int8-dynamic": [1, 2], "pack-int4-dynamic": [1, 2], "fp8-blocks": [1], "fp8-blocks-whole": [1, 2], "fp8-token": [1, 2, 4],
           "fp8-static": [1, 2], "fp8-tensor": [1, 2], "autofp8-static": [1, 2],
           "int-int8-dynamic-groups": [1, 2]}
ROUNDED_LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8]
# Of these only rows that score alike when sums have another order: compressed-tensors' scale of symmetric integers by token puts a
# row's largest magnitude at 127.5, where that happens with about every row, and the others have many numbers to round.
STEADY = {"int-int8-dynamic": [1, 1, 1, 1, 2, 2, 2, 3],
          **{name: ROUNDED_LENGTHS for name in ("fp8-blocks", "fp8-blocks-whole", "fp8-token", "fp8-static", "fp8-tensor", "autofp8-static")}}


def fnv(data):
    """As schema/fnv.h computes it."""
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def to_torch(array, kind):
    tensor = torch.from_numpy(numpy.ascontiguousarray(array))
    if array.dtype == numpy.uint8:
        return tensor.view(torch.float8_e4m3fn)
    return tensor.to(torch.bfloat16) if kind == "BF16" and tensor.dtype == torch.float32 else tensor


def compare_compressed(settings, config, tensors, values):
    """compressed-tensors' own values, with its scales as float32, where it is installed. It has no g_idx any more."""
    try:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationScheme
    except ImportError:
        return
    if settings.get("order"):
        return
    scheme = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    state = {k: to_torch(v, "F32") for k, v in tensors.items()}
    state["weight_scale"] = state["weight_scale"].float()
    found = BaseCompressor.get_value_from_registry(config["format"]).decompress(state, scheme)["weight"]
    assert found.dtype == torch.float32 and numpy.array_equal(found.numpy().view(numpy.uint32), values.view(numpy.uint32))


def compare_fp8(tensors, values):
    """transformers' own values, which takes the blocks' size from the numbers of scales: where these divide the matrix's."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    state = {k: to_torch(v, "F32") for k, v in tensors.items()}
    scales = state["weight_scale_inv"]
    if scales.ndim == 2 and any(n != 1 and (n * 128 != size) for n, size in zip(scales.shape, values.shape)):
        return
    found = Fp8Dequantize(None)._dequantize_one(state["weight"], scales, output_dtype=torch.float32)
    assert numpy.array_equal(found.numpy().view(numpy.uint32), values.view(numpy.uint32))


def is_quantized(name, kept):
    module = name.removesuffix(".weight")
    return module.endswith(MATRICES) and name.endswith(".weight") and not any(module.endswith(k) for k in kept)


def quantize(config, settings, kept, tensors, rng):
    """(tensors of the file, float32 tensors of the model, hashes of the matrices)."""
    stored, wide, hashes = {}, {}, {}
    for name, tensor in tensors.items():
        if not is_quantized(name, kept):
            stored[name] = tensor
            wide[name] = tensor.float()
            continue
        parts, values = getattr(quantized, settings["format"])(tuple(tensor.shape), settings, rng)
        if "config_groups" in config:
            compare_compressed(settings, config, parts, values)
        if "weight_scale_inv" in parts:
            compare_fp8(parts, values)
        module = name.removesuffix(".weight")
        stored.update({f"{module}.{k}": to_torch(v, settings["scale"]) for k, v in parts.items()})
        wide[name] = torch.from_numpy(values)
        hashes[module.removeprefix("model.")] = fnv(values.tobytes())
    return stored, wide, hashes


def round_inputs(model, scheme, stored, hashes):
    """Makes compressed-tensors' own forward of every quantized module, over weights that are float32 already."""
    from compressed_tensors.quantization import QuantizationScheme, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
    scheme = QuantizationScheme.model_validate(scheme)
    for name in hashes:
        module = model.get_submodule(name)
        initialize_module_for_quantization(module, scheme)
        for key in ("input_scale", "input_zero_point"):
            if f"model.{name}.{key}" in stored:
                value = stored[f"model.{name}.{key}"]
                getattr(module, key).data = value.float() if key == "input_scale" else value
        module.quantization_status = QuantizationStatus.DECOMPRESSED


def fp8_groups(x, size, scale):
    """Of inputs in groups of so many columns: e4m3 numbers and scales as transformers' kernels for its FP8 have them. A scale of the
    file is of all groups."""
    parts = x.split(size, dim=-1)
    if scale is not None:
        scales = [scale] * len(parts)
        return [(part / scale).clamp(-448, 448).to(torch.float8_e4m3fn) for part in parts], scales
    scales = [part.abs().amax(-1, keepdim=True) / 448 for part in parts]
    return [(part / s.clamp(min=1e-12)).clamp(-448, 448).to(torch.float8_e4m3fn) for part, s in zip(parts, scales)], scales


def fp8_forward(module, block, tensors):
    """A linear layer as these kernels compute it, written in PyTorch since they are for GPUs: the product of the e4m3 numbers, block of
    columns by block of columns, times the scales of inputs and weights."""
    rows, cols = block or (module.out_features, module.in_features)
    weight, weight_scale = tensors["weight"].float(), tensors.get("weight_scale_inv", tensors.get("weight_scale")).float().reshape(-1, -(-module.in_features // cols))
    each_row = weight_scale.repeat_interleave(rows, 0)[:module.out_features]
    scale = next((tensors[key].float() for key in ("activation_scale", "input_scale") if key in tensors), None)

    def forward(x):
        out = 0
        for k, (q, s) in enumerate(zip(*fp8_groups(x, cols, scale))):
            out = out + torch.nn.functional.linear(q.float(), weight[:, k * cols:(k + 1) * cols]) * s * each_row[:, k]
        return out if module.bias is None else out + module.bias

    return forward


def round_fp8_inputs(model, quantization, stored, hashes):
    for name in hashes:
        module = model.get_submodule(name)
        tensors = {k.rsplit(".", 1)[1]: v for k, v in stored.items() if k.startswith(f"model.{name}.")}
        module.forward = fp8_forward(module, quantization.get("weight_block_size"), tensors)


def other_order(at):
    """Products are sums of two parts of their columns."""
    def change(linear, x, weight, bias=None):
        k = int(x.shape[-1] * at)
        return linear(x[..., :k], weight[:, :k]) + linear(x[..., k:], weight[:, k:], bias)
    return change


def other_bits(seed):
    """Sums whose last bits are others; those of e4m3 numbers are exact in any order."""
    generator = torch.Generator().manual_seed(seed)

    def change(linear, x, weight, bias=None):
        out = linear(x, weight, bias)
        return out * (1 + torch.randint(-8, 9, out.shape, generator=generator) * 2.0 ** -23)
    return change


@contextlib.contextmanager
def changed(change):
    linear = torch.nn.functional.linear
    torch.nn.functional.linear = lambda *args: change(linear, *args)
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


def is_steady(score, row, changes):
    values = score(row)
    for change in changes:
        with changed(change):
            if not numpy.allclose(score(row), values, rtol=0, atol=1e-5):
                return False
    return True


def steady_row(score, draw, changes):
    while True:
        row = draw()
        if is_steady(score, row, changes):
            return row


def make_rounded(into, name, config, quantization, stored, wide, hashes):
    import compressed_tensors
    rng = numpy.random.default_rng(zlib.crc32(name.encode()) + 2)
    model, head = oracle.trunk_and_head(config, wide)
    if quantization["quant_method"] == "fp8":
        round_fp8_inputs(model, quantization, stored, hashes)
        after = "AutoFP8's static ones" if name.startswith("autofp8") else "its FP8 kernels for GPUs (kernels-community/finegrained-fp8)"
        rounding = f"linear layers in PyTorch after {after}"
    else:
        round_inputs(model, quantization["config_groups"]["group_0"], stored, hashes)
        rounding = f"compressed-tensors {compressed_tensors.__version__}'s forward of quantized modules"

    def score(row):
        return oracle.pool(config, oracle.logits(model, head, row["ids"]), row["ids"], row.get("pool"))

    if name in STEADY:
        changes = [other_bits(i) for i in range(16)] if quantization["quant_method"] == "fp8" else map(other_order, (0.25, 0.4, 0.5, 0.75))
        changes = list(changes)
        rows = [steady_row(score, lambda: make_models.make_row(config, n, None, rng), changes) for n in STEADY[name]]
    else:
        rows = [make_models.make_row(config, n, None, rng) for n in ROUNDED_LENGTHS]
    for row in rows:
        row["values"] = make_models.rounded(score(row), 9)
    how = f"tests/reference/make_quantized.py; transformers {transformers.__version__} in float32 with {rounding}"
    write_vector(into / "vectors/rounded" / f"{name}.json", {"model": "quantized/" + name, "how": how, "tp": ROUNDED[name]}, rows)


def write_vector(path, head, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    path.write_text(json.dumps(head)[:-1] + ', "rows": [\n' + lines + "\n]}\n")


def make(into, name):
    changes, quantization, settings, kept, lengths, pools, tp = SPECS[name]
    seed = zlib.crc32(name.encode())
    config = checkpoint.config_of(changes)
    rng = numpy.random.default_rng(seed + 1)
    stored, wide, hashes = quantize(quantization, settings, kept, checkpoint.random_tensors(config, seed, "BF16"), rng)
    rows = [make_models.make_row(config, n, pools[k % len(pools)], rng) for k, n in enumerate(lengths)]
    for row, values in zip(rows, oracle.score(config, wide, rows)):
        row["values"] = make_models.rounded(values, 9)
    directory = into / "models/quantized" / name
    checkpoint.empty(directory)
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}, indent=1) + "\n")
    safetensors.torch.save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    how = (f"tests/reference/make_quantized.py, seed {seed}; transformers {transformers.__version__} in float32 over the values that "
           "the stored numbers mean")
    head = {"model": "quantized/" + name, "how": how, "tp": tp, "dequantized": hashes}
    write_vector(into / "vectors/quantized" / f"{name}.json", head, rows)
    if name in ROUNDED:
        make_rounded(into, name, config, quantization, stored, wide, hashes)
    print(f"{name:24s} {len(rows):3d} rows", rows[0]["values"], rows[1]["values"], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--into", type=pathlib.Path, default=TESTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    (args.into / "models/quantized").mkdir(parents=True, exist_ok=True)
    (args.into / "vectors/quantized").mkdir(parents=True, exist_ok=True)
    for name in args.names or SPECS:
        make(args.into, name)


if __name__ == "__main__":
    main()
