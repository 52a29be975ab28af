"""Which checkpoints are made, and what each is there to show. One entry each; everything not said is BASE."""

BASE = dict(
    architectures=["Qwen2ForSequenceClassification"], model_type="qwen2", vocab_size=320, hidden_size=64,
    intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_act="silu",
    max_position_embeddings=1024, rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=False,
    use_sliding_window=False, num_labels=1, pad_token_id=None,
)

REWARD = dict(architectures=["Qwen2ForRewardModel"])
PROCESS = dict(architectures=["Qwen2ForProcessRewardModel"])
TOKEN = dict(architectures=["Qwen2ForTokenClassification"], num_labels=2)
QWEN3 = dict(architectures=["Qwen3ForSequenceClassification"], model_type="qwen3", attention_bias=False)
LLAMA = dict(architectures=["LlamaForSequenceClassification"], model_type="llama", attention_bias=False)

LAST, CLS, MEAN, ALL = ({"type": t} for t in ("LAST", "CLS", "MEAN", "ALL"))
STEP = {"type": "STEP", "step_token": 9}

# Lengths of rows: both sides of every edge of the blocks that the forward works in (6, 8, 16, 64, 96, 192, 256, 768 ..).
SHORT = [1, 2, 5, 6, 7, 9, 15, 16, 17, 31, 33]
MIDDLE = [47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 129]
LONG = [191, 192, 193, 255, 256, 257, 383, 385, 511, 512, 513, 599, 600]

# name: (what differs from BASE, storage dtype, lengths, poolings to go round)
SPECS = {
    "reward": (dict(REWARD, vocab_size=512, hidden_size=96, num_attention_heads=8, num_key_value_heads=2,
                    intermediate_size=192), "F32", SHORT + LONG, [None, CLS, MEAN, ALL]),
    "process": (dict(PROCESS), "F32", MIDDLE, [None, None, dict(STEP, activation="softmax"), dict(LAST, activation="none")]),
    "seqcls": (dict(), "F32", SHORT + MIDDLE, [None, MEAN, STEP, {"type": "POSITIONS", "positions": "some"}]),
    "seqcls-3-labels": (dict(num_labels=3), "F32", SHORT,
                        [None, dict(LAST, activation="softmax"), ALL, dict(MEAN, activation="sigmoid"), MEAN]),
    "token": (dict(TOKEN), "F32", MIDDLE, [dict(STEP), dict(ALL), dict(STEP, activation="none")]),
    "qwen3": (dict(QWEN3, head_dim=32, rope_theta=1e6), "F32", MIDDLE, [None, CLS, MEAN]),
    "llama": (dict(LLAMA, rope_theta=500000.0), "F32", MIDDLE, [None, ALL]),
    "llama-mha": (dict(LLAMA, num_key_value_heads=4), "F32", SHORT, [None]),
    "mqa": (dict(num_key_value_heads=1), "F32", SHORT, [None]),
    "odd-sizes": (dict(REWARD, hidden_size=84, num_attention_heads=6, num_key_value_heads=2, intermediate_size=204,
                       vocab_size=331), "F32", SHORT + MIDDLE, [None, ALL]),
    "rope-linear": (dict(rope_scaling={"type": "linear", "factor": 4.0}), "F32", MIDDLE, [None]),
    "rope-llama3": (dict(LLAMA, rope_theta=500000.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}), "F32", MIDDLE + [600], [None]),
    "rope-yarn": (dict(rope_theta=1e6, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}), "F32", MIDDLE + [600], [None]),
    "rope-yarn-parameters": (dict(rope_theta=None, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64,
        "attention_factor": 0.8, "beta_fast": 16.0, "beta_slow": 2.0}), "F32", MIDDLE, [None]),
    "rope-parameters": (dict(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5000.0}), "F32",
                        SHORT, [None]),
    "window": (dict(use_sliding_window=True, sliding_window=24, max_window_layers=1, num_hidden_layers=3), "F32",
               SHORT + MIDDLE + [257], [None, ALL]),
    "window-layer-types": (dict(use_sliding_window=True, sliding_window=70, max_window_layers=3, num_hidden_layers=3,
                                layer_types=["sliding_attention", "full_attention", "sliding_attention"]), "F32",
                           MIDDLE + [200, 300], [None]),
    "window-given-but-off": (dict(use_sliding_window=False, sliding_window=8, max_window_layers=0), "F32", MIDDLE, [None]),
    "tied": (dict(tie_word_embeddings=True), "F32", SHORT, [None]),
    "head-dim-80": (dict(QWEN3, head_dim=80, num_attention_heads=2, num_key_value_heads=1), "F32", MIDDLE, [None]),
    "head-dim-96": (dict(QWEN3, head_dim=96, num_attention_heads=2, num_key_value_heads=2), "F32", SHORT, [None]),
    "head-dim-128": (dict(QWEN3, head_dim=128, num_attention_heads=2, num_key_value_heads=1), "F32", SHORT + [97], [None]),
    "tp-12-4": (dict(REWARD, hidden_size=192, num_attention_heads=12, num_key_value_heads=4, intermediate_size=256,
                     vocab_size=256, head_dim=16), "BF16", MIDDLE, [None, MEAN]),
    "tp-head-dim-64": (dict(REWARD, hidden_size=128, num_attention_heads=8, num_key_value_heads=2, head_dim=64,
                            intermediate_size=128, vocab_size=256, num_hidden_layers=1), "F16", MIDDLE, [None, ALL]),
    "f16": (dict(PROCESS, vocab_size=256), "F16", SHORT, [dict(STEP), None]),
    "bf16": (dict(vocab_size=256, num_labels=2), "BF16", SHORT, [None, dict(LAST, activation="softmax")]),
    "sharded": (dict(REWARD), "F32", SHORT, [None]),
    "no-prefix": (dict(), "F32", SHORT, [None]),
    "ignored-tensors": (dict(), "F32", SHORT, [None]),
}

# The shipped demo: a few hundred kB of bfloat16, a reward model with random weights.
DEMO = dict(REWARD, vocab_size=512, hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=2048)
