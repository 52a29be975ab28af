"""Writes tests/vectors/config/scores.json: what transformers makes of checkpoints whose config.json is changed a little, and which
of them are refused.

    build/venv-reference/bin/python tests/reference/make_config_vectors.py

Each case is a model of tests/models, keys to set (and to leave out, `without`), and the logits of one row of the ids 5 to 44
in float32, at its last token; or what transformers says where it fails. A case with `refused` is one that must be refused with
these words: because what it asks for is not built, because two keys contradict each other, or because transformers and vLLM
read it differently. The script stops where a case that is not refused has no logits.
"""
import json
import os
import pathlib
import re
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch  # noqa: E402
import transformers  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / "tests/vectors/config/scores.json"
IDS = list(range(5, 45))
YARN = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16}
OLD_YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 16}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_BARE = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
LLAMA3 = {**LLAMA3_BARE, "original_max_position_embeddings": 64}
FULL, MIXED = ["full_attention"] * 2, ["full_attention", "sliding_attention"]
SLIDES = {"use_sliding_window": True, "sliding_window": 8}
ALL_SLIDE = {"use_sliding_window": True, "max_window_layers": 0}
NO_NULL = "expected a value or no such key, found null"

# Of each kind: what its class fills in where the file has nothing, and where it has null.
LEFT_OUT = [
    ({}, None, ["rope_theta"]),
    ({}, None, ["rope_theta", "rope_scaling"]),
    ({"rope_parameters": {"rope_type": "default"}}, None, ["rope_theta"]),
    ({"rope_parameters": {}}, None, ["rope_theta"]),
    ({"rope_parameters": None}, None, ["rope_theta"]),
    ({"rope_scaling": {"type": "linear", "factor": 4}}, None, ["rope_theta"]),
    ({"rope_parameters": YARN}, None, ["rope_theta"]),
    ({"rope_parameters": YARN}, None),
    ({"rope_parameters": {"rope_theta": 700.0}}, None, ["rope_theta"]),
    ({"rope_parameters": {"rope_theta": 700.0}, "rope_theta": None}, None),
    ({"rope_theta": None}, "rope_theta: " + NO_NULL),
    ({"rope_theta": None, "rope_parameters": YARN}, "rope_theta: " + NO_NULL),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": None}}, "rope_parameters.rope_theta: " + NO_NULL),
    ({}, None, ["rms_norm_eps"]),
    ({"rms_norm_eps": None}, "rms_norm_eps: " + NO_NULL),
    ({}, None, ["max_position_embeddings"]),
    ({"rope_scaling": {"type": "yarn", "factor": 4}}, None, ["max_position_embeddings"]),
    ({"max_position_embeddings": None}, "max_position_embeddings: " + NO_NULL),
    ({}, None, ["hidden_act"]),
    ({"hidden_act": None}, "hidden_act: " + NO_NULL),
    ({}, None, ["tie_word_embeddings"]),
    ({}, None, ["pad_token_id"]),
    ({}, "vocab_size: expected", ["vocab_size"]),
    ({}, "hidden_size: expected", ["hidden_size"]),
    ({}, "intermediate_size: expected", ["intermediate_size"]),
    ({}, "num_hidden_layers: expected", ["num_hidden_layers"]),
    ({}, "num_attention_heads: expected", ["num_attention_heads"]),
]
QWEN_LEFT_OUT = LEFT_OUT + [
    ({}, "num_key_value_heads: expected", ["num_key_value_heads"]),
    ({}, None, ["use_sliding_window", "sliding_window"]),
    ({**ALL_SLIDE, "sliding_window": None}, None),
    (ALL_SLIDE, None, ["sliding_window"]),
    ({**ALL_SLIDE, "sliding_window": None, "layer_types": FULL}, None),
    ({**ALL_SLIDE, "sliding_window": None, "layer_types": MIXED}, "layer_types[1]: sliding_attention contradicts"),
    ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": None}, "max_window_layers: " + NO_NULL),
    ({**ALL_SLIDE, "sliding_window": 0}, "sliding_window: expected 1"),
]
# Of Mistral, whose file is as transformers 5 writes it.
MISTRAL_LEFT_OUT = [
    ({}, None, ["rope_parameters"]),
    ({"rope_parameters": None}, None),
    ({"rope_parameters": {}}, None),
    ({"rope_parameters": {"rope_type": "default"}}, None),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": None}}, "rope_parameters.rope_theta: " + NO_NULL),
    ({"rope_theta": 700.0}, "rope_theta (700) contradicts rope_parameters.rope_theta (500)"),
    ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4}}, None, ["rope_parameters"]),
    *(({}, None, [key]) for key in ("head_dim", "rms_norm_eps", "max_position_embeddings", "hidden_act", "tie_word_embeddings",
                                    "pad_token_id")),
    *(({key: None}, f"{key}: {NO_NULL}") for key in ("rms_norm_eps", "max_position_embeddings", "hidden_act")),
    *(({}, f"{key}: expected", [key]) for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                                  "num_attention_heads")),
]


