"""Trains the two demo models from nothing: a process reward model, then from its trunk a reward model, on sums worked in steps
(sums.py). Seeded; PyTorch on the CPU. Writes tests/models/demo-process and demo-reward (bfloat16), and what they reach on
problems that were held out, measured on the files as written.

    build/venv-reference/bin/python tests/reference/train_demo.py [--eval]
"""
import argparse
import json
import pathlib
import random
import time

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

import checkpoint
import oracle
import sums

MODELS = pathlib.Path(__file__).parents[1] / "models"
SEED = 20
CONFIG = dict(
    model_type="qwen2", vocab_size=320, hidden_size=128, intermediate_size=512, num_attention_heads=4,
    num_key_value_heads=2, head_dim=64, hidden_act="silu", max_position_embeddings=1024, rms_norm_eps=1e-6, rope_theta=10000.0,
    rope_scaling=None, tie_word_embeddings=False, use_sliding_window=False, sliding_window=None, pad_token_id=None,
    torch_dtype="bfloat16")
LAYERS = {"demo-process": 4, "demo-reward": 6}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = ("{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")


def config_of(name):
    architecture, labels = "Qwen2ForProcessRewardModel", {}
    if name == "demo-reward":
        architecture, labels = "Qwen2ForRewardModel", {"id2label": {"0": "LABEL_0"}}
    return {**CONFIG, "architectures": [architecture], "num_hidden_layers": LAYERS[name], **labels}


def chat(question, answer):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


# ---- tokenizer ----

def make_tokenizer():
    """Byte-level BPE in Qwen2's form, learnt from the task's own text."""
    t = tokenizers.Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    r = random.Random(SEED)
    tasks = [sums.problem(r) for _ in range(2000)]
    texts = [chat(sums.question(r, task), "\n".join(sums.solution(r, task))) for task in tasks]
    texts = [text.replace("<|im_start|>", "").replace("<|im_end|>", "") for text in texts]
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab_size"] - len(SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(texts, trainer)
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    assert t.get_vocab_size() <= CONFIG["vocab_size"]
    return t


# ---- rows ----

def process_row(r, held_out):
    """(text, a label for each step)"""
    task = sums.draw(r, held_out)
    wrong = r.randrange(len(task[0])) if r.random() < 0.6 else None
    steps = sums.solution(r, task, wrong)
    return chat(sums.question(r, task), "".join(s + "<extra_0>" for s in steps)), sums.right_steps(task, steps)


def equation_row(r):
    """Single steps, right and wrong, next to each other: what the rows above are made of."""
    text, labels = "", []
    for _ in range(4):
        while True:
            a, b, operator = r.randint(0, sums.MOST), r.randint(1, 12), r.choice("+-")
            value = sums.apply(operator, a, b)
            if 0 <= value <= sums.MOST:
                break
        labels.append(r.randint(0, 1))
        text += f"{a} {operator} {b} = {value if labels[-1] else sums.blunder(r, value)}<extra_0>"
    return text, labels


def pair(r, held_out):
    """(text, a label for each step) of a right solution and of a wrong one of the same problem"""
    task = sums.draw(r, held_out)
    ask = sums.question(r, task)
    solutions = sums.solution(r, task), sums.solution(r, task, r.randrange(len(task[0])))
    return [(chat(ask, "\n".join(steps)), sums.right_steps(task, steps)) for steps in solutions]


# ---- training ----

class Model(torch.nn.Module):
    """Trunk and head; the names of its state are those of the checkpoint."""

    def __init__(self, name):
        super().__init__()
        hidden, labels = CONFIG["hidden_size"], 1 if name == "demo-reward" else 2
        settings = oracle.settings_of(config_of(name))
        settings._attn_implementation = "sdpa"
        self.model = transformers.Qwen2Model(settings)
        self.score = torch.nn.Sequential(torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, labels))

    def hidden(self, ids):
        return self.model(input_ids=ids, use_cache=False).last_hidden_state

    def tensors(self):
        return {k: v.detach().to(torch.bfloat16) for k, v in self.state_dict().items() if "rotary" not in k}


def padded(encodings):
    """[rows, longest] ids; the padding is behind, where causal attention does not see it."""
    longest = max(len(e.ids) for e in encodings)
    return torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in encodings])


def next_token_loss(model, hidden, ids, right):
    """The trunk also learns to say the results, where they are right: so it learns to reckon."""
    scores = hidden[:, :-1] @ model.model.embed_tokens.weight.T
    losses = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * right[:, 1:].flatten()).sum() / right.sum()


def result_mask(tokenizer, encodings, labels, shape):
    """1 for the tokens behind the = of a right step: those that follow from what stands before them."""
    step_token, equals = tokenizer.token_to_id("<extra_0>"), tokenizer.token_to_id("\u0120=")
    mask = torch.zeros(shape)
    for k, (e, row) in enumerate(zip(encodings, labels)):
        step, behind = 0, False
        for at, token in enumerate(e.ids):
            mask[k, at] = behind and step < len(row) and row[step]
            behind = (behind or token == equals) and token != step_token
            step += token == step_token
    return mask


