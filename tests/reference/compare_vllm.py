"""vLLM as a second oracle: models of specs.py in vLLM on the CPU, in transformers and in Assay, on rows as those of the golden values.
Writes tests/models/VLLM.md, where the numbers stand.

    compare_vllm.py build/cpu/bin/assay > FILE            those of MODELS: a line of JSON each
    compare_vllm.py build/cpu/bin/assay mqa tied >> FILE  only these
    compare_vllm.py --page FILE                           the page; of a model that is there twice, the last line

vLLM's attention on CPUs has no head_dim below 32. So the models are made here, from the same entries and seeds, with head_dim and
hidden size raised where they must be. Each model is loaded by processes of its own, one for each kind of pooling: some 15 seconds
of two cores each, and 2 GB.
"""
import argparse
import contextlib
import datetime
import json
import os
import pathlib
import pickle
import subprocess
import tempfile
import zlib

os.environ.update(HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_TARGET_DEVICE="cpu", VLLM_ENABLE_V1_MULTIPROCESSING="0",
                  VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error")

import numpy  # noqa: E402
import safetensors.torch  # noqa: E402
import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import vllm  # noqa: E402
from vllm.config import PoolerConfig  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402

import checkpoint  # noqa: E402
import make_models  # noqa: E402
import oracle  # noqa: E402
import specs  # noqa: E402

OUT = pathlib.Path(__file__).parents[1] / "models/VLLM.md"
HEAD_DIMS = (32, 64, 80, 96, 112, 128)
# Every architecture and head, a label more, and what vLLM has code of its own for: rope, windows, biases, sixteen bits.
MODELS = ["reward", "process", "seqcls", "seqcls-3-labels", "token", "qwen3", "qwen3-token", "llama", "llama-token", "llama-biases",
          "mistral", "mistral-token", "rope-linear", "rope-llama3", "rope-yarn", "window", "bf16", "tied", "lm-difference", "lm-softmax",
          "lm-sigmoid", "lm-raw", "lm-raw-two", "prm", "openrlhf", "openrlhf-raw", "value-head", "inform"]
FAMILY = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral": "Mistral"}


def widened(config):
    """The config with a head_dim that vLLM has on CPUs. Its Qwen2 always divides the hidden size by the heads."""
    dim = next(n for n in HEAD_DIMS if n >= checkpoint.head_dim(config))
    if config["model_type"] == "qwen2" or not (config.get("head_dim") or config["model_type"] == "qwen3"):
        return {**{k: v for k, v in config.items() if k != "head_dim"}, "hidden_size": dim * config["num_attention_heads"]}
    return {**config, "head_dim": dim}


def write_model(directory, name):
    """The checkpoint; returns its config, and its rows with the reference's values."""
    is_saved = name in specs.SAVED
    changes, dtype, lengths, pools = (specs.SAVED if is_saved else specs.SPECS)[name]
    seed, config = zlib.crc32(name.encode()), widened(checkpoint.config_of(changes))
    tensors, rng = checkpoint.random_tensors(config, seed, dtype), numpy.random.default_rng(seed + 1)
    rows = [make_models.make_row(config, n, pools[k % len(pools)], rng) for k, n in enumerate(lengths)]
    if is_saved:
        make_models.save(directory, config, tensors, checkpoint.DTYPES[dtype])
    else:
        checkpoint.write(directory, name, config, tensors)
    for row, values in zip(rows, oracle.score(config, tensors, rows)):
        row["values"] = values
    return config, rows


# ---- how vLLM is given a model ----

def write_token_names(directory, size):
    """A tokenizer in which a token is called by its id: classifier_from_token has names, and vLLM wants one in any case."""
    names = {str(k): k for k in range(size)}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(
        tokenizers.models.WordLevel(names, unk_token="0"))).save_pretrained(directory)


def rename_head(directory, head):
    """The file with the tensors of `head` under the names of a sequence classification's."""
    tensors = {}
    for path in directory.glob("*.safetensors"):
        tensors.update(safetensors.torch.load_file(path))
        path.unlink()
    tensors = {name.replace(head + ".", "score."): tensor for name, tensor in tensors.items() if not name.startswith("lm_head.")}
    safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def as_language_model(directory, config):
    _, ids, how = config[checkpoint.HEAD].split(":")
    ids = ids.split(",")
    if how in ("softmax", "difference"):
        return {"method": "from_2_way_softmax", "classifier_from_token": ids[::-1]}, "from_2_way_softmax"
    return {"method": "no_post_processing", "classifier_from_token": ids}, "no_post_processing"