def older(theta):
    """As transformers 4 writes it."""
    return {"rope_theta": theta, "rope_scaling": None, "torch_dtype": "float32", "transformers_version": "4.51.3"}


def newer(theta):
    """As transformers 5 writes it."""
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}, "dtype": "float32", "transformers_version": "5.23.0",
            "layer_types": FULL}


def yarn(**changes):
    return {"rope_scaling": {**YARN, **changes}}


CASES = {
    "seqcls": [
        ({}, None),
        # rope: two places, two spellings
        ({"rope_parameters": PLAIN, "rope_scaling": YARN}, "rope_parameters contradicts rope_scaling"),
        ({"rope_parameters": {**YARN, "rope_theta": 10000}, "rope_scaling": {**YARN, "rope_theta": 10000}}, None),
        ({"rope_parameters": {**YARN, "rope_theta": 10000.0}, "rope_scaling": YARN}, None),
        ({"rope_parameters": {**YARN, "rope_theta": 10000, "factor": 4.0}, "rope_scaling": OLD_YARN}, None),
        ({"rope_parameters": YARN, "rope_scaling": {**YARN, "rope_theta": 10000}}, None),
        ({"rope_parameters": {**YARN, "rope_theta": 700}, "rope_scaling": YARN}, "rope_parameters contradicts rope_scaling"),
        ({"rope_parameters": {**YARN, "rope_theta": 700}, "rope_scaling": YARN}, "rope_parameters contradicts rope_scaling", ["rope_theta"]),
        ({"rope_parameters": {**YARN, "rope_theta": 10000, "factor": 2}, "rope_scaling": YARN}, "rope_parameters contradicts rope_scaling"),
        ({"rope_parameters": {**YARN, "rope_theta": 10000, "beta_fast": 8}, "rope_scaling": YARN}, "rope_parameters contradicts rope_scaling"),
        ({"rope_parameters": YARN, "rope_scaling": {**YARN, "type": "linear"}}, "rope_type 'yarn' contradicts"),
        ({"rope_parameters": {}, "rope_scaling": YARN}, None),
        ({"rope_parameters": {**YARN, "rope_theta": 10000}, "rope_scaling": {}}, None),
        ({"rope_parameters": 5}, "rope_parameters: expected an object"),
        ({"rope_scaling": "yarn"}, "rope_scaling: expected an object"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4, "rope_theta": 10000}, "original_max_position_embeddings": 16}, None),
        ({**yarn(original_max_position_embeddings=64), "original_max_position_embeddings": 16},
         "original_max_position_embeddings (16) contradicts"),
        ({"original_max_position_embeddings": 16}, None),
        ({"rope_scaling": {"type": "linear", "factor": 4}, "original_max_position_embeddings": 16}, None),
        ({"rope_parameters": {**PLAIN, "rope_theta": 500000.0}}, "rope_theta (10000) contradicts"),
        ({"rope_parameters": PLAIN}, None),
        (yarn(type="linear"), "rope_type 'yarn' contradicts"),
        (yarn(type="yarn"), None),
        ({"rope_scaling": {"factor": 4}}, "rope_type: expected a name"),
        ({"rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]}}, None),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, "'dynamic'"),
        ({"rope_parameters": {"full_attention": {**YARN, "rope_theta": 10000}}}, "rope_parameters.full_attention"),
        ({"rope_parameters": {"sliding_attention": {**YARN, "rope_theta": 10000}}}, "rope_parameters.sliding_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 1.0}, None),
        (yarn(partial_rotary_factor=0.5), "rope_scaling.partial_rotary_factor"),
        (yarn(attn_factor=0.5), "attn_factor"),
        (yarn(finetuned=True), None),
        # yarn's and llama3's numbers
        (yarn(attention_factor=0.7), None),
        (yarn(attention_factor=None), None),
        (yarn(mscale=2, mscale_all_dim=1), None),
        (yarn(mscale=2), None),
        (yarn(mscale=0, mscale_all_dim=0), None),
        (yarn(truncate=False), None),
        (yarn(truncate=None), "truncate"),
        (yarn(beta_fast=1, beta_slow=32), None),
        (yarn(original_max_position_embeddings=1), None),
        (yarn(original_max_position_embeddings=2), None),
        ({**yarn(original_max_position_embeddings=1 << 24), "rope_theta": 20}, None),
        ({**yarn(), "rope_theta": 1}, "rope_theta: expected above 1"),
        (yarn(factor=0.5), "factor"),
        (yarn(factor=None), "factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4, "high_freq_factor": 1}}, None),
        ({"rope_scaling": LLAMA3_BARE, "original_max_position_embeddings": 32}, None),
        ({"rope_scaling": LLAMA3_BARE}, "original_max_position_embeddings"),
        # attention
        ({"is_causal": False}, "is_causal"),
        ({"is_causal": 0}, "is_causal"),
        ({"is_causal": True}, None),
        ({"is_causal": None}, "is_causal"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"is_decoder": True}, None),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"is_encoder_decoder": False}, None),
        ({"layer_types": MIXED}, "layer_types[1]: sliding_attention contradicts use_sliding_window"),
        ({"layer_types": MIXED, "sliding_window": 8}, "layer_types[1]: sliding_attention contradicts use_sliding_window"),
        ({"layer_types": FULL}, None),
        ({"layer_types": FULL[1:]}, "layer_types"),
        ({"layer_types": ["attention"] * 2}, None),
        ({"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ({**SLIDES, "layer_types": MIXED}, None),
        ({**SLIDES, "layer_types": FULL, "max_window_layers": 0}, None),
        ({**SLIDES, "max_window_layers": 1}, None),
        ({**SLIDES, "sliding_window": 1, "max_window_layers": 0}, None),
        (SLIDES, None),
        ({"sliding_window": 8, "max_window_layers": 0}, None),
        ({"attention_bias": False}, None),
        ({"head_dim": 16}, None),
        ({"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}, None),
        ({"attn_implementation": "eager", "output_attentions": True}, None),
        # which model, which head
        ({"model_type": "llama"}, "model_type 'llama' contradicts"),
        ({"model_type": "qwen3"}, "model_type 'qwen3' contradicts"),
        ({"architectures": ["Qwen2ForSequenceClassification", "Qwen2ForTokenClassification"]}, "architectures: expected one"),
        ({"num_labels": 1}, None),
        ({"num_labels": 2}, "num_labels (2) contradicts id2label"),
        ({"num_labels": 1, "id2label": None}, None),
        ({"hidden_act": "swish"}, None),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rms_norm_eps": 0.01}, None),
        # configs within, layers apart, weights elsewhere
        ({"text_config": {"hidden_size": 64}}, "text_config"),
        ({"text_config": None}, None),
        ({"decoder": {"hidden_size": 64}}, "decoder"),
        ({"per_layer_config": {"1": {"skip": ["mlp"]}}}, "per_layer_config"),
        ({"per_layer_config": {}}, None),
        ({"attribute_map": {"rms_norm_eps": "eps"}}, "attribute_map"),
        ({"kv_sharing_modes": ["reuse", "reuse"]}, "kv_sharing_modes"),
        ({"fusion_config": {"x": True}}, "fusion_config"),
        ({"transformers_weights": "model.safetensors"}, None),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"compression_config": {"quant_method": "x"}}, "compression_config"),
        # the publisher's code: without trust_remote_code transformers takes its own class
        ({"auto_map": {"AutoModelForSequenceClassification": "modeling_x.Qwen2ForSequenceClassification"}},
         "auto_map.AutoModelForSequenceClassification: expected nothing"),
        ({"auto_map": {"AutoModel": "modeling_x.Qwen2Model"}}, None),
        ({"auto_map": {}}, None),
        # the padding
        ({"pad_token_id": 255}, None),
        ({"pad_token_id": -1}, None),
        ({"pad_token_id": 256}, "pad_token_id: expected a token below vocab_size (256)"),
        ({"pad_token_id": 100000}, "pad_token_id: expected a token below vocab_size"),
        # what nobody reads
        ({"logit_scale": 0.5, "attn_logit_softcapping": 1.0, "embedding_multiplier": 3, "num_experts": 4}, None),
        ({"torch_dtype": "bfloat16", "use_cache": False, "attention_dropout": 0.5, "hidden_dropout": 0.5, "pretraining_tp": 2,
          "eos_token_id": [1, 2], "bos_token_id": 3, "initializer_range": 0.5, "tie_word_embeddings": True,
          "problem_type": "regression", "gradient_checkpointing": True, "chunk_size_feed_forward": 2}, None),
        # what other versions write
        (newer(10000.0), None, ["rope_theta", "rope_scaling"]),
        (older(10000.0), None),
        ({"use_mrope": False, "sliding_window": 131072, "max_window_layers": 21}, None),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, None),
        ({"layer_types": None}, None),
        ({"layer_types": []}, "layer_types: expected a list of 2, found 0"),
        *QWEN_LEFT_OUT,
    ],
    "llama": [
        ({}, None),
        (newer(500000.0), None, ["rope_theta", "rope_scaling"]),
        (older(500000.0), None),
        ({"layer_types": None}, None),
        ({"text_config": {"hidden_size": 64}}, "text_config"),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, None),
        ({"layer_types": FULL}, None),
        ({"layer_types": MIXED, "sliding_window": 8}, "layer_types[1]"),
        ({"is_causal": False}, "is_causal"),
        ({"model_type": "mistral"}, "model_type 'mistral'"),
        ({"pretraining_tp": 2, "head_dim": 16}, None),
        ({"rope_scaling": LLAMA3}, None),
        (yarn(), None),
        ({}, None, ["attention_bias"]),
        ({"head_dim": None}, None),
        *LEFT_OUT,
    ],
    "llama-mha": [
        ({}, None),
        ({"num_key_value_heads": None}, None),
    ],
    "head-dim-128": [
        ({}, None),
        ({"head_dim": 128}, None),
        ({"head_dim": None}, "head_dim: " + NO_NULL),
    ],
    "qwen3": [
        ({}, None),
        (newer(1e6), None, ["rope_theta", "rope_scaling"]),
        (older(1e6), None),
        ({"head_dim": None}, "head_dim: " + NO_NULL),
        ({"text_config": {"hidden_size": 64}}, "text_config"),
        ({**SLIDES, "layer_types": MIXED}, None),
        ({"is_causal": False}, "is_causal"),
        ({**SLIDES, "max_window_layers": 0}, None),
        ({"layer_types": MIXED}, "layer_types[1]"),
        (yarn(), None),
        ({"model_type": "qwen2"}, "model_type 'qwen2'"),
        ({}, None, ["attention_bias"]),
        *QWEN_LEFT_OUT,
    ],
    "qwen3-token": [
        ({}, None),
        ({"attention_bias": True, "mlp_bias": True}, "mlp_bias: Qwen3ForTokenClassification has none"),
    ],
    "llama-token": [
        ({}, None),
        ({"token_classification_bias": True}, None),
        ({"head_dim": 8, "num_key_value_heads": 2}, None),
    ],
    "mistral": [
        ({}, None),
        ({"sliding_window": None}, None),
        ({"sliding_window": 1}, None),
        ({"sliding_window": 39}, None),
        ({"sliding_window": 40}, None),
        ({"sliding_window": 0}, "sliding_window: expected 1"),
        ({}, None, ["sliding_window"]),
        (older(500.0), None, ["rope_parameters", "dtype", "head_dim"]),
        ({"layer_types": None}, None),
        ({"text_config": {"hidden_size": 32}}, "text_config"),
        ({"use_sliding_window": True}, None),
        ({"use_sliding_window": False}, "use_sliding_window: false contradicts sliding_window"),
        ({"use_sliding_window": False, "sliding_window": None}, None),
        ({"max_window_layers": 1}, None),
        ({"layer_types": ["sliding_attention"] * 2}, None),
        ({"layer_types": MIXED}, "layer_types[0]: full_attention contradicts sliding_window"),
        ({"layer_types": MIXED, "sliding_window": None}, "layer_types[1]: sliding_attention contradicts sliding_window"),
        ({"attention_bias": True}, "attention_bias: MistralForSequenceClassification has none"),
        ({"mlp_bias": True}, "mlp_bias: MistralForSequenceClassification has none"),
        ({"head_dim": None}, None),
        ({"rope_parameters": {**YARN, "rope_theta": 500.0}}, None),
        ({"model_type": "llama"}, "model_type 'llama' contradicts"),
        ({"is_causal": False}, "is_causal"),
        ({}, "num_key_value_heads: expected", ["num_key_value_heads"]),
        ({"pad_token_id": 127}, None),
        *MISTRAL_LEFT_OUT,
    ],
    "token": [
        ({}, None),
        ({"token_classification_bias": True, "classifier_dropout": 0.5}, None),
        ({"num_labels": 2}, None),
        *QWEN_LEFT_OUT,
    ],
}