def process_loss(model, tokenizer, rows):
    step_token = tokenizer.token_to_id("<extra_0>")
    encodings = tokenizer.encode_batch([text for text, _ in rows])
    ids = padded(encodings)
    hidden = model.hidden(ids)
    logits = model.score(hidden[ids == step_token])
    labels = torch.tensor([label for _, row in rows for label in row])
    mask = result_mask(tokenizer, encodings, [row for _, row in rows], ids.shape)
    accuracy = (logits.argmax(-1) == labels).float().mean().item()
    return torch.nn.functional.cross_entropy(logits, labels) + next_token_loss(model, hidden, ids, mask), accuracy


def pair_scores(model, tokenizer, pairs):
    """(ids, hidden states, [pairs, 2] scores: the right solution's, the wrong one's)"""
    encodings = tokenizer.encode_batch([text for both in pairs for text, _ in both])
    ids = padded(encodings)
    hidden = model.hidden(ids)
    last = torch.tensor([len(e.ids) - 1 for e in encodings])
    return ids, hidden, model.score(hidden[torch.arange(len(last)), last]).view(-1, 2)


def step_ends(tokenizer, ids):
    """[rows, longest] true where a step of the assistant's ends: at a newline of the answer, and at its <|im_end|>."""
    start, end, newline = (tokenizer.token_to_id(t) for t in ("<|im_start|>", "<|im_end|>", "\u010a"))
    turns, ends = (ids == start).cumsum(1), (ids == end).cumsum(1)
    header = torch.roll(ids == start, 2, 1)  # <|im_start|> role newline
    return (turns == 2) & (((ids == newline) & ~header & (ends == 1)) | ((ids == end) & (ends == 2)))


def pair_loss(model, steps_head, tokenizer, pairs):
    """The pair, and each step where it ends by a head that is thrown away: so the sum of all steps is learnt from its parts."""
    ids, hidden, scores = pair_scores(model, tokenizer, pairs)
    margin = scores[:, 0] - scores[:, 1]
    centred = torch.nn.functional.softplus(-scores[:, 0]) + torch.nn.functional.softplus(scores[:, 1])
    labels = torch.tensor([label for both in pairs for _, row in both for label in row])
    steps = torch.nn.functional.cross_entropy(steps_head(hidden[step_ends(tokenizer, ids)]), labels)
    return (torch.nn.functional.softplus(-margin) + centred).mean() + steps, (margin > 0).float().mean().item()


def train(parameters, steps, rate, name, loss_of):
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    started, seen = time.time(), []
    for step in range(1, steps + 1):
        loss, accuracy = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        seen.append(accuracy)
        if step % 100 == 0 or step == steps:
            print(f"{name} {step}/{steps} loss {loss.item():.3f} accuracy {sum(seen[-200:]) / len(seen[-200:]):.4f} "
                  f"{time.time() - started:.0f} s", flush=True)


# ---- checkpoints ----

def grown(process, tokenizer):
    """The reward model as it begins: the process model's trunk and two layers more that add nothing yet. What ends a step here, a
    newline or <|im_end|>, begins as <extra_0>, so the layers below judge each step there already; those above can look at that."""
    model = Model("demo-reward")
    missing, unexpected = model.model.load_state_dict(process.model.state_dict(), strict=False)
    assert not unexpected and all(m.startswith(("layers.4.", "layers.5.")) for m in missing), (missing, unexpected)
    ends = [tokenizer.token_to_id(t) for t in ("\u010a", "<|im_end|>")]
    with torch.no_grad():
        model.model.embed_tokens.weight[ends] = model.model.embed_tokens.weight[tokenizer.token_to_id("<extra_0>")].clone()
    for layer in model.model.layers[4:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def write(name, model, tokenizer):
    directory = MODELS / name
    kept = {f.name: f.read_bytes() for f in directory.glob("README.md")}
    checkpoint.write(directory, name, config_of(name), model.tensors())
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": TEMPLATE, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    for file, body in kept.items():
        (directory / file).write_bytes(body)


def read(name):
    """The checkpoint as it lies on the disk, in float32."""
    from safetensors.torch import load_file
    directory = MODELS / name
    model = Model(name)
    tensors = {k: v.float() for k, v in load_file(directory / "model.safetensors").items()}
    oracle.load(model, tensors)
    return model.eval(), tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


# ---- held out ----

def area_under_curve(scores, labels):
    """How often a right step scores above a wrong one."""
    order = torch.argsort(scores)
    ranks = torch.empty(len(scores), dtype=torch.double)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=torch.double)
    right = labels == 1
    n = right.sum().item()
    return (ranks[right].sum().item() - n * (n + 1) / 2) / (n * (len(scores) - n))


