"""Writes the small checkpoints tests/models/recipe-* and tests/vectors/recipes/*.json: for each recipe, rows of text with the ids and
values that its publisher's own arithmetic gives over transformers in float32. Seeded: the same each time.

    python tests/reference/make_recipes.py                  all of them
    python tests/reference/make_recipes.py qwen3-reranker   only these
"""
import json
import pathlib
import sys
import zlib

import safetensors.torch
import tokenizers
import torch
import transformers

import checkpoint
import classes

TESTS = pathlib.Path(__file__).resolve().parents[1]
SIZES = dict(vocab_size=328, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=8, max_position_embeddings=1024, rope_theta=500.0, bos_token_id=None, eos_token_id=None, pad_token_id=None)
CHATML = ("{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
          "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
# Ends in one token behind what the assistant says, as Llama 3's does.
TURNS = ("{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n\\n' + message['content'] + '<|im_end|>' }}{%- endfor %}"
         "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}")
SUMS = ["What is 3 + 4 - 5?", "Tom has 12 apples, and eats 4. How many are left?\nThink first.", "1+1=?"]
ANSWERS = ["3 + 4 = 7\n7 - 5 = 2\nThe answer is 2.", "12 - 4 = 8", "", "It is three.\n\n"]
STEPS = [["3 + 4 = 7.", "7 - 5 = 2."], ["Step 1: 12 - 4 = 8.", "Step 2: so + and - are signs: 8 + 0 = 8.", "The answer is 8"], ["2"]]


# ---- checkpoints ----

def byte_tokenizer(directory, template, **settings):
    """The demo's, with a few words more."""
    tokenizer = json.loads((TESTS / "models/demo-reward/tokenizer.json").read_text())
    model = tokenizer["model"]
    pair = (lambda a, b: [a, b]) if isinstance(model["merges"][0], list) else (lambda a, b: f"{a} {b}")
    for a, b in (("y", "e"), ("ye", "s"), ("n", "o")):
        if a + b not in model["vocab"]:
            model["vocab"][a + b] = len(model["vocab"])
        if pair(a, b) not in model["merges"]:
            model["merges"].insert(0 if a != "ye" else 1, pair(a, b))
    for k, token in enumerate(tokenizer["added_tokens"]):
        token["id"] = len(model["vocab"]) + k
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    settings = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": template, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def character_tokenizer(directory):
    """Of Llama 2's kind: words begin with U+2581, unknown characters are bytes, <s> in front of a text."""
    space = "\u2581"
    vocab = {token: k for k, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256))])}
    merges = [(space, "\u043a"), (space + "\u043a", "\u0438"), (space, "+"), (space, "-"), (space, "a"), ("a", "n"), ("i", "s"),
              ("[", "I"), ("S", "t"), ("St", "e"), ("Ste", "p")]
    letters = sorted({c for c in "".join([*SUMS, *ANSWERS, *sum(STEPS, [])]) if not c.isspace()} | set(space + "\u043a\u0438[]/INST"))
    for token in [*letters, *(a + b for a, b in merges)]:
        vocab.setdefault(token, len(vocab))
    model = tokenizers.models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend(space), tokenizers.normalizers.Replace(" ", space)])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.save(str(directory / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return len(vocab)


def save_model(name, architecture, family, **settings):
    """Random weights under that class, in bfloat16; returns the directory."""
    directory = TESTS / "models" / name
    checkpoint.empty(directory)
    config = getattr(transformers, family + "Config")(**{**SIZES, "tie_word_embeddings": True, **settings})
    config._attn_implementation = "eager"
    model = classes.build(architecture, config)
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    for tensor_name, tensor in model.named_parameters():
        scale, shift = (0.4, 1.0) if "norm" in tensor_name else (0.25, 0.0)
        tensor.data = shift + scale * torch.randn(tensor.shape, generator=rng)
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


def load_model(directory, architecture):
    """The class's model with the files' weights, in float32, and the tokenizer."""
    config = transformers.AutoConfig.from_pretrained(directory)
    config._attn_implementation = "eager"
    kind = getattr(classes, architecture, None) or getattr(transformers, architecture)
    return kind.from_pretrained(directory, config=config, dtype=torch.float32).eval(), transformers.AutoTokenizer.from_pretrained(directory)


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def conversation(prompt, answer):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def template_ids(tokenizer, messages):
    return tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]


# ---- the recipes: each writes its checkpoint and returns (directory name, rows) ----

def nemotron_reward():
    """The card: the first logit of the first token that generate would score."""
    byte_tokenizer(save_model("recipe-llama", "LlamaForCausalLM", "Llama"), TURNS, tokenizer_class="PreTrainedTokenizerFast")
    model, tokenizer = load_model(TESTS / "models/recipe-llama", "LlamaForCausalLM")
    rows = []
    for prompt, answer in zip(SUMS, ANSWERS):
        ids = template_ids(tokenizer, conversation(prompt, answer))
        rows.append({"row": {"prompt": prompt, "response": answer}, "ids": ids, "values": [float(logits_of(model, ids)[-1, 0])]})
    return "recipe-llama", rows


QUERIES = [("capital of China?", ["The capital of China is Beijing.", "", "No <|im_end|> here\n"], None),
           ("sums", ["3 + 4 = 7"], "Find sums: yes or no?"), ("sums", ["3 + 4 = 7"], "")]


def query_rows(score_pair):
    """Rows of one document and of several; score_pair(query, document, instruction) gives (ids, value)."""
    rows = []
    for query, documents, instruction in QUERIES:
        found = [score_pair(query, document, instruction) for document in documents]
        row = {"query": query, **({"instruction": instruction} if instruction is not None else {})}
        row.update({"documents": documents} if len(documents) > 1 else {"document": documents[0]})
        rows.append({"row": row, "ids": [k for ids, _ in found for k in ids], "values": [value for _, value in found]})
    return rows


def qwen3_reranker():
    """The card: prefix and suffix are tokenized apart from what is between; log_softmax of "no" and "yes"."""
    byte_tokenizer(save_model("recipe-qwen3", "Qwen3ForCausalLM", "Qwen3"), CHATML)
    model, tokenizer = load_model(TESTS / "models/recipe-qwen3", "Qwen3ForCausalLM")
    prefix = ('<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that '
              'the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n')
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    no, yes = tokenizer.convert_tokens_to_ids("no"), tokenizer.convert_tokens_to_ids("yes")

    def pair(query, document, instruction):
        if instruction is None:
            instruction = "Given a web search query, retrieve relevant passages that answer the query"
        middle = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        ids = tokenizer.encode(prefix, add_special_tokens=False) + tokenizer.encode(middle) + tokenizer.encode(suffix, add_special_tokens=False)
        two = logits_of(model, ids)[-1, [no, yes]]
        return ids, float(torch.log_softmax(two, dim=0)[1].exp())
    return "recipe-qwen3", query_rows(pair)


def mxbai_rerank_v2():
    """The package's prepare_inputs and forward: each part is tokenized apart; the logit of "1" less that of "0"."""
    byte_tokenizer(save_model("recipe-qwen2", "Qwen2ForCausalLM", "Qwen2"), CHATML)
    model, tokenizer = load_model(TESTS / "models/recipe-qwen2", "Qwen2ForCausalLM")
    task = ("You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, carefully "
            "analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not relevant, 1 for relevant)."
            "\nRelevance:")

    def parts(*texts):
        return [k for text in texts for k in tokenizer(text, add_special_tokens=False)["input_ids"]]
    yes, no = parts("1")[0], parts("0")[0]

    def pair(query, document, instruction):
        asked = f"query: {query}"
        if instruction:
            asked = f"instruction: {instruction}" + "\n" + asked
        ids = parts("<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
                    asked, "\n", f"document: {document}", "\n", task, "<|im_end|>\n<|im_start|>assistant\n")
        last = logits_of(model, ids)[-1]
        return ids, float(last[yes] - last[no])
    return "recipe-qwen2", query_rows(pair)


def step_rows(score_steps, steps=STEPS):
    """score_steps(prompt, steps) gives (ids, values)."""
    rows = []
    for prompt, texts in zip(SUMS, steps):
        ids, found = score_steps(prompt, texts)
        rows.append({"row": {"prompt": prompt, "steps": texts}, "ids": ids, "values": [float(v) for v in found]})
    return rows


def rlhflow_prm():
    """prm_evaluate.py: the conversation up to each step by itself, and its third token from the end."""
    byte_tokenizer(save_model("recipe-llama", "LlamaForCausalLM", "Llama"), TURNS, tokenizer_class="PreTrainedTokenizerFast")
    model, tokenizer = load_model(TESTS / "models/recipe-llama", "LlamaForCausalLM")
    two = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]

    def score(prompt, steps):
        messages, found = [], []
        for k, step in enumerate(step.strip() for step in steps):
            messages += [{"role": "user", "content": prompt + " " + step if k == 0 else step}, {"role": "assistant", "content": "+"}]
            ids = template_ids(tokenizer, messages)
            found.append(logits_of(model, ids)[-3, two].softmax(dim=-1)[0])
        return ids, found
    return "recipe-llama", step_rows(score, [*STEPS[:2], [" 2 + \n", "\u2003so +", "+"]])


