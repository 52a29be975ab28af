"""Which checkpoints are made, and what each is there to show. One entry each; what an entry does not say is BASE's."""

ABSENT = object()  # a key that is left out of config.json (None is written as null, as published configs do)

BASE = dict(
    architectures=["Qwen2ForSequenceClassification"], model_type="qwen2", vocab_size=256, hidden_size=64,
    intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_act="silu",
    max_position_embeddings=1024, rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=None, tie_word_embeddings=False,
    use_sliding_window=False, sliding_window=None, id2label={"0": "LABEL_0"}, pad_token_id=None,
)

REWARD = dict(architectures=["Qwen2ForRewardModel"], id2label=ABSENT)
PROCESS = dict(architectures=["Qwen2ForProcessRewardModel"], id2label=ABSENT, rms_norm_eps=1e-5)
TOKEN = dict(architectures=["Qwen2ForTokenClassification"], id2label=ABSENT)  # two labels is the default
QWEN3 = dict(architectures=["Qwen3ForSequenceClassification"], model_type="qwen3", attention_bias=False)
LLAMA = dict(architectures=["LlamaForSequenceClassification"], model_type="llama", attention_bias=False,
             use_sliding_window=ABSENT, sliding_window=ABSENT)


def rope_parameters(**settings):
    """The newer spelling: everything about rope in one object."""
    return dict(rope_theta=ABSENT, rope_scaling=ABSENT, rope_parameters=settings)


LAST, CLS, MEAN, ALL = ({"type": t} for t in ("LAST", "CLS", "MEAN", "ALL"))
STEP = {"type": "STEP", "step_token": 9}
SOME = {"type": "POSITIONS", "positions": "some"}  # filled in per row: out of order, one of them twice


def softmax(pool):
    return dict(pool, activation="softmax")


def sigmoid(pool):
    return dict(pool, activation="sigmoid")


# Row lengths: both sides of every edge of the tiles that a forward works in (6, 8, 16, 64, 96, 192, 256, 512 ..).
SHORT = [1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 23, 24, 25]
MIDDLE = [31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129]
LONG = [191, 192, 193, 255, 256, 257, 383, 384, 385]
LONGEST = [511, 512, 513, 599, 600]
FEW = [1, 7, 16, 33, 64, 97, 130, 200, 300]