@torch.no_grad()
def evaluate(n=2000):
    r = random.Random(SEED + 1)
    model, tokenizer = read("demo-process")
    step_token, scores, labels = tokenizer.token_to_id("<extra_0>"), [], []
    for _ in range(n // 50):
        rows = [process_row(r, True) for _ in range(50)]
        ids = padded(tokenizer.encode_batch([text for text, _ in rows]))
        scores.append(torch.softmax(model.score(model.hidden(ids)[ids == step_token]), -1)[:, 1])
        labels += [label for _, row in rows for label in row]
    scores, labels = torch.cat(scores), torch.tensor(labels)
    accuracy = ((scores > 0.5).long() == labels).float().mean().item()
    print(f"demo-process: {n} held-out rows, {len(labels)} steps: AUC {area_under_curve(scores, labels):.4f}, accuracy {accuracy:.4f}")
    model, tokenizer = read("demo-reward")
    scores = torch.cat([pair_scores(model, tokenizer, [pair(r, True) for _ in range(50)])[2] for _ in range(n // 50)])
    print(f"demo-reward: {n} held-out pairs: accuracy {(scores[:, 0] > scores[:, 1]).float().mean().item():.4f}")


# ---- golden values of the lines that `make demo` scores ----

def sequences(line):
    """The texts of one line's sequences, by the template."""
    def talk(answer, ask=None):
        if isinstance(answer, list):
            return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in answer)
        return chat(ask, answer)
    ask = next((line[k] for k in ("prompt", "problem", "question") if k in line), None)
    if "steps" in line:
        return [talk("".join(s + "<extra_0>" for s in line["steps"]), ask)]
    answers = line.get("responses") or [line[k] for k in ("chosen", "rejected", "response", "messages") if k in line]
    return [talk(a, ask) for a in answers]


def write_golden():
    out = {"how": "tests/reference/train_demo.py: transformers in float32 from the committed files, each sequence alone"}
    for name in ("demo-reward", "demo-process"):
        directory = MODELS / name
        model, tokenizer = read(name)
        config = json.loads((directory / "config.json").read_text())
        tensors = {k: v for k, v in model.state_dict().items() if "rotary" not in k}
        pool = {"type": "STEP", "activation": "class1", "step_token": tokenizer.token_to_id("<extra_0>")}
        out[name] = []
        for line in map(json.loads, open(MODELS / f"{name}.jsonl")):
            ids = [tokenizer.encode(text).ids for text in sequences(line)]
            rows = [{"ids": i, "pool": pool if name == "demo-process" else None} for i in ids]
            out[name].append({"id": line["id"], "ids": ids, "values": oracle.score(config, tensors, rows)})
    (MODELS.parent / "vectors/text/demo.json").write_text(json.dumps(out, indent=1) + "\n")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--eval", action="store_true", help="only measure what is there")
    options.add_argument("--begin", type=int, default=0, help="1: with the second round; 2: with the reward model")
    options.add_argument("--scale", type=float, default=1.0, help="fraction of the training steps, to try things out")
    o = options.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    if not o.eval and o.begin < 1:
        r, tokenizer, model = random.Random(SEED), make_tokenizer(), Model("demo-process")
        print(sum(p.numel() for p in model.parameters()), "parameters")
        train(model.parameters(), int(5000 * o.scale), 1e-3, "equations", lambda: process_loss(model, tokenizer, [equation_row(r) for _ in range(16)]))
        train(model.parameters(), int(3000 * o.scale), 7e-4, "process", lambda: process_loss(model, tokenizer, [process_row(r, False) for _ in range(16)]))
        write("demo-process", model, tokenizer)
    if not o.eval and o.begin < 2:  # a second round begins where the file ends
        r, (model, tokenizer) = random.Random(SEED + 2), read("demo-process")
        model.train()
        train(model.parameters(), int(2000 * o.scale), 7e-4, "process", lambda: process_loss(model, tokenizer, [process_row(r, False) for _ in range(16)]))
        write("demo-process", model, tokenizer)
    if not o.eval:
        r, (process, tokenizer) = random.Random(SEED + 3), read("demo-process")
        model, steps_head = grown(process, tokenizer).train(), process.score
        above = [*model.model.layers[4:].parameters(), *model.score.parameters()]
        loss_of = lambda: pair_loss(model, steps_head, tokenizer, [pair(r, False) for _ in range(16)])  # noqa: E731
        train(above, int(500 * o.scale), 1e-3, "reward, above", loss_of)
        train([*model.parameters(), *steps_head.parameters()], int(900 * o.scale), 2e-4, "reward", loss_of)
        train([*model.parameters(), *steps_head.parameters()], int(1500 * o.scale), 4e-4, "reward", loss_of)
        write("demo-reward", model, tokenizer)
        write_golden()
    evaluate()


if __name__ == "__main__":
    main()