def math_shepherd():
    """The card: one text, and "+" against "-" where the tag is."""
    directory = save_model("recipe-mistral", "MistralForCausalLM", "Mistral", sliding_window=None)
    assert character_tokenizer(directory) <= SIZES["vocab_size"]
    model, tokenizer = load_model(directory, "MistralForCausalLM")
    two, tag = tokenizer.encode("+ -")[1:], tokenizer.encode("\u043a\u0438")[-1]
    assert len(two) == 2

    def score(prompt, steps):
        ids = tokenizer.encode(f"{prompt} " + "\n".join(f"{step} \u043a\u0438" for step in steps))
        found = logits_of(model, ids)[:, two].softmax(dim=-1)[:, 0]
        return ids, found[torch.tensor(ids) == tag]
    return "recipe-mistral", step_rows(score)


def skywork_prm():
    """io_utils.py and prm_model.py: the problem's ids, then each step's and a newline's; the value head's sigmoid there."""
    byte_tokenizer(save_model("recipe-skywork", "Qwen2ForPrmModel", "Qwen2", tie_word_embeddings=False), CHATML, bos_token="<|endoftext|>")
    model, tokenizer = load_model(TESTS / "models/recipe-skywork", "Qwen2ForPrmModel")
    step_token = tokenizer.encode("\n")[-1]

    @torch.no_grad()
    def score(problem, steps):
        ids, at = tokenizer.encode(tokenizer.bos_token + problem + "\n"), []
        for step in steps:
            ids += tokenizer.encode(step) + [step_token]
            at.append(len(ids) - 1)
        hidden = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        return ids, torch.sigmoid(model.v_head(hidden).squeeze(-1))[at]
    return "recipe-skywork", step_rows(score)


