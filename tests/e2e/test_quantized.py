"""Checkpoints that are quantized as published: through the service, what `assay check` says, and what is refused by name."""
import json
import shutil
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, ids_bytes

from test_checkpoints import describe, read, write
from test_golden import close, values

QUANTIZED = sorted((ROOT / "tests/vectors/quantized").glob("*.json"))
LAYER = "model.layers.0.self_attn.q_proj."


def copied(directory, name):
    shutil.copytree(MODELS / "quantized" / name, directory / "m")
    return directory / "m"


def change_config(model, path, value):
    """Sets the field of quantization_config that the path names, or takes it out."""
    config = json.loads((model / "config.json").read_text())
    *outer, key = path.split("/")
    inner = config["quantization_config"]
    for name in outer:
        inner = inner[name]
    inner.pop(key, None)
    if value != "absent":
        inner[key] = value
    (model / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("path", QUANTIZED, ids=lambda path: path.stem)
def test_scores_agree_with_the_oracle(directory, path):
    vector = json.loads(path.read_text())
    rows = [{"ids": ids_bytes(row["ids"]), **({"pool": row["pool"]} if "pool" in row else {})} for row in vector["rows"]]
    with Broker(directory, model=MODELS / vector["model"], options=["--activations", "weights-only"]) as broker, broker.client() as client:
        hello = client.call("hello")
        found = client.call("score", rows=rows, timeout_ms=60000)["rows"]
    assert f"quant={hello['model']['dtype']}" in hello["mode"], hello
    assert (" activations=weights-only" in hello["mode"]) == has_inputs(MODELS / vector["model"]), hello
    for got, row in zip(found, vector["rows"]):
        assert got["error"] is None and close(values(got), row["values"]), (path.stem, values(got), row["values"])


def has_inputs(model):
    """Whether the config says that activations are quantized."""
    text = (model / "config.json").read_text()
    return '"activation_scheme"' in text or '"input_activations": {' in text


@pytest.mark.parametrize("name", ["float-fp8-dynamic", "int-int8-static", "fp8-blocks", "fp8-tensor", "int-int8-dynamic"])
def test_quantized_activations_need_a_choice(name):
    code, said = describe(MODELS / "quantized" / name)
    assert code == 78 and "activations" in said and "--activations weights-only" in said, said
    assert describe(MODELS / "quantized" / name, "--activations", "weights-only")[0] == 0
    code, said = describe(MODELS / "quantized" / name, "--activations", "int8")
    assert code != 0 and "--activations" in said and "weights-only" in said, said
    done = subprocess.run([BIN / "assay", "check", "--activations", "weights-only", MODELS / "quantized" / name], capture_output=True,
                          text=True, timeout=60 * PATIENCE)
    assert f"weights        {'fp8' if name.startswith('fp8') else name.split('-')[0]}-" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name, options, words", [
    ("float-fp8-dynamic", [], None), ("float-fp8-static", ["--tp", "2"], None), ("int-int8-static", ["--tp", "2"], None),
    ("pack-int4-dynamic", [], None), ("int-int8-dynamic", [], None),
    ("float-fp8-dynamic", ["--tp", "4"], None), ("int-int8-dynamic", ["--tp", "2"], None), ("fp8-blocks", [], None),
    ("fp8-tensor", ["--tp", "2"], None), ("fp8-static", ["--tp", "2"], None), ("fp8-token", ["--tp", "4"], None),
    ("fp8-blocks-whole", ["--tp", "2"], None), ("float-fp8-groups", ["--tp", "2"], None),
    ("int-int8-dynamic-groups", ["--tp", "2"], None), ("autofp8-static", ["--tp", "2"], None),
    ("autofp8-dynamic", [], ["activations that are quantized so are not built", "expected --activations weights-only"]),
    ("fp8-blocks-whole", ["--tp", "4"], ["tp 4 does not fit", "o_proj", "groups of 128 columns", "found 64", "weights-only"]),
    ("fp8-blocks", ["--tp", "2"], ["tp 2 does not fit", "groups of 128 columns", "or --activations weights-only"])])
def test_which_roundings_of_activations_are_built(name, options, words):
    code, said = describe(MODELS / "quantized" / name, "--activations", "as-stored", *options)
    assert code == (78 if words else 0) and all(word in said for word in words or []), said


