"""Strings that a tokenizer can get wrong: random ones of every kind, seeded, without end."""
import random
import unicodedata

PLANES = [(0, 0x7F), (0x80, 0x24F), (0x250, 0x36F), (0x370, 0x5FF), (0x600, 0x8FF), (0x900, 0xDFF), (0xE00, 0x11FF),
          (0x1200, 0x1FFF), (0x2000, 0x2BFF), (0x2C00, 0x2FFF), (0x3000, 0x33FF), (0x4E00, 0x9FFF), (0xA000, 0xABFF),
          (0xAC00, 0xD7FF), (0xF900, 0xFFFF), (0x10000, 0x10FFF), (0x11000, 0x123FF), (0x16000, 0x18CFF), (0x1B000, 0x1BCFF),
          (0x1D000, 0x1DFFF), (0x1E000, 0x1EFFF), (0x1F000, 0x1FBFF), (0x20000, 0x2FA1F), (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF)]
MARKS = [c for c in range(0x110000) if unicodedata.combining(chr(c))]
SPACES = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
WORDS = ("the of and to in is that for it with as was on be at by this not are from or have an which one you were all we "
         "Hello WORLD naïve façade Straße Ünïcödé über Привет мир Ελληνικά שלום مرحبا हिन्दी ภาษาไทย 日本語 中文字符 한국어 "
         "İstanbul ǅungla ﬁne ﬂow Å K Ω ſtop").split()
CODE = ["def f(x):\n\treturn x*2\n", "for (int i = 0; i < n; i++) {\n    a[i] += b[i];\n}\n", "if (x!=null&&y>=0)||z{}",
        "<div class=\"a\">&nbsp;</div>\r\n", "SELECT * FROM t WHERE a='b';--", "\\frac{a}{b} + \\boxed{42}", "x_1 = 0x1F;  // ok",
        "/usr/lib/x86_64-linux-gnu/libc.so.6", "https://example.org/a?b=c&d=%20#e", "#include <stdio.h>\n\n\n", "a->b.c::d<e>(f)[g]"]
CONTRACTIONS = ["'s", "'S", "'ſ", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'Ve", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D",
                "'", "''", "'r", "'v", "'l", "'sx", "'ſx", "’s", "`s", "'  s", "'\u0301s"]
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<|im_end", "im_end|>", "<|fim_prefix|>",
            "<|", "|>", "<<|im_end|>>", "<|im_start|>user\n", "<|vision_start|>", "<|im_end|><|im_end|>"]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "☃", "🧑🏿‍🚀", "#️⃣", "🫠", "\u200d", "\ufe0f"]
JAMO = list(range(0x1100, 0x1113)) + list(range(0x1161, 0x1176)) + list(range(0x11A8, 0x11C3)) + [0xAC00, 0xAC01, 0xD788]
COMPOSED = [c for c in range(0xC0, 0x2000) if unicodedata.decomposition(chr(c)) and not unicodedata.decomposition(chr(c)).startswith("<")]


def character(r):
    low, high = r.choice(PLANES)
    c = r.randint(low, high)
    return chr(c) if not 0xD800 <= c < 0xE000 else "x"


def marked(r):
    """A base and marks in any order: what normalization reorders and fuses."""
    base = r.choice([lambda: chr(r.choice(COMPOSED)), lambda: r.choice("aeioucnsAEO"), lambda: character(r)])()
    return base + "".join(chr(r.choice(MARKS)) for _ in range(r.randint(0, 5)))


def word(r):
    w = r.choice(WORDS)
    return r.choice([w, w.upper(), w.title(), unicodedata.normalize("NFD", w), w * r.randint(1, 3)])


PIECES = [
    (8, word), (6, lambda r: " " * r.choice([1, 1, 1, 1, 2, 3, 8])), (4, character), (4, marked),
    (3, lambda r: "".join(r.choice(SPACES) for _ in range(r.randint(1, 6)))), (3, lambda r: str(r.randint(0, 10 ** r.randint(1, 12)))),
    (3, lambda r: r.choice(CONTRACTIONS)), (2, lambda r: r.choice(CODE)), (2, lambda r: r.choice(CONTROLS)), (2, lambda r: r.choice(EMOJI)),
    (2, lambda r: "".join(r.choice("!\"#$%&()*+,-./:;<=>?@[]^_`{|}~") for _ in range(r.randint(1, 5)))),
    (1, lambda r: "".join(chr(r.choice(JAMO)) for _ in range(r.randint(1, 6)))), (1, lambda r: chr(r.choice(MARKS)) * r.randint(1, 4)),
    (1, lambda r: "".join(chr(r.randint(0x4E00, 0x9FFF)) for _ in range(r.randint(1, 8)))), (1, lambda r: chr(r.randint(0, 0x1F))),
    (1, lambda r: r.choice("aAbz0 \n") * r.randint(1, 60)), (1, lambda r: chr(r.choice([0x180E, 0x17F, 0x212A, 0x130, 0x1E9E, 0xFB01, 0x345]))),
]
WEIGHTS = [weight for weight, _ in PIECES]
MAKERS = [make for _, make in PIECES]


def strings(seed, n):
    """n strings, most short, all from the seed alone."""
    r = random.Random(seed)
    for _ in range(n):
        yield "".join(make(r) for make in r.choices(MAKERS, WEIGHTS, k=r.choice([1, 2, 3, 4, 6, 10, 20])))