# name: (what differs from BASE, storage dtype, row lengths, poolings to go round)
SPECS = {
    # every architecture
    "reward": (dict(REWARD, vocab_size=512, num_attention_heads=8), "F32", SHORT + LONG + LONGEST,
               [None, CLS, MEAN, ALL]),
    "process": (dict(PROCESS), "F32", SHORT + MIDDLE, [None, None, softmax(STEP), dict(LAST, activation="none"), SOME]),
    "seqcls": (dict(), "F32", SHORT + MIDDLE, [None, MEAN, STEP, SOME, sigmoid(LAST)]),
    "seqcls-3-labels": (dict(id2label={"0": "bad", "1": "fair", "2": "good"}), "F32", SHORT + FEW,
                        [None, softmax(LAST), ALL, sigmoid(MEAN), MEAN, softmax(SOME)]),
    "token": (dict(TOKEN), "F32", MIDDLE, [STEP, ALL, dict(STEP, activation="none"), SOME]),
    "qwen3": (dict(QWEN3, head_dim=32, rope_theta=1e6), "F32", MIDDLE + LONG, [None, CLS, MEAN]),
    "llama": (dict(LLAMA, rope_theta=500000.0), "F32", MIDDLE + LONGEST, [None, ALL]),
    # rope
    "rope-linear": (dict(rope_scaling={"type": "linear", "factor": 4.0}), "F16", MIDDLE, [None]),
    "rope-llama3": (dict(LLAMA, rope_theta=500000.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}), "F32", MIDDLE + [600], [None]),
    "rope-yarn": (dict(rope_theta=1e6, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}), "F32", SHORT + [128, 129, 600], [None]),
    "rope-parameters": (rope_parameters(rope_type="default", rope_theta=5000.0), "F32", SHORT + FEW, [None]),
    "rope-yarn-parameters": (rope_parameters(
        rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=512, attention_factor=0.8,
        beta_fast=4.0, beta_slow=0.5), "F32", MIDDLE, [None]),
    "rope-yarn-not-truncated": (rope_parameters(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=256, truncate=False),
        "BF16", MIDDLE, [None]),
    # sliding window
    "window": (dict(use_sliding_window=True, sliding_window=24, max_window_layers=1, num_hidden_layers=3), "F32",
               SHORT + MIDDLE + [257], [None, ALL]),
    "window-layer-types": (dict(
        use_sliding_window=True, sliding_window=64, max_window_layers=3, num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"]), "BF16", MIDDLE + LONG, [None, ALL]),
    "window-given-but-off": (dict(use_sliding_window=False, sliding_window=8, max_window_layers=0), "BF16", FEW, [None]),
    # shapes: heads, head_dim, sizes off the tiles, sums over more than one block
    "llama-mha": (dict(LLAMA, num_key_value_heads=ABSENT), "F16", FEW, [None]),
    "mqa": (dict(num_key_value_heads=1), "BF16", FEW, [None]),
    "odd-sizes": (dict(REWARD, hidden_size=84, num_attention_heads=6, intermediate_size=204, vocab_size=331),
                  "BF16", SHORT + MIDDLE + LONGEST, [None, ALL]),
    "wide-mlp": (dict(hidden_size=48, intermediate_size=1040, num_hidden_layers=1), "BF16", FEW, [None, ALL]),
    "head-dim-80": (dict(QWEN3, hidden_size=48, head_dim=80, num_attention_heads=8, num_hidden_layers=1), "BF16",
                    MIDDLE + LONGEST, [None]),
    "head-dim-96": (dict(hidden_size=48, head_dim=96, num_attention_heads=12, num_key_value_heads=4,
                         num_hidden_layers=1), "F16", FEW, [None, ALL]),
    "head-dim-128": (dict(QWEN3, hidden_size=48, num_attention_heads=8, num_hidden_layers=1), "BF16", MIDDLE,
                     [None]),  # without head_dim: Qwen3's default
    "tp-12-4": (dict(REWARD, hidden_size=96, num_attention_heads=12, num_key_value_heads=4, head_dim=16,
                     intermediate_size=96), "BF16", MIDDLE, [None, MEAN]),
    "tp-head-dim-64": (dict(REWARD, num_attention_heads=8, head_dim=64, intermediate_size=128, num_hidden_layers=1),
                       "F16", MIDDLE, [None, ALL]),
    # files
    "f16": (dict(PROCESS), "F16", FEW, [STEP, None]),
    "bf16": (dict(id2label=ABSENT, num_labels=2), "BF16", SHORT, [None, softmax(LAST)]),
    "tied": (dict(tie_word_embeddings=True), "F32", FEW, [None]),
    "sharded": (dict(REWARD), "F32", FEW, [None]),
    "no-prefix": (dict(), "F16", FEW, [None]),
    "ignored-tensors": (dict(), "BF16", FEW, [None]),
}

# Written by save_pretrained. They are small, for there is one for each architecture and head: what shapes, types and lengths may
# do wrong is shown above.
SMALL = dict(vocab_size=128, hidden_size=32, intermediate_size=48, rope_theta=500.0)
NO_SWITCH = dict(use_sliding_window=ABSENT, sliding_window=ABSENT)


def small(architecture, model_type, **changes):
    window = {} if model_type.startswith("qwen") else NO_SWITCH
    return {**SMALL, **window, "architectures": [architecture], "model_type": model_type, **changes}


SAVED = {
    "mistral": (small("MistralForSequenceClassification", "mistral", sliding_window=24), "F32", SHORT + MIDDLE, [None, ALL]),
    "mistral-token": (small("MistralForTokenClassification", "mistral", sliding_window=None, head_dim=16, id2label=ABSENT), "F32",
                      MIDDLE, [STEP, ALL]),
    "qwen3-token": (small("Qwen3ForTokenClassification", "qwen3", head_dim=8, attention_bias=True, rms_norm_eps=1e-4,
                          id2label=ABSENT), "F32", MIDDLE,
                    [STEP, ALL]),
    "llama-token": (small("LlamaForTokenClassification", "llama", attention_bias=True, mlp_bias=True, id2label=ABSENT), "F32",
                    MIDDLE, [STEP, ALL]),
    "llama-biases": (small("LlamaForSequenceClassification", "llama", attention_bias=True, mlp_bias=True), "BF16", MIDDLE,
                     [None, ALL]),
    # heads
    "lm-difference": (small("Qwen2ForCausalLM", "qwen2", id2label=ABSENT, _head="lm:9,5:difference"), "F32", MIDDLE,
                      [None, ALL, MEAN]),
    "lm-softmax": (small("Qwen3ForCausalLM", "qwen3", id2label=ABSENT, head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-4,
                         _head="lm:101,17:softmax"), "F32", MIDDLE, [None, STEP]),
    "lm-sigmoid": (small("MistralForCausalLM", "mistral", sliding_window=32, id2label=ABSENT, _head="lm:127:sigmoid"), "F32",
                   MIDDLE, [None, STEP]),
    "lm-raw": (small("LlamaForCausalLM", "llama", id2label=ABSENT, _head="lm:0:raw"), "F32", MIDDLE, [None, ALL]),
    "lm-raw-two": (small("LlamaForCausalLM", "llama", id2label=ABSENT, _head="lm:100,3:raw"), "F32", FEW,
                   [None, softmax(LAST), dict(STEP, activation="class1")]),
    "prm": (small("Qwen2ForPrmModel", "qwen2", id2label=ABSENT), "F32", MIDDLE, [STEP, dict(LAST, activation="none"), ALL]),
    "openrlhf": (small("RewardModel", "llama", id2label=ABSENT, value_head_prefix="value_head", normalize_reward=True, mean=-0.7,
                       std=1.6), "F32", MIDDLE, [None, ALL]),
    "openrlhf-raw": (small("RewardModel", "mistral", sliding_window=48, id2label=ABSENT, value_head_prefix="score",
                           normalize_reward=False, mean=-0.7, std=1.6), "F32", FEW, [None]),
    "value-head": (small("Qwen2ForCausalLM", "qwen2", id2label=ABSENT, _head="value"), "F32", MIDDLE, [None, ALL]),
    "inform": (small("INFORMForSequenceClassification", "llama"), "F32", MIDDLE, [None, ALL]),
}

# What `make demo` scores with: a reward model of some hundred kB, with random weights.
DEMO = dict(REWARD, vocab_size=512, hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=8,
            max_position_embeddings=2048)