def adapted(directory, config):
    """(hf_overrides, pooler settings, words) where vLLM needs more than the directory; ({}, {}, "") where it does not."""
    architecture, sequence = config["architectures"][0], FAMILY[config["model_type"]] + "ForSequenceClassification"
    if config.get(checkpoint.HEAD, "value") != "value":
        overrides, method = as_language_model(directory, config)
        return {"architectures": [sequence], **overrides}, {}, method
    head = {"RewardModel": config.get("value_head_prefix"), "Qwen2ForPrmModel": "v_head.summary"}.get(
        architecture, "v_head.summary" if config.get(checkpoint.HEAD) else None)
    if not head:
        return {}, {}, ""
    rename_head(directory, head)
    normal = {"logit_mean": config["mean"], "logit_sigma": config["std"]} if config.get("normalize_reward") else {}
    return ({"architectures": [sequence], "num_labels": 1}, normal,
            (f"as {sequence}" if head == "score" else f"{head} renamed to score") + (", logit_mean and logit_sigma" if normal else ""))


# ---- vLLM's values ----

def open_model(directory, kind, given=({}, {}), **more):
    """`kind`: LAST, STEP or ALL; None: as vLLM takes it by itself. `more`: settings of vllm.LLM."""
    by_token = {"task": "token_classify", "tok_pooling_type": kind}
    task = {"LAST": {"task": "classify", "seq_pooling_type": "LAST"}, None: {}}.get(kind, by_token)
    return vllm.LLM(model=str(directory), runner="pooling", enforce_eager=True, max_model_len=1024, max_num_seqs=8,
                    enable_prefix_caching=False, disable_log_stats=True, hf_overrides=given[0],
                    pooler_config=PoolerConfig(**task, **given[1]), **{"dtype": "float32", **more})


def kind_of(how, is_sequence):
    """Which of vLLM's poolers: its LAST is there for sequence classification; what it has none for is taken from ALL."""
    return how["type"] if how["type"] == "STEP" or (how["type"] == "LAST" and is_sequence) else "ALL"


def does_itself(how, kind, labels):
    """Whether vLLM's own pooler and activation give what the row asks for: softmax where there are labels, else sigmoid."""
    return how["type"] == kind and how["activation"] in (("softmax", "class1") if labels > 1 else ("sigmoid", "first"))


def pooled(data, how, kind, n, labels):
    """The row's values of what vLLM gave; positions that its pooler does not choose are taken from all."""
    data = data.reshape(-1, labels).float()
    if kind == "ALL" and how["type"] in ("LAST", "CLS", "MEAN", "POSITIONS"):
        data = data[list({"LAST": [n - 1], "CLS": [0], "MEAN": range(n), "POSITIONS": how.get("positions")}[how["type"]])]
    if how["type"] == "MEAN":
        data = data.mean(dim=0, keepdim=True)
    if not does_itself(how, kind, labels) and how["activation"] != "none":
        data = torch.softmax(data, dim=-1) if labels > 1 and how["activation"] != "sigmoid" else torch.sigmoid(data)
    return (data[:, 1:2] if how["activation"] == "class1" and labels > 1 else data).flatten().tolist()


def how_of(config, row):
    return {**oracle.default_pool(config), **row.get("pool", {})}


def labels_of(config):
    what = config.get(checkpoint.HEAD, "").split(":")
    if what[0] == "lm":
        return 2 if what[2] == "raw" and "," in what[1] else 1
    shapes = checkpoint.head_shapes(config)
    return next(shape[0] for name, shape in shapes.items()
                if name.endswith("weight") and not name.startswith(("lm_head", "score.0")))


def in_vllm(directory, config, rows, kind, given, more):
    """`more`: settings of vllm.LLM, and under `adapters` the directory of each adapter by its name."""
    adapters = {name: LoRARequest(name, k + 1, str(path)) for k, (name, path) in enumerate(more.get("adapters", {}).items())}
    more = {key: value for key, value in more.items() if key != "adapters"}
    model, labels = open_model(directory, kind, given, **more), labels_of(config)
    how = [how_of(config, row) for row in rows]
    params = [vllm.PoolingParams(use_activation=does_itself(one, kind, labels),
                                 step_tag_id=one["step_token"] if kind == "STEP" else None) for one in how]
    found = model.encode([{"prompt_token_ids": row["ids"]} for row in rows], params, use_tqdm=False,
                         pooling_task="classify" if kind == "LAST" else "token_classify",
                         lora_request=[adapters.get(row.get("adapter")) for row in rows] if adapters else None)
    return [pooled(out.outputs.data, one, kind, len(row["ids"]), labels) for out, one, row in zip(found, how, rows)]