def with_input_fields(directory, name, **fields):
    """A copy of which the activations' settings, or with TOP those of the whole, have these fields too."""
    model = copied(directory, name)
    config = json.loads((model / "config.json").read_text())
    quantization = config["quantization_config"]
    quantization.update(fields.pop("top", {}))
    for group in quantization.get("config_groups", {}).values():
        group["input_activations"].update(fields)
    (model / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("zero, is_built", [(None, True), ("torch.int8", True), ("torch.int32", True), ("torch.uint8", False), ("torch.float32", False),
                                            ("torch.float16", False), ("torch.bfloat16", False), ("int4", False), (8, False)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_type_of_rounding_zero_points(directory, zero, is_built, symmetric):
    """compressed-tensors rounds them to it, and cuts at its ends."""
    model = with_input_fields(directory, "int-int8-dynamic", symmetric=symmetric, zp_dtype=zero)
    code, said = describe(model, "--activations", "as-stored")
    assert (code == 0) == (is_built or symmetric) and (code == 0 or "are not built" in said), said


@pytest.mark.parametrize("name", ["float-fp8-dynamic", "int-int8-static", "fp8-blocks", "fp8-static"])
@pytest.mark.parametrize("top, is_taken", [({"dequantize": True}, False), ({"dequantize": False}, True), ({"run_compressed": False}, False),
                                           ({"run_compressed": True}, True)])
def test_a_config_that_leaves_activations_as_they_are(directory, name, top, is_taken):
    """transformers rounds none then, so --activations as-stored has two meanings."""
    if name.startswith("fp8") and "run_compressed" in top:
        pytest.skip("compressed-tensors' own field")
    model = with_input_fields(directory, name, top=top)
    code, said = describe(model, "--activations", "as-stored")
    assert (code == 0) == is_taken and (is_taken or f"quantization_config.{next(iter(top))} says" in said), said
    assert describe(model, "--activations", "weights-only")[0] == 0


@pytest.mark.parametrize("scale", [b"\0\0\0\0", b"\0\0\xc0\x7f", b"\0\0\x80\xbf"])
def test_a_scale_of_inputs_that_is_none(directory, scale):
    model = copied(directory, "float-fp8-static")
    change_tensor(model, "input_scale", bytes_at(0, scale[2:]))
    code, said = describe(model, "--activations", "as-stored")
    assert code == 78 and "q_proj.input_scale" in said and "expected a positive scale" in said, said


@pytest.mark.parametrize("name", ["float-fp8-static", "float-fp8-dynamic", "fp8-blocks-whole", "fp8-token"])
def test_rounded_activations_through_the_service(directory, name):
    vector = json.loads((ROOT / f"tests/vectors/rounded/{name}.json").read_text())
    rows = [{"ids": ids_bytes(row["ids"])} for row in vector["rows"]]
    with Broker(directory, model=MODELS / vector["model"], options=["--activations", "as-stored", "--tp", "2"]) as broker:
        with broker.client() as client:
            assert " activations=as-stored" in client.call("hello")["mode"]
            found = client.call("score", rows=rows, timeout_ms=60000)["rows"]
    for got, row in zip(found, vector["rows"]):
        assert got["error"] is None and close(values(got), row["values"]), (values(got), row["values"])


def test_check_says_it(directory):
    done = subprocess.run([BIN / "assay", "check", MODELS / "quantized/pack-int4-group"], capture_output=True, text=True,
                          timeout=60 * PATIENCE)
    assert "weights        pack-quantized-int4" in done.stdout, done.stdout + done.stderr


GROUP = "config_groups/group_0/"
CONFIG = [
    ("pack-int4-zeros", "quant_method", "bitsandbytes", ["quant_method", "'bitsandbytes' is not built", "compressed-tensors"]),
    ("pack-int4-zeros", "quant_method", "hqq", ["'hqq' is not built"]),
    ("pack-int4-zeros", "quant_method", 4, ["quant_method"]),
    ("pack-int4-zeros", "format", "marlin-24", ["quantization_config.format", 'expected "pack-quantized"', '"marlin-24"']),
    ("pack-int4-zeros", "format", "absent", ["quantization_config.format", "found nothing"]),
    ("pack-int4-zeros", "quantization_status", "frozen", ["quantization_status", 'expected "compressed"', '"frozen"']),
    ("pack-int4-zeros", "kv_cache_scheme", {"num_bits": 8}, ["kv_cache_scheme", "num_bits"]),
    ("pack-int4-zeros", "sparsity_config", {"format": "sparse-24-bitmask"}, ["sparsity_config", "sparse-24-bitmask"]),
    ("pack-int4-zeros", "sparsity_config", {"global_sparsity": 0.5}, ["sparsity_config", "found none"]),
    ("pack-int4-zeros", "sparsity_config", "dense", ["sparsity_config", "found none"]),
    ("pack-int4-zeros", "transform_config", {"config_groups": {}}, ["transform_config"]),
    ("pack-int4-zeros", "rotation", "hadamard", ["quantization_config.rotation: unknown", "expected no such key"]),
    ("pack-int4-zeros", "config_groups", {}, ["config_groups", "expected 1, found 0"]),
    ("pack-int4-zeros", "config_groups", {"a": {}, "b": {}}, ["config_groups", "expected 1, found 2"]),
    ("pack-int4-zeros", "config_groups", [], ["config_groups", "expected an object"]),
    ("pack-int4-zeros", GROUP + "weights", "absent", ["config_groups.*.weights", "expected an object, found nothing"]),
    ("pack-int4-zeros", GROUP + "targets", "absent", ["targets", "found nothing"]),
    ("pack-int4-zeros", GROUP + "targets", "Linear", ["targets", "expected a list"]),
    ("pack-int4-zeros", GROUP + "targets", [7], ["targets[0]", "found no string"]),
    ("pack-int4-zeros", GROUP + "targets", ["Linear", "Embedding"], ["quantized embedding is not built"]),
    ("pack-int4-zeros", GROUP + "targets", ["re:.*(q_proj"], ["targets", "expected patterns", "re:.*(q_proj"]),
    ("pack-int4-zeros", GROUP + "input_activations", {"num_bits": 8, "dynamic": True}, ["activations", "--activations weights-only"]),
    ("pack-int4-zeros", GROUP + "input_activations", [8], ["input_activations", "expected an object"]),
    ("pack-int4-zeros", GROUP + "input_activations", {"dynamic": "local"}, ["input_activations.dynamic", '"local"']),
    ("pack-int4-zeros", GROUP + "input_activations", {"strategy": "token"}, ["input_activations.strategy", 'expected "tensor"']),
    ("pack-int4-zeros", GROUP + "input_activations", {"rotated": True}, ["input_activations.rotated: unknown"]),
    ("pack-int4-zeros", GROUP + "output_activations", {"num_bits": 8}, ["output_activations", "expected null"]),
    ("pack-int4-zeros", GROUP + "weights/num_bits", 3, ["weights.num_bits", "expected 4 or 8, found 3"]),
    ("pack-int4-zeros", GROUP + "weights/num_bits", "absent", ["weights.num_bits"]),
    ("pack-int4-zeros", GROUP + "weights/num_bits", 8, ["weight_packed", "expected [64, 40], found [64, 20]"]),
    ("pack-int4-zeros", GROUP + "weights/type", "float", ["weights.type", 'expected "int" with the format', 'found "float"']),
    ("pack-int4-zeros", GROUP + "weights/strategy", "tensor", ["weights.strategy", '"tensor"']),
    ("pack-int4-zeros", GROUP + "weights/strategy", "channel", ["weights.group_size", "expected none", "found 16"]),
    ("pack-int4-zeros", GROUP + "weights/strategy", "absent", ["weights.strategy", "found nothing"]),
    ("pack-int4-zeros", GROUP + "weights/group_size", None, ["weights.group_size", "expected a size"]),
    ("pack-int4-zeros", GROUP + "weights/group_size", 4, ["weights.group_size", "at least 8, found 4"]),
    ("pack-int4-zeros", GROUP + "weights/group_size", 32, ["weight_zero_point", "expected [8, 5], found [8, 10]"]),
    ("pack-int4-zeros", GROUP + "weights/symmetric", True, ["weight_zero_point", "does not name"]),
    ("pack-int4-zeros", GROUP + "weights/symmetric", "no", ["weights.symmetric"]),
    ("pack-int4-zeros", GROUP + "weights/dynamic", True, ["weights.dynamic", "expected false"]),
    ("pack-int4-zeros", GROUP + "weights/actorder", "group", ["weight_g_idx", "found missing"]),
    ("pack-int4-zeros", GROUP + "weights/actorder", "random", ["weights.actorder", '"random"']),
    ("pack-int4-zeros", GROUP + "weights/block_structure", [128, 128], ["weights.block_structure"]),
    ("pack-int4-zeros", GROUP + "weights/is_mx", True, ["weights.is_mx: unknown"]),
    ("pack-int4-zeros", "ignore", ["re:.*score$"], ["model.layers.1.mlp.down_proj.weight"]),
    ("pack-int4-zeros", "ignore", ["score", "model.layers.1"], ["model.layers.1.mlp.down_proj.weight"]),
    ("pack-int4-zeros", "ignore", [], ["quantization_config.ignore", "quantized head is not built", "'score'"]),
    ("pack-int4-zeros", "ignore", ["re:.*score$", "re:.*down_proj"], ["layers.0.mlp.down_proj.weight"]),
    ("pack-int4-zeros", "ignore", ["re:(.|.)*[!?]"], ["ignore", "quickly tried"]),
    ("pack-int4-zeros", "ignore", "score", ["ignore", "expected a list"]),
    ("pack-int4-zeros", GROUP + "weights/strategy", "block", ["weights.strategy", '"block"']),
    ("pack-int4-zeros", GROUP + "format", "int-quantized", ["config_groups.*.format", "expected 'pack-quantized'"]),
    ("pack-int4-zeros", "format", "int-quantized", ["config_groups.*.weights.num_bits", "expected 8", "found 4"]),
    ("naive-fp8-blocks", "format", "int-quantized", ["weights.type", 'expected "int"', 'found "float"']),
    ("naive-fp8-blocks", "format", "pack-quantized", ["weights.type", 'expected "int"', 'found "float"']),
    ("naive-fp8-blocks", "format", "nvfp4-pack-quantized", ["quantization_config.format", "nvfp4-pack-quantized"]),
    ("naive-fp8-blocks", GROUP + "weights/type", "int", ["_proj.weight", "dtype: expected I8, found F8_E4M3"]),
    ("naive-fp8-blocks", GROUP + "weights/num_bits", 4, ["weights.num_bits", "expected 8", "found 4"]),
    ("naive-fp8-blocks", GROUP + "weights/symmetric", False, ["weights.symmetric", "expected true"]),
    ("naive-fp8-blocks", GROUP + "weights/actorder", "group", ["weights.actorder", "expected none"]),
    ("naive-fp8-blocks", GROUP + "weights/group_size", 128, ["weights.group_size", "expected none with the strategy 'block'"]),
    ("naive-fp8-blocks", GROUP + "weights/block_structure", "absent", ["weights.block_structure", "[128, 128]"]),
    ("naive-fp8-blocks", GROUP + "weights/block_structure", [128], ["weights.block_structure", "[128, 128]"]),
    ("naive-fp8-blocks", GROUP + "weights/block_structure", [128, 4], ["weights.block_structure", "at least 1 and 8"]),
    ("naive-fp8-blocks", GROUP + "weights/block_structure", "128x", ["weights.block_structure"]),
    ("naive-fp8-blocks", GROUP + "weights/block_structure", [64, 128], ["weight_scale", "expected [17, 1], found [9, 1]"]),
    ("naive-fp8-blocks", GROUP + "weights/strategy", "tensor", ["block_structure", "expected none with the strategy 'tensor'"]),
    ("naive-fp8-channel", GROUP + "weights/strategy", "tensor", ["weight_scale", "expected [1], found ["]),
    ("float-fp8-tensor", GROUP + "weights/strategy", "channel", ["weight_scale", "expected [84, 1], found [1]"]),
    ("float-fp8-tensor", "ignore", [], ["quantized head is not built"]),
    ("fp8-blocks", "activation_scheme", "per-token", ["activation_scheme", "per-token"]),
    ("fp8-blocks", "activation_scheme", "static", ["activation_scale", "found missing"]),
    ("fp8-blocks", "activation_scheme", None, ["quantization_config.activation_scheme", "or no such key for the default, found null"]),
    ("fp8-blocks", "scale_fmt", None, ["scale_fmt", "found null"]),
    *(("int-int8-dynamic", f"{GROUP}{part}/{key}", None, [f"{part}.{key}", "null"])
      for part in ("weights", "input_activations") for key in ("num_bits", "type", "symmetric", "dynamic")),
    ("awq-int4", "zero_point", None, ["zero_point", "found null"]),
    ("autofp8-static", "weight_block_size", None, ["_proj.input_scale", "does not name"]),
    ("autofp8-static", "activation_scheme", "dynamic", ["input_scale"]),
    ("autofp8-dynamic", "activation_scheme", "static", ["input_scale", "found missing"]),
    ("fp8-blocks", "fmt", "e5m2", ["quantization_config.fmt", "e5m2"]),
    ("fp8-blocks", "scale_fmt", "ue8m0", ["scale_fmt", "ue8m0"]),
    ("fp8-blocks", "weight_block_size", None, ["weight_scale_inv", "expected [1], found ["]),
    ("fp8-blocks", "weight_block_size", [64, 64], ["weight_scale_inv", "shape: expected ["]),
    ("fp8-blocks", "modules_to_not_convert", ["lm_head"], ["layers.1.mlp.down_proj.weight", "expected F8_E4M3, found BF16"]),
    ("fp8-blocks", "modules_to_not_convert", ["mlp"], ["_proj.weight"]),
    ("fp8-blocks", "modules_to_convert", ["model.embed_tokens"], ["modules_to_convert", "embed_tokens"]),
    ("fp8-blocks", "weight_rotation", True, ["weight_rotation: unknown"]),
    ("fp8-tensor", "activation_scheme", "dynamic", ["activation_scale"]),
    ("fp8-tensor", "weight_block_size", "absent", ["weight_scale_inv", "expected [1, 1], found [1]"]),
    ("int-int8-channel", GROUP + "weights/symmetric", True, ["weight_zero_point", "does not name"]),
    ("pack-int4-order", GROUP + "weights/actorder", "weight", ["weight_g_idx", "does not name"]),
    ("gptq-int4", "bits", 3, ["quantization_config.bits", "expected 4 or 8, found 3"]),
    ("gptq-int4", "bits", "absent", ["quantization_config.bits"]),
    ("gptq-int4", "bits", 8, ["qweight", "expected [272, 64], found [136, 64]"]),
    ("gptq-int4", "group_size", 64, ["qzeros", "expected [17, 8], found [34, 8]"]),
    ("gptq-int4", "group_size", 0, ["group_size", "found 0"]),
    ("gptq-int4", "checkpoint_format", "marlin", ["checkpoint_format", "marlin"]),
    ("gptq-int4", "format", "gptq_v2", ["format 'gptq_v2' contradicts", "checkpoint_format 'gptq'"]),
    ("gptq-int4", "is_marlin_format", True, ["is_marlin_format", "expected false"]),
    ("gptq-int4", "lm_head", True, ["lm_head", "expected false"]),
    ("gptq-int4", "pack_dtype", "int16", ["pack_dtype", "int16"]),
    ("gptq-int4", "dynamic", {"-:.*up.*": {}}, ["dynamic", "expected {}"]),
    ("gptq-int4", "desc_act", 1, ["desc_act", "found 1"]),
    ("gptq-int4", "modules_in_block_to_quantize", [["mlp.gate"]], ["modules_in_block_to_quantize", "'mlp.gate'"]),
    ("gptq-int4", "modules_in_block_to_quantize", "all", ["modules_in_block_to_quantize", "'all'"]),
    ("gptq-int4", "modules_in_block_to_quantize", [["mlp.up_proj"]], ["does not name"]),
    ("gptq-int4", "rotation", "quarot", ["rotation: unknown"]),
    ("gptq-int4-order", "desc_act", False, ["g_idx", "contradicts desc_act"]),
    ("gptq-int8-v2", "desc_act", True, ["g_idx", "found missing"]),
    ("awq-int4", "bits", 8, ["quantization_config.bits", "expected 4, found 8"]),
    ("awq-int4", "version", "gemv", ["version", '"gemv"']),
    ("awq-int4", "zero_point", False, ["zero_point", "expected true"]),
    ("awq-int4", "backend", "llm-awq", ["backend", "llm-awq"]),
    ("awq-int4", "group_size", 64, ["expected [5, 8], found [9, 8]", "qzeros"]),
    ("awq-int4", "modules_to_not_convert", ["self_attn.q"], ["modules_to_not_convert", "AutoAWQ", "layer 0"]),
    ("awq-int4", "modules_to_not_convert", ["mlp"], ["modules_to_not_convert", "AutoAWQ", "layer 0"]),
    ("awq-int4", "modules_to_not_convert", ["down_proj"], ["down_proj.qweight", "does not name"]),
    ("awq-int4", "modules_to_not_convert", ["(down_proj"], ["modules_to_not_convert", "expected patterns"]),
    ("awq-int4", "modules_to_not_convert", ["d" * 700], ["modules_to_not_convert", "700 bytes"]),
    ("awq-int4", "quantize_embeddings", True, ["quantize_embeddings: unknown"]),
    ("pack-int4-channel", GROUP + "weights/actorder", "group", ["weights.actorder", "expected none with the strategy 'channel'"]),
]


@pytest.mark.parametrize("name, path, value, words", CONFIG)
def test_config_that_is_not_built(directory, name, path, value, words):
    model = copied(directory, name)
    how = ["--activations", "weights-only"] if has_inputs(model) else []
    assert describe(model, *how)[0] == 0
    change_config(model, path, value)
    code, said = describe(model, *how)
    assert code == 78 and ("config.json" in said or "model.safetensors" in said), said
    assert all(word in said for word in words), said


@pytest.mark.parametrize("path, value", [
    ("version", "0.9.1"), ("global_compression_ratio", 1.5), ("run_compressed", False), ("sparsity_config", {}),
    ("sparsity_config", {"format": "dense", "global_sparsity": 0.1, "ignore": [], "registry_requires_subclass": False,
                         "sparsity_structure": "unstructured"}),
    ("transform_config", {}), (GROUP + "weights/observer", "mse"), (GROUP + "weights/actorder", "static"),
    (GROUP + "format", "pack-quantized"), (GROUP + "weights/zp_dtype", "torch.int8"), ("ignore", ["score", "model.layers.1.mlp.down_proj"])])
def test_config_that_changes_nothing(directory, path, value):
    model = copied(directory, "pack-int4-zeros")
    change_config(model, path, value)
    code, said = describe(model)
    assert code == 0, said


def change_tensor(model, suffix, change):
    header, body = read(model / "model.safetensors")
    body = bytearray(body)
    change(header, body, LAYER + suffix)
    write(model / "model.safetensors", header, bytes(body))


def without(header, body, name):
    """Nothing may be left over: the tensor before it takes its bytes."""
    entry = header.pop(name)
    assert entry["data_offsets"][1] > entry["data_offsets"][0]
    header["model.layers.0.self_attn.rotary_emb.inv_freq"] = {**entry, "dtype": "I8", "shape": [
        entry["data_offsets"][1] - entry["data_offsets"][0]]}


def entry(**changes):
    def change(header, body, name):
        header[name] = {**header[name], **changes}
    return change


def bytes_at(at, data):
    def change(header, body, name):
        begin = header[name]["data_offsets"][0] + at
        body[begin:begin + len(data)] = data
    return change


def bias(value):
    """A bias of a matrix that has none in the architecture, as GPTQ's writers add it."""
    def change(header, body, name):
        header["model.layers.0.self_attn.o_proj.bias"] = {"dtype": "F16", "shape": [64], "data_offsets": [len(body), len(body) + 128]}
        body += bytes(126) + bytes([0, value])
    return change


@pytest.mark.parametrize("name, suffix, change, words", [
    ("pack-int4-zeros", "weight_packed", without, ["weight_packed", "expected shape [64, 8], found missing"]),
    ("pack-int4-zeros", "weight_scale", without, ["weight_scale", "found missing"]),
    ("pack-int4-zeros", "weight_zero_point", without, ["weight_zero_point", "expected shape [8, 4], found missing"]),
    ("pack-int4-zeros", "weight_shape", without, ["weight_shape", "found missing"]),
    ("pack-int4-order", "weight_g_idx", without, ["weight_g_idx", "found missing"]),
    ("pack-int4-zeros", "weight_packed", entry(dtype="F32"), ["weight_packed", "dtype: expected I32, found F32"]),
    ("pack-int4-zeros", "weight_scale", entry(dtype="I16"), ["weight_scale", "expected F32, F16 or BF16, found I16"]),
    ("pack-int4-zeros", "weight_packed", entry(shape=[8, 64]), ["weight_packed", "expected [64, 8], found [8, 64]"]),
    ("pack-int4-zeros", "weight_scale", entry(shape=[4, 64]), ["weight_scale", "expected [64, 4], found [4, 64]"]),
    ("pack-int4-zeros", "weight_shape", bytes_at(0, b"\x3f"), ["weight_shape", "expected the numbers 64 and 64, found 63 and 64"]),
    ("pack-int4-order", "weight_g_idx", bytes_at(4, b"\x02\0\0\0"), ["weight_g_idx", "expected groups below 2, found 2 for column 1"]),
    ("pack-int4-order", "weight_g_idx", bytes_at(0, b"\xff" * 4), ["weight_g_idx", "found -1 for column 0"]),
    ("naive-fp8-channel", "weight", entry(dtype="I8"), ["q_proj.weight", "dtype: expected F8_E4M3, found I8"]),
    ("naive-fp8-channel", "weight", entry(dtype="F8_E5M2"), ["q_proj.weight", "dtype: expected F8_E4M3, found F8_E5M2"]),
    ("naive-fp8-channel", "weight_scale", without, ["weight_scale", "expected shape [64, 1], found missing"]),
    ("int-int8-channel", "weight_zero_point", without, ["weight_zero_point", "found missing"]),
    ("int-int8-channel", "weight_zero_point", entry(dtype="U8"), ["weight_zero_point", "expected I8, found U8"]),
    ("float-fp8-tensor", "weight_scale", entry(shape=[]), None),
    ("float-fp8-tensor", "weight_scale", entry(shape=[1, 1]), None),
    ("float-fp8-tensor", "weight_scale", entry(shape=[1, 1, 1]), ["weight_scale", "expected [1], found [1, 1, 1]"]),
    ("fp8-blocks", "weight_scale_inv", without, ["weight_scale_inv", "found missing"]),
    ("fp8-tensor", "activation_scale", without, ["activation_scale", "expected shape [1], found missing"]),
    ("int-int8-static", "input_zero_point", without, ["input_zero_point", "found missing"]),
    ("gptq-int4", "qweight", without, ["qweight", "expected shape [8, 64], found missing"]),
    ("gptq-int4", "scales", without, ["scales", "found missing"]),
    ("gptq-int4", "qzeros", without, ["qzeros", "found missing"]),
    ("gptq-int4-order", "g_idx", without, ["g_idx", "found missing"]),
    ("gptq-int4", "qweight", entry(dtype="F32"), ["qweight", "expected I32, found F32"]),
    ("gptq-int4", "qweight", entry(shape=[64, 8]), ["qweight", "expected [8, 64], found [64, 8]"]),
    ("gptq-int4", "qzeros", bytes_at(0, b"\x7f"), ["qzeros", "expected zero points below 15, found 15 for group 0 and row 0", "gptq_v2"]),
    ("gptq-int4", "g_idx", bytes_at(0, b"\1\0\0\0"), ["g_idx", "contradicts desc_act"]),
    ("gptq-int4-order", "g_idx", bytes_at(0, b"\4\0\0\0"), ["g_idx", "expected groups below 4, found 4 for column 0"]),
    ("gptq-int4", "qweight", bias(0), None),
    ("gptq-int4", "qweight", bias(0x3c), ["o_proj.bias", "a bias of a quantized matrix that has none in the architecture"]),
    ("awq-int4", "qweight", bias(0), ["o_proj.bias", "a bias of a quantized matrix that has none in the architecture"]),
    ("awq-int4", "qweight", without, ["qweight", "expected shape [64, 16], found missing"]),
    ("awq-int4", "qzeros", without, ["qzeros", "found missing"]),
    ("awq-int4", "scales", entry(dtype="I16"), ["scales", "expected F32, F16 or BF16, found I16"]),
])
def test_tensors_that_do_not_fit(directory, name, suffix, change, words):
    model = copied(directory, name)
    change_tensor(model, suffix, change)
    code, said = describe(model, *(["--activations", "weights-only"] if has_inputs(model) else []))
    if words is None:
        assert code == 0, said
    else:
        assert code == 78 and "model.safetensors" in said and all(word in said for word in words), said
