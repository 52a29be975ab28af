"""Checkpoints that are not what they must be: refused at the start with exit code 78, by file, tensor or field, expected and found."""
import json
import os
import shutil
import struct
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, PATIENCE, Broker


def describe(directory, *options):
    done = subprocess.run([BIN / "assay-worker", "--describe", "--model", directory, *options], capture_output=True,
                          text=True, timeout=60 * PATIENCE)
    return done.returncode, done.stderr


@pytest.fixture
def model(directory):
    shutil.copytree(MODELS / "seqcls", directory / "m")
    return directory / "m"


def read(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def write(path, header, body, text=None):
    text = text if text is not None else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


NAME = "model.layers.0.mlp.up_proj.weight"


def without_tensor(header, body, tensor):
    header.pop(tensor)  # leaves a hole as well; so the data are cut out too
    entries = sorted((v["data_offsets"][0], k) for k, v in header.items() if k != "__metadata__")
    out, at = b"", 0
    for begin, name in entries:
        end = header[name]["data_offsets"][1]
        out += body[begin:end]
        header[name]["data_offsets"] = [at, at + end - begin]
        at += end - begin
    return header, out


def without(header, body):
    return without_tensor(header, body, NAME)


def renamed(header, body):
    header["model.layers.0.mlp.sideways_proj.weight"] = header.pop(NAME)
    return header, body


def misshapen(header, body):
    header[NAME]["shape"] = header[NAME]["shape"][::-1]
    return header, body


def overlapping(header, body):
    last = max(header, key=lambda k: header[k].get("data_offsets", [0])[0])
    first = min((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"][0])
    size = header[last]["data_offsets"][1] - header[last]["data_offsets"][0]
    header[last]["data_offsets"] = [0, size]
    assert first != last
    return header, body


def hole(header, body):
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = [at + 4 for at in entry["data_offsets"]]
    return header, b"\0" * 4 + body


def truncated(header, body):
    return header, body[:-100]


def trailing(header, body):
    return header, body + b"\0" * 8


def integers(header, body):
    header[NAME]["dtype"] = "I32"
    return header, body


def strange_dtype(header, body):
    header[NAME]["dtype"] = "F99"
    return header, body


def negative(header, body):
    header[NAME]["shape"] = [-160, -64]
    return header, body


def overflowing(header, body):
    header[NAME]["shape"] = [2 ** 40, 2 ** 40]
    return header, body


def backwards(header, body):
    header[NAME]["data_offsets"] = header[NAME]["data_offsets"][::-1]
    return header, body


def far_offsets(header, body):
    size = header[NAME]["data_offsets"][1] - header[NAME]["data_offsets"][0]
    header[NAME]["data_offsets"] = [2 ** 62, 2 ** 62 + size]
    return header, body


def both_names(header, body):
    header["norm.weight"] = {**header["model.norm.weight"], "data_offsets": [len(body), len(body) + 4 * 64]}
    return header, body + b"\0" * 4 * 64


TENSORS = [(without, ["missing", "mlp.up_proj.weight"]), (renamed, ["unknown", "sideways"]),
           (misshapen, ["shape", "up_proj", "expected", "found"]), (overlapping, ["overlap"]), (hole, ["hole"]),
           (truncated, ["truncated", "expected"]), (trailing, ["8 bytes more"]), (integers, ["dtype", "I32"]),
           (strange_dtype, ["F99"]), (negative, ["shape"]), (overflowing, ["overflow"]), (backwards, ["data_offsets"]),
           (far_offsets, ["truncated"]), (both_names, ["twice", "norm.weight"])]


@pytest.mark.parametrize("change,words", TENSORS, ids=[change.__name__ for change, _ in TENSORS])
def test_bad_tensors(model, change, words):
    write(model / "model.safetensors", *change(*read(model / "model.safetensors")))
    code, said = describe(model)
    assert code == 78 and "model" in said and all(word in said for word in words), said


@pytest.mark.parametrize("data,word", [
    (b"", "0 bytes"), (b"\1\2\3", "3 bytes"), (struct.pack("<Q", 1 << 40), "header"), (struct.pack("<Q", 50) + b"{}", "header"),
    (struct.pack("<Q", 2) + b"[]", "not a JSON object"), (struct.pack("<Q", 4) + b"{\"a\"", "not a JSON object"),
    (struct.pack("<Q", 9) + b'{"a":5}  ', "'a'"), (struct.pack("<Q", 20002) + b"[" * 10001 + b"]" * 10001, "header")])
def test_bad_headers(model, data, word):
    (model / "model.safetensors").write_bytes(data)
    code, said = describe(model)
    assert code == 78 and "model.safetensors" in said and word in said, said


def test_duplicate_tensor_name(model):
    header, body = read(model / "model.safetensors")
    text = json.dumps(header)
    text = text[:-1] + f', "{NAME}": {json.dumps(header[NAME])}}}'
    write(model / "model.safetensors", None, body, text.encode())
    code, said = describe(model)
    assert code == 78 and "model.safetensors" in said and "duplicate" in said


@pytest.mark.parametrize("map_,word", [
    ({"a": "../x.safetensors"}, "file name"), ({"a": "absent.safetensors"}, "absent.safetensors"), ({}, "weight_map"),
    ({"a": 5}, "file name"), ({"no.such.tensor": "model.safetensors"}, "no.such.tensor")])
def test_bad_index(model, map_, word):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    code, said = describe(model, "--weights", "index")
    assert code == 78 and word in said, said


NEEDED = ["architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
          "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta"]


# What transformers' classes have a default for; a null they fail at.
DEFAULTED = ["max_position_embeddings", "rms_norm_eps", "rope_theta"]


@pytest.mark.parametrize("field,value", [(field, value) for field in NEEDED for value in ["absent", None, "x", -1, 10 ** 18, [], {}]
                                         if (field, value) != ("num_key_value_heads", None)])
def test_config_fields(model, field, value):
    config = json.loads((model / "config.json").read_text())
    config.pop(field)
    if value != "absent":
        config[field] = value
    (model / "config.json").write_text(json.dumps(config))
    code, said = describe(model)
    if value == "absent" and field in DEFAULTED:
        assert code == 0, said
    else:
        assert code == 78 and field in said and "config.json" in said, said


@pytest.mark.parametrize("changes,word", [
    ({"architectures": ["BertModel"]}, "BertModel"), ({"hidden_act": "gelu"}, "gelu"),
    ({"quantization_config": {"quant_method": "hqq"}}, "hqq"), ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.bits"), ({"rope_scaling": {"type": "longrope"}}, "longrope"),
    ({"rope_scaling": {"type": "linear"}}, "factor"), ({"rope_scaling": 5}, "rope_scaling"),
    ({"num_key_value_heads": 3}, "num_key_value_heads"), ({"head_dim": 7}, "head_dim"),
    ({"num_key_value_heads": None}, "k_proj"), ({"use_sliding_window": True, "sliding_window": -1}, "sliding_window"),
    ({"use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention"]}, "layer_types"),
    ({"use_sliding_window": True, "sliding_window": 4, "layer_types": ["x", "y"]}, "layer_types"),
    ({"hidden_size": 64.0}, "hidden_size"), ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ({"num_labels": 7}, "score.weight"), ({"num_hidden_layers": 1}, "layers.1"), ({"vocab_size": 100}, "embed_tokens")])
def test_config_values(model, changes, word):
    config = {**json.loads((model / "config.json").read_text()), **changes}
    (model / "config.json").write_text(json.dumps(config))
    code, said = describe(model)
    assert code == 78 and word in said, said


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100000])
def test_config_that_is_no_object(model, text):
    (model / "config.json").write_text(text)
    code, said = describe(model)
    assert code == 78 and "config.json" in said