def in_child(act, *arguments):
    """What act returns, in a process of its own: models one after the other, and no memory kept. An error is its words."""
    with tempfile.TemporaryFile() as out:
        pid = os.fork()
        if pid == 0:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                try:
                    found = act(*arguments)
                except BaseException as why:  # noqa: BLE001: whatever vLLM says
                    found = f"{type(why).__name__}: {why}"
            pickle.dump(found, out)
            out.flush()
            os._exit(0)
        code = os.waitpid(pid, 0)[1]
        out.seek(0)
        return pickle.load(out) if code == 0 else f"ended by signal {code}"


def vllm_values(directory, config, rows, **more):
    """(values or words of refusal, how it was given). `more`: as in_vllm has it."""
    is_sequence = config["architectures"][0].endswith("SequenceClassification")
    given = adapted(directory, config)
    write_token_names(directory, config["vocab_size"])
    is_sequence |= bool(given[2])
    found = {}
    for kind in ("LAST", "STEP", "ALL"):
        mine = [k for k, row in enumerate(rows) if kind_of(how_of(config, row), is_sequence) == kind]
        values = in_child(in_vllm, directory, config, [rows[k] for k in mine], kind, given, more) if mine else []
        if isinstance(values, str):
            return values, given[2]
        found.update(zip(mine, values))
    return [found[k] for k in range(len(rows))], given[2]


# ---- Assay's values ----

def assay_values(program, directory, config, rows, options=()):
    fields = [{key: row[key] for key in ("pool", "adapter") if row.get(key)} for row in rows]
    lines = [json.dumps({"input_ids": row["ids"], **more}) for row, more in zip(rows, fields)]
    head = ["--head", config[checkpoint.HEAD]] if config.get(checkpoint.HEAD, "value") != "value" else []
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "rows.jsonl").write_text("\n".join(lines) + "\n")
        subprocess.run([program, "score", work / "rows.jsonl", "-o", work / "out.jsonl", "--model", directory, *head, *options],
                       check=True, capture_output=True)
        found = [json.loads(line) for line in (work / "out.jsonl").read_text().splitlines()]
    assert not [row for row in found if row["error"]], found
    return [flat(row.get("score", row.get("scores", row.get("steps")))) for row in found]


def flat(found):
    return [v for item in found for v in flat(item)] if isinstance(found, list) else [found]


# ---- the comparison ----

def largest(found, rows, key="values"):
    for values, row in zip(found, rows, strict=True):
        assert len(values) == len(row[key]), (len(row["ids"]), row.get("pool"), len(values), len(row[key]))
    return max(abs(a - b) for values, row in zip(found, rows) for a, b in zip(values, row[key]))


def words_of(why):
    """An error's first telling sentence."""
    lines = [line.strip() for line in why.splitlines() if line.strip() and "validation error" not in line] or [why]
    return lines[0].removeprefix("Value error, ").split(". ")[0].split(" [type=")[0].rstrip(" ,")[:200].replace("|", "/")


def compare(program, name):
    with tempfile.TemporaryDirectory() as work:
        directory = pathlib.Path(work) / name
        made = in_child(write_model, directory, name)
        assert not isinstance(made, str), made
        config, rows = made
        found = {"model": name, "architecture": config["architectures"][0], "rows": len(rows),
                 "assay": largest(assay_values(program, directory, config, rows), rows), "published": ""}
        if needs_renaming(config):
            found["published"] = in_child(open_as_published, directory, config["vocab_size"]) or "(none: an embedding model)"
        values, found["given"] = vllm_values(directory, config, rows)
    found["vllm"] = values if isinstance(values, str) else largest(values, rows)
    print(json.dumps(found), flush=True)


def open_as_published(directory, size):
    write_token_names(directory, size)
    open_model(directory, None)
    return ""


# ---- the page ----