def logits(directory, architecture):
    kind = "Token" if "Token" in architecture else "Sequence"
    cls = getattr(transformers, f"AutoModelFor{kind}Classification")
    model, info = cls.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"], sorted(info["missing_keys"])
    with torch.no_grad():
        out = model.eval()(torch.tensor([IDS])).logits
    return [float(f"{x:.9g}") for x in (out[0, -1] if kind == "Token" else out[0]).tolist()]


def run(model, change, without):
    config = {**json.loads((ROOT / f"tests/models/{model}/config.json").read_text()), **change}
    for key in without:
        del config[key]
    with tempfile.TemporaryDirectory() as directory:
        for path in (ROOT / f"tests/models/{model}").iterdir():
            if path.name != "config.json":
                os.symlink(path, f"{directory}/{path.name}")
        pathlib.Path(directory, "config.json").write_text(json.dumps(config))
        return logits(directory, config["architectures"][0])


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    lines = []
    for model, cases in CASES.items():
        for change, refused, *rest in cases:
            without = rest[0] if rest else []
            case = {"model": model, "change": change, **({"without": without} if without else {}),
                    **({"refused": refused} if refused else {})}
            try:
                case["values"] = run(model, change, without)
            except Exception as why:
                assert refused, (model, change, without, why)
                words = re.sub(r"\S*/tmp\S*", "DIR", " ".join(str(why).split()))
                case["says"] = f"{type(why).__name__}: {words}"[:80]
            lines.append(json.dumps(case))
    how = f"tests/reference/make_config_vectors.py, transformers {transformers.__version__}, float32"
    OUT.write_text('{"how": %s, "cases": [\n%s]}\n' % (json.dumps(how), ",\n".join(lines)))


if __name__ == "__main__":
    main()