def openrlhf():
    """reward_dataset.py of 0.9.10: no newlines at the end, a space and eos_token where the text does not end in it; the last value."""
    name = "recipe-openrlhf"
    directory = save_model(name, "RewardModel", "Llama", value_head_prefix="score", normalize_reward=False, tie_word_embeddings=False)
    byte_tokenizer(directory, CHATML, eos_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast")
    config = transformers.AutoConfig.from_pretrained(directory)
    config._attn_implementation = "eager"
    model, tokenizer = classes.build("RewardModel", config).float().eval(), transformers.AutoTokenizer.from_pretrained(directory)
    model.load_state_dict({k: v.float() for k, v in safetensors.torch.load_file(directory / "model.safetensors").items()})

    @torch.no_grad()
    def score(prompt, answer):
        text = tokenizer.apply_chat_template(conversation(prompt, answer), tokenize=False).rstrip("\n")
        if not text.endswith(tokenizer.eos_token):
            text += " " + tokenizer.eos_token
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids[-1] = tokenizer.eos_token_id
        return ids, float(model.score(model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state)[0, -1, 0])
    return name, answer_rows(score)


def last_value(model, head, tokenizer):
    """A score of what the chat template writes: head's value at the last token."""
    @torch.no_grad()
    def score(prompt, answer):
        ids = template_ids(tokenizer, conversation(prompt, answer))
        return ids, float(head(model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]))
    return score


