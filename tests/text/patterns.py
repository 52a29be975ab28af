"""Split patterns to test with: those of well-known tokenizers, and random ones from a grammar, seeded."""
import random

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{CONTRACTIONS}?|"
         rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{CONTRACTIONS}?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*"
        rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KNOWN = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K, "tekken": TEKKEN, "deepseek": DEEPSEEK, "kimi": KIMI}
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

SETS = [r"\s", r"\S", r"\d", r"\w", r"\W", r"\p{L}", r"\p{N}", r"\p{Lu}", r"\P{L}", r"\p{^P}", r"\p{M}", r"\p{S}", ".", r"[\r\n]", "[a-zA-Z]",
        r"[^\s\p{L}]", r"[^\r\n\p{L}\p{N}]", "[一-龥ぁ-ヿ]", r"[\p{L}&&[^\p{Han}]]", r"[!-/:-@\[-`{-~]", "[a-]", r"[\x{300}-\x{36f}]", "[^a&&[^b]]"]
LITERALS = ["a", "s", " ", "'", "1", "e", "\n", r"\n", r"\.", "é", "中", r"\x41", r"\u0301", r"\-", ",", "the", "'s"]
QUANTIFIERS = ["?", "*", "+", "+?", "*?", "??", "++", "*+", "?+", "{2}", "{1,3}", "{1,3}+", "{2,}", "{1,2}?", "{,2}"]
GROUPS = ["(?:{})", "({})", "(?>{})"]
LOOKS = ["(?={})", "(?!{})", "(?<={})", "(?<!{})"]


def atom(r, depth):
    kind = r.random()
    if depth < 3 and kind < 0.2:
        return r.choice(GROUPS).format(alternatives(r, depth + 1))
    if depth < 3 and kind < 0.25:
        return "(?i:" + r.choice(["'s|'t", "ab?|k", "[a-d]x", "re", "s"]) + ")"
    return r.choice(SETS) if kind < 0.7 else r.choice(LITERALS)


def sequence(r, depth):
    out = ""
    for _ in range(r.randint(1, 3)):
        if r.random() < 0.08:
            out += r.choice([*[look.format(r.choice(SETS + LITERALS)) for look in LOOKS], "$", r"\z", r"\A"])
        out += atom(r, depth) + (r.choice(QUANTIFIERS) if r.random() < 0.5 else "")
    return out


def alternatives(r, depth):
    return "|".join(sequence(r, depth) for _ in range(r.choice([1, 1, 2, 3] if depth else [1, 2, 3, 4, 5])))


def random_patterns(seed, n):
    r = random.Random(seed)
    for _ in range(n):
        yield alternatives(r, 0)