PAGE = """# vLLM beside transformers and Assay

`make reference-vllm` wrote this page on {date}, with vLLM {vllm} on the CPU, eager, and
transformers {transformers}, both in float32. Models and rows are as `tests/reference/specs.py` has
them, with head_dim raised to 32 where it is less. The numbers are the largest difference of a value
from transformers', over all rows.

| model | architecture | rows | given to vLLM | vLLM | Assay |
|---|---|---|---|---|---|
{table}

Not taken by vLLM:

| model | architecture | Assay | vLLM's words |
|---|---|---|---|
{refused}

As published, without what stands under "given to vLLM":

| model | architecture | vLLM's words |
|---|---|---|
{published}

## Adapters

Written by PEFT with random weights: three of rank 16 on all linear modules (alphas 16, 32, and 16
with `use_rslora`) and one of rank 4 on `q_proj` and `v_proj`, and rows of the base, mixed in one
call (`compare_vllm_forms.py`). The reference is the base with the adapter merged by PEFT, in
float32. A quantized base is the values that its stored numbers mean.

| base | architecture | rows | type of vLLM | vLLM, rows with an adapter | vLLM, rows of the base among them | Assay, all |
|---|---|---|---|---|---|---|
{adapters}

## Quantized checkpoints

Those of `tests/reference/make_quantized.py`, with head_dim raised as above. The reference is
transformers in float32: "weights" over the values that the stored numbers mean, "rounded" with the
inputs of each quantized product rounded as the file says, by compressed-tensors' own forward
(`--activations weights-only` and `as-stored` in Assay). vLLM in float32 and in bfloat16, and Assay
with `--dtype bf16` beside the latter.

| checkpoint | rows | reference | vLLM float32 | Assay float32 | vLLM bfloat16 | Assay bfloat16 |
|---|---|---|---|---|---|---|
{quantized}

Where the table says "no":

| checkpoint | type | vLLM's words |
|---|---|---|
{not_taken}

## Where vLLM differs unless told

- It applies an activation: softmax where there are several labels, the sigmoid where there is one.
  `use_activation` says for each row here what it asks for. Assay's scores are raw, but for steps.
- LAST is the last token, also where that is the pad token (`--hf-pad-rule off` in Assay). These
  rows' models have no pad token.
- Qwen2ForRewardModel and the token classifications give every token (ALL). Assay gives the last,
  or each step. Positions that vLLM has no pooling for (CLS, MEAN, some) are taken from ALL here.
- Qwen2ForProcessRewardModel takes 151651 as its step token unless `step_tag_id` says another.
- A language model becomes a score by `hf_overrides`. `from_2_way_softmax` is `--head
  lm:YES,NO:softmax`, without the activation `difference`, with NO first in
  `classifier_from_token`. `no_post_processing` is `raw`.
- OpenRLHF's normalizing is `logit_mean` and `logit_sigma` of its pooler.
- Its Qwen3 has no bias on o_proj, and passes over one in the file: with `attention_bias` true, as
  in qwen3-token, its scores are not transformers'. (With that bias zero they agree within 1e-6.)
- Its Qwen2 has no sliding window on some of the layers.
- Its YaRN is not the same from run to run: of four runs on one machine, two gave rope-yarn's scores
  up to 0.13 away, the others within 1.5e-06. transformers' and Assay's were the same each time.
- Its Qwen2 takes no `head_dim` from config.json: it divides the hidden size by the heads.
- A row without an adapter, in a batch with rows that have one, gets the adapter of the last place
  on CPUs: its PyTorch kernels look the place up by number, which is -1 for no adapter. Alone, or
  with no adapter in its batch, such a row has the base's score.
- Its build for CPUs with AVX2 alone has no 4-bit product (`cpu_gemm_wna16`, which those for AVX-512
  and AMX have), and so takes no W4A16, GPTQ and AWQ checkpoint. The table is of such a CPU.
- There int8 products with a scale by token (W8A8, as most such checkpoints have it) are wrong where
  weights are large: two products are added in 16 bits and cut off at 32,767, as AVX2's instruction
  for it does. 64 products of 127 and 127 come to 8,160 and not to 1,032,256 (`onednn_scaled_mm`
  alone, called with int8 matrices and scales of 1; with weights of 64 at most all its sums were
  exact, with 80 and more they were not). With a scale of the file they are right. Assay multiplies
  the rounded values in float32.
- FP8 by token, and int8 with a scale of the file, are rounded in vLLM's float32 as in
  compressed-tensors and in Assay.
- int-int8-dynamic, rounded: compressed-tensors puts each row's largest magnitude at 127.5, between
  two integers, so the last bits of a sum decide which one it is. With its sums in other orders its
  own forward gives 7 of the 9 rows here other scores, by up to 0.027; in the two that it gives the
  same, Assay's differ by 1.0e-06. vLLM divides by 127.
- It has no product there for FP8 weights without rounded inputs or in blocks, and no rounding of
  inputs to FP8 by a scale of the file (`static_scaled_fp8_quant`); none for int8 weights with zero
  points, in groups, or without rounded inputs; and none for packed weights of some shapes and sizes
  of a group (each kernel's reason is in its message).
- It has dropped the order of columns (`g_idx`): compressed-tensors' `actorder: group` and GPTQ's
  `desc_act`. Its GPTQ has 8 bits symmetric alone.
- It joins q_proj, k_proj and v_proj, and so takes no checkpoint that quantizes some of them
  (pack-int4-dynamic).
- Its `fp8` has no `activation_scale` and, without blocks, no `weight_scale_inv`, as transformers
  names them: it reads `input_scale` and `weight_scale` there.
"""