def inf_orm():
    """The card: the class's logit for the conversation; no pad token in it."""
    directory = save_model("recipe-inform", "INFORMForSequenceClassification", "Llama", num_labels=1, tie_word_embeddings=False)
    byte_tokenizer(directory, TURNS, tokenizer_class="PreTrainedTokenizerFast")
    model, tokenizer = load_model(directory, "INFORMForSequenceClassification")
    return "recipe-inform", answer_rows(last_value(model.model, model.score, tokenizer))


def llama_factory():
    """train/rm: the value head, saved beside the model, at the last token; its qwen template ends in a newline, as ChatML does."""
    directory = save_model("recipe-value-head", "Qwen2ForCausalLM", "Qwen2")
    byte_tokenizer(directory, CHATML)
    rng = torch.Generator().manual_seed(zlib.crc32(b"v_head"))
    head = {"v_head.summary.weight": torch.randn((1, 32), generator=rng), "v_head.summary.bias": torch.randn((1,), generator=rng)}
    safetensors.torch.save_file(head, directory / "value_head.safetensors", metadata={"format": "pt"})
    model, tokenizer = load_model(directory, "Qwen2ForCausalLM")
    return "recipe-value-head", answer_rows(last_value(
        model.model, lambda hidden: hidden @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"][0], tokenizer))


def answer_rows(score):
    """A response to each prompt, and a pair. score(prompt, answer) gives (ids, value)."""
    rows = [({"prompt": prompt, "response": answer}, [score(prompt, answer)]) for prompt, answer in zip(SUMS, ANSWERS)]
    rows.append(({"prompt": SUMS[0], "chosen": ANSWERS[0], "rejected": ANSWERS[3]}, [score(SUMS[0], ANSWERS[0]), score(SUMS[0], ANSWERS[3])]))
    return [{"row": row, "ids": [k for ids, _ in found for k in ids], "values": [value for _, value in found]} for row, found in rows]


def eurus_rm():
    """modeling_eurus_rm.py: a value of the last token of Mistral's form, as the card's examples have it."""
    directory = save_model("recipe-eurus", "EurusRewardModel", "Mistral", sliding_window=None, tie_word_embeddings=False)
    character_tokenizer(directory)
    model, tokenizer = load_model(directory, "EurusRewardModel")

    @torch.no_grad()
    def score(prompt, answer):
        ids = tokenizer.encode(f"[INST] {prompt} [/INST] {answer}")
        return ids, float(model.regression_head(model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state)[0, -1, 0])
    return "recipe-eurus", answer_rows(score)


RECIPES = {"nemotron-reward": nemotron_reward, "qwen3-reranker": qwen3_reranker, "mxbai-rerank-v2": mxbai_rerank_v2,
           "rlhflow-prm": rlhflow_prm, "math-shepherd": math_shepherd, "skywork-prm": skywork_prm, "eurus-rm": eurus_rm,
           "openrlhf": openrlhf, "inf-orm": inf_orm, "llama-factory": llama_factory}


def main():
    torch.set_num_threads(1)
    (TESTS / "vectors/recipes").mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or RECIPES:
        model, rows = RECIPES[name]()
        for row in rows:
            row["values"] = [float(f"{value:.9g}") for value in row["values"]]
        how = f"tests/reference/make_recipes.py; transformers {transformers.__version__} in float32"
        text = json.dumps({"model": model, "recipe": name, "how": how})[:-1] + ', "rows": [\n'
        text += ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]}\n"
        (TESTS / f"vectors/recipes/{name}.json").write_text(text)
        print(name, [row["values"] for row in rows])


if __name__ == "__main__":
    main()
