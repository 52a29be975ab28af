"""What AutoTokenizer makes of the variants of tests/text/side_files.py: tests/vectors/text/side_files.json, {type/variant: ids of each
text, or the name of the error}. Needs transformers and no network:
    HF_HUB_OFFLINE=1 python tests/reference/make_side_vectors.py"""
import json
import pathlib
import sys
import tempfile

import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/text"))
import side_files  # noqa: E402


def ask(variant, model_type):
    with tempfile.TemporaryDirectory() as root:
        directory = pathlib.Path(root) / "m"
        side_files.write(directory, variant, model_type)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
            return [tokenizer(text)["input_ids"] for text in side_files.TEXTS]
        except Exception as e:
            return type(e).__name__


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    cases = {f"{t}/{name}": ask(v, t) for t in side_files.TYPES for name, v in side_files.VARIANTS.items()}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in cases.items())
    made = f"tests/reference/make_side_vectors.py, transformers {transformers.__version__}"
    (ROOT / "tests/vectors/text/side_files.json").write_text(f'{{"made": "{made}",\n"cases": {{\n{lines}}}}}\n')