def test_tp_that_does_not_fit(model):
    code, said = describe(model, "--tp", "3")
    assert code == 78 and "tp 3" in said and "heads" in said


def test_the_broker_says_it_too(model, directory):
    (model / "model.safetensors").write_bytes(b"short")
    done = subprocess.run([BIN / "assayd", "--model", model, "--data", directory / "d"], capture_output=True, text=True,
                          timeout=30 * PATIENCE)
    assert done.returncode == 78 and "model.safetensors" in done.stderr


def test_digest_follows_the_contents(model, directory):
    def digest():
        done = subprocess.run([BIN / "assay-worker", "--describe", "--model", model, "--digest-cache", directory / "cache"],
                              capture_output=True, text=True, timeout=60 * PATIENCE)
        return json.loads(done.stdout)["digest"]

    first = digest()
    assert digest() == first and (directory / "cache").read_text().count(first) == 1
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert digest() != first
    assert describe(DEMO)[0] == 0


FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "model.safetensors.index.json"]
KINDS = [(os.mkfifo, "found a pipe"), (os.mkdir, "found a directory"), (lambda path: path.symlink_to("/dev/zero"), "found a device"),
         (lambda path: path.symlink_to("/nowhere"), "a link to a file that is not there")]


@pytest.fixture
def text_model(directory):
    shutil.copytree(MODELS / "demo-reward", directory / "m")
    return directory / "m"