def needs_renaming(config):
    return config["architectures"][0] in ("RewardModel", "Qwen2ForPrmModel") or config.get(checkpoint.HEAD) == "value"


def table(rows):
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in rows)


def number(found):
    return "no" if isinstance(found, str) else f"{found:.1e}"


def adapter_rows(ones):
    for one in ones:
        for dtype, found in one["vllm"].items():
            cells = ["no", "no"] if isinstance(found, str) else [number(found[who]) for who in ("adapters", "base")]
            yield one["model"], one["architecture"], one["rows"], dtype, *cells, number(one["assay"])


def quantized_rows(ones):
    for one in ones:
        for key, ours in one["assay"].items():
            vllm_has = {dtype: found if isinstance(found, str) else found[key] for dtype, found in one["vllm"].items()}
            cells = [number(side[dtype]) for dtype in ("float32", "bfloat16") for side in (vllm_has, ours)]
            yield one["model"], one["rows"], {"values": "weights", "rounded": "rounded"}[key], *cells


def refusals(ones):
    """A checkpoint's refusals, those with the same words together."""
    for one in ones:
        by_words = {}
        for dtype, found in one["vllm"].items():
            if isinstance(found, str):
                by_words.setdefault(words_of(found), []).append(dtype)
        for words, dtypes in by_words.items():
            yield one["model"], ", ".join(dtypes), words


def missing(found):
    """Names of compare_vllm_forms.py that have no line."""
    import compare_vllm_forms as forms  # which needs this file
    names = {one["model"] for one in found}
    return [name for name in [*forms.ADAPTERS, *forms.make_quantized.SPECS] if name not in names]


def write_page(lines):
    found = list({one["model"]: one for one in map(json.loads, lines)}.values())
    kinds = {kind: [one for one in found if one.get("kind", "") == kind] for kind in ("", "adapters", "quantized")}
    if missing(found):
        raise SystemExit(f"compare_vllm: expected a line of compare_vllm_forms.py for each of {', '.join(missing(found))}, found none")
    plain = sorted(kinds[""], key=lambda one: MODELS.index(one["model"]) if one["model"] in MODELS else len(MODELS))
    cells = {"table": [(one["model"], one["architecture"], one["rows"], one["given"] or "as it is", number(one["vllm"]), number(one["assay"]))
                       for one in plain if not isinstance(one["vllm"], str)],
             "refused": [(one["model"], one["architecture"], number(one["assay"]), words_of(one["vllm"]))
                         for one in plain if isinstance(one["vllm"], str)],
             "published": [(one["model"], one["architecture"], words_of(one["published"])) for one in plain if one["published"]],
             "adapters": adapter_rows(kinds["adapters"]), "quantized": quantized_rows(kinds["quantized"]),
             "not_taken": refusals(kinds["adapters"] + kinds["quantized"])}
    OUT.write_text(PAGE.format(date=datetime.date.today(), vllm=vllm.__version__, transformers=transformers.__version__,
                               **{key: table(rows) for key, rows in cells.items()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", help="build/cpu/bin/assay")
    parser.add_argument("names", nargs="*", help="models of specs.py (default: those of MODELS)")
    parser.add_argument("--page", type=pathlib.Path, help="write the page of these results, and compute nothing")
    args = parser.parse_args()
    if args.page:
        write_page(args.page.read_text().splitlines())
    for name in [] if args.page else args.names or MODELS:
        compare(args.program, name)


if __name__ == "__main__":
    main()
