"""The peer of b3 and a4: tokens/s of transformers in float32 or bfloat16 on the CPU, all cores, or with --cuda in bfloat16 with SDPA on a GPU. Needs
PyTorch.

    peer_transformers.py --model DIR [--bf16 | --cuda] [--rows N] [--lengths N,N,..] [--batch N]

Prints one line of JSON. Only the shape is taken from DIR: for timing, what the weights are does not matter.
"""
import argparse
import json
import time

import torch
import transformers


@torch.no_grad()
def tokens_per_s(model, rows, lengths, batch):
    """Rate over as many whole batches as `rows` holds, after one to warm up. Rows take the lengths by turns; shorter ones are padded."""
    lengths = [lengths[i % len(lengths)] for i in range(batch)]
    ids = torch.randint(0, model.config.vocab_size, (batch, max(lengths)), device=model.device)
    mask = torch.tensor([[k < n for k in range(max(lengths))] for n in lengths], device=model.device).long()
    given = {"input_ids": ids} if min(lengths) == max(lengths) else {"input_ids": ids, "attention_mask": mask}

    def finish():
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    model(**given, use_cache=False)
    finish()
    n = max(1, rows // batch)
    start = time.perf_counter()
    for _ in range(n):
        model(**given, use_cache=False)
    finish()
    return n * sum(lengths) / (time.perf_counter() - start)


def make_model(directory, cuda, bf16):
    config = transformers.AutoConfig.from_pretrained(directory)
    if not cuda:
        return transformers.Qwen2Model(config).to(torch.bfloat16 if bf16 else torch.float32).eval()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return transformers.Qwen2Model._from_config(config, attn_implementation="sdpa").eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a checkpoint, for its config.json")
    parser.add_argument("--rows", type=int, default=16, help="rows in all (default 16)")
    parser.add_argument("--tokens", "--lengths", default="512", help="tokens of the rows, by turns (default 512)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 on the CPU")
    parser.add_argument("--cuda", action="store_true", help="bfloat16 on the GPU")
    parser.add_argument("--batch", type=int, default=4, help="rows at a time (default 4)")
    args = parser.parse_args()
    model = make_model(args.model, args.cuda, args.bf16)
    lengths = [int(n) for n in args.tokens.split(",")]
    print(json.dumps({"tokens_per_s": tokens_per_s(model, args.rows, lengths, args.batch),
                      "threads": torch.get_num_threads(), "torch": torch.__version__,
                      "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