def start(model, directory):
    """A broker that has to give up; it is never waited for long."""
    return subprocess.run([BIN / "assayd", "--model", model, "--data", directory / "d"], capture_output=True, text=True,
                          timeout=30 * PATIENCE)


def score(model, directory):
    """One row that needs the chat template: what is said of it."""
    (directory / "rows.jsonl").write_text('{"id": "a", "prompt": "3 + 4", "response": "7"}\n')
    done = subprocess.run([BIN / "assay", "score", directory / "rows.jsonl", "-o", directory / "out.jsonl", "--model", model],
                          capture_output=True, text=True, timeout=60 * PATIENCE)
    return json.loads((directory / "out.jsonl").read_text()), done


@pytest.mark.parametrize("name, make, word", [("chat_template.jinja", *kind) for kind in KINDS])
def test_a_template_that_is_no_file_is_its_rows_error(text_model, directory, name, make, word):
    (text_model / name).unlink(missing_ok=True)
    make(text_model / name)
    row, _ = score(text_model, directory)
    assert name in row["error"]["message"] and word in row["error"]["message"], row


@pytest.mark.parametrize("name, make, word", [(name, *kind) for name in FILES for kind in KINDS])
def test_what_is_no_file_is_refused_at_once(text_model, directory, name, make, word):
    (text_model / name).unlink(missing_ok=True)
    make(text_model / name)
    done = start(text_model, directory)
    assert done.returncode == 78 and name in done.stderr and word in done.stderr, done.stderr


def test_a_shard_that_nobody_needs_is_no_device_either(text_model, directory):
    """The digest is over every *.safetensors."""
    (text_model / "other.safetensors").symlink_to("/dev/zero")
    done = start(text_model, directory)
    assert done.returncode == 78 and "other.safetensors" in done.stderr and "a device" in done.stderr


def test_links_to_files_are_files(text_model, directory):
    """As a snapshot of the hub's cache has them."""
    for path in list(text_model.iterdir()):
        path.rename(directory / path.name)
        path.symlink_to(f"../{path.name}")
    assert describe(text_model)[0] == 0


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 988097824\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_called_one(text_model, directory, name):
    (text_model / name).write_text(POINTER)
    done = start(text_model, directory)
    assert done.returncode == 78 and name in done.stderr and "Git LFS pointer" in done.stderr, done.stderr


def test_an_integer_too_long_for_64_bits(text_model, directory):
    """transformers writes int(1e30) where a tokenizer has no limit."""
    path = text_model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": int(1e30)}))
    row, done = score(text_model, directory)
    assert done.returncode == 0 and row["error"] is None and row["score"] is not None, (row, done.stderr)
    path = text_model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": 10**30}))  # the other integers stay integers
    assert score(text_model, directory)[0] == row
    path.write_text(path.read_text().replace('"hidden_size": 128', '"hidden_size": 1' + "0" * 30))
    code, said = describe(text_model)
    assert code == 78 and "hidden_size" in said


def shift(path, by):
    """The same checkpoint with another head: scores differ by this factor."""
    header, body = read(path)
    begin, end = header["score.weight"]["data_offsets"]
    values = struct.unpack(f"<{(end - begin) // 4}f", body[begin:end])
    write(path, header, body[:begin] + struct.pack(f"<{len(values)}f", *(v * by for v in values)) + body[end:])


@pytest.fixture
def two_sets(model):
    """model.safetensors, and an index of another file, whose scores are twice those."""
    shutil.copy(model / "model.safetensors", model / "model-00001-of-00001.safetensors")
    shift(model / "model-00001-of-00001.safetensors", 2.0)
    names = [name for name in read(model / "model.safetensors")[0] if name != "__metadata__"]
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {name: "model-00001-of-00001.safetensors" for name in names}}))
    return model


def score_ids(model, directory, *options):
    (directory / "ids.jsonl").write_text(json.dumps({"id": "a", "input_ids": list(range(5, 45))}) + "\n")
    shutil.rmtree(directory / "scores.jsonl.assay", ignore_errors=True)
    done = subprocess.run([BIN / "assay", "score", directory / "ids.jsonl", "-o", directory / "scores.jsonl", "--model", model,
                           *options], capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "scores.jsonl").read_text())["score"]


def test_two_sets_of_weights_are_not_guessed_between(two_sets, directory):
    """transformers 5.24 takes the single file: 1.70059."""
    code, said = describe(two_sets)
    assert code == 78 and "two sets of weights" in said and "model.safetensors.index.json (of 20" in said
    assert "--weights single" in said and "--weights index" in said
    assert abs(score_ids(two_sets, directory, "--weights", "single") - 1.70059) < 1e-4
    assert abs(score_ids(two_sets, directory, "--weights", "index") - 2 * 1.70059) < 1e-4


def test_the_choice_is_part_of_the_mode(two_sets, directory):
    modes = {}
    for which in ("single", "index"):
        with Broker(directory / which, model=two_sets, options=["--weights", which, "--tp", 2]) as broker:
            with broker.client() as client:
                modes[which] = client.call("hello")["mode"]
                assert client.call("score", rows=[{"ids": [1, 2, 3]}])["rows"][0]["error"] is None
    assert modes["single"].endswith(" weights=single") and modes["index"].endswith(" weights=index")


@pytest.mark.parametrize("which, missing", [("single", "model.safetensors"), ("index", "model.safetensors.index.json")])
def test_a_choice_of_what_is_not_there(model, which, missing):
    if which == "single":
        (model / "model.safetensors").rename(model / "other.safetensors")
    code, said = describe(model, "--weights", which)
    assert code == 78 and f"expected {missing}, found none" in said
    (model / "model.safetensors").unlink(missing_ok=True)
    assert f"expected {missing}, found none" in describe(model, "--weights", which)[1]


def test_a_choice_where_nothing_is_to_be_chosen(model, directory):
    """Allowed, and not a mode of its own: the weights are the same either way."""
    with Broker(directory / "d", model=model, options=["--weights", "single"]) as broker, broker.client() as client:
        assert "weights" not in client.call("hello")["mode"]


def test_an_index_that_names_the_single_file_alone(model):
    names = [name for name in read(model / "model.safetensors")[0] if name != "__metadata__"]
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    assert describe(model)[0] == 0


def test_an_adapter_beside_the_model(model):
    (model / "adapter_config.json").write_text("{}")
    assert describe(model)[0] == 0  # nothing to add: left over from a merge
    (model / "adapter_model.safetensors").write_bytes(b"")
    code, said = describe(model)
    assert code == 78 and "adapter" in said and "merge" in said


def test_a_distributed_checkpoint_beside_the_model(model):
    shutil.copy(model / "model.safetensors", model / "shard-00000-model-00001-of-00001.safetensors")
    code, said = describe(model)
    assert code == 78 and "shard-00000" in said and "distributed" in said


@pytest.mark.parametrize("name", ["consolidated.safetensors", "pytorch_model.bin", "model.fp16.safetensors", "optimizer.pt"])
def test_what_may_lie_beside_a_model(model, name):
    shutil.copy(model / "model.safetensors", model / name)
    assert describe(model)[0] == 0


@pytest.mark.parametrize("name, words", [
    ("adapter_model.safetensors", "an adapter alone"), ("model-00001-of-00002.safetensors", "without its index"),
    ("model.fp16.safetensors", "variant"), ("ggml-model-q4_k.gguf", "GGUF"), ("pytorch_model.bin", "PyTorch"),
    ("consolidated.00.pth", "PyTorch"), ("consolidated.safetensors", "own format"), ("notes.txt", "expected a checkpoint")])
def test_weights_that_are_none(model, name, words):
    (model / "model.safetensors").rename(model / name)
    code, said = describe(model)
    assert code == 78 and "model.safetensors: not found" in said and words in said, said
    (model / "config.json").unlink()
    code, said = describe(model)
    assert code == 78 and "config.json: not found" in said and words in said, said


@pytest.mark.parametrize("path, words", [
    ("Qwen/Some-Name", "hf download Qwen/Some-Name --local-dir ./Some-Name"), ("./Qwen/Some-Name", "expected a checkpoint's directory"),
    ("/nowhere", "/nowhere: expected a checkpoint's directory"), (MODELS / "seqcls/model.safetensors", "a file; expected the directory")])
def test_a_path_that_is_no_directory(path, words):
    code, said = describe(path)
    assert code == 78 and words in said, said
    done = subprocess.run([BIN / "assay", "tokenize", "x", "--model", path], capture_output=True, text=True, timeout=30 * PATIENCE)
    assert done.returncode != 0 and words in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_byte_order_mark(text_model, name):
    """transformers refuses it too."""
    path = text_model / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    code, said = describe(text_model)
    assert code == 78 and f"{path}: expected JSON without a byte order mark" in said, said


def test_a_gguf_file(directory):
    (directory / "a.gguf").write_bytes(b"GGUF")
    code, said = describe(directory / "a.gguf")
    assert code == 78 and "a GGUF file" in said


def shard(model, twice=()):
    """model.safetensors as two shards; the names in `twice` lie in both, the index names the first."""
    header, body = read(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = [name for name in header if name != "__metadata__"]
    weight_map = {}
    for n, part in ((1, names[:10]), (2, names[10:] + list(twice))):
        shard_header, data = {}, b""
        for name in part:
            begin, end = header[name]["data_offsets"]
            shard_header[name] = {**header[name], "data_offsets": [len(data), len(data) + end - begin]}
            data += body[begin:end]
            weight_map.setdefault(name, f"model-{n:05}-of-00002.safetensors")
        write(model / f"model-{n:05}-of-00002.safetensors", shard_header, data)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return names[0]


def test_a_tensor_in_two_shards(model):
    """transformers takes the last file's, whatever the index says."""
    shutil.copytree(model, model.parent / "twice")
    first = shard(model)
    assert describe(model)[0] == 0
    shard(model.parent / "twice", twice=[first])
    code, said = describe(model.parent / "twice")
    assert code == 78 and first in said and "found twice" in said and all(f"model-0000{n}-of" in said for n in (1, 2))


def rename_tensor(model, old, new, **entry):
    header, body = read(model / "model.safetensors")
    header[new] = {**header.pop(old), **entry}
    write(model / "model.safetensors", header, body)


@pytest.mark.parametrize("old, new, words", [
    (NAME, "base_model.model." + NAME, "adapter"), (NAME, "module." + NAME, "wrapper"), (NAME, NAME[:-6] + "qweight", "quantized"),
    (NAME, NAME + "_scale", "quantized"), (NAME, NAME[:-6] + "lora_A.weight", "merge"), ("score.weight", "classifier.weight", "head"),
    ("score.weight", "v_head.summary.weight", "TRL"), ("score.weight", "lm_head.weight", "found missing: a checkpoint without the head")])
def test_names_that_say_where_they_come_from(model, old, new, words):
    rename_tensor(model, old, new)
    code, said = describe(model)
    assert code == 78 and words in said, said


@pytest.mark.parametrize("dtype, size", [("U32", 4), ("F64", 8), ("F8_E4M3", 1), ("U8", 1), ("F4", 4)])
def test_dtypes_that_are_not_computed_in(model, dtype, size):
    header, body = read(model / "model.safetensors")
    header["score.weight"] = {**header["score.weight"], "dtype": dtype}
    begin, end = header["score.weight"]["data_offsets"]
    header["score.weight"]["shape"] = [1, (end - begin) // size]
    write(model / "model.safetensors", header, body)
    code, said = describe(model)
    assert code == 78 and "score.weight" in said and "expected F32, F16 or BF16" in said and dtype in said, said


@pytest.mark.parametrize("changes", [{"id2label": None}, {"id2label": {"0": "a", "1": "b", "2": "c"}}, {"num_labels": 3, "id2label": None}])
def test_labels_that_the_head_has_not(model, changes):
    config = {**json.loads((model / "config.json").read_text()), **changes}
    (model / "config.json").write_text(json.dumps(config))
    code, said = describe(model)
    assert code == 78 and "score.weight" in said and "num_labels or id2label" in said and "found [1, 64]" in said, said


def test_a_language_models_head_beside_the_score_is_left(model):
    header, body = read(model / "model.safetensors")
    header["lm_head.weight"] = {"dtype": "F8_E8M0", "shape": [2, 4], "data_offsets": [len(body), len(body) + 8]}
    write(model / "model.safetensors", header, body + b"\0" * 8)
    assert describe(model)[0] == 0
