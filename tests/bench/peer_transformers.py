"""The peer of b3: tokens/s of transformers in float32 on the CPU, all cores, one batch of equal rows at a time. Needs PyTorch.

    peer_transformers.py --model DIR [--rows N] [--tokens N] [--batch N]

Prints one line of JSON. Only the shape is taken from DIR: for timing, what the weights are does not matter.
"""
import argparse
import json
import time

import torch
import transformers


@torch.no_grad()
def tokens_per_s(model, rows, tokens, batch):
    """Rate over as many whole batches as `rows` holds, after one to warm up."""
    ids = torch.randint(0, model.config.vocab_size, (batch, tokens))
    model(input_ids=ids, use_cache=False)
    n = max(1, rows // batch)
    start = time.perf_counter()
    for _ in range(n):
        model(input_ids=ids, use_cache=False)
    return n * batch * tokens / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a checkpoint, for its config.json")
    parser.add_argument("--rows", type=int, default=16, help="rows in all (default 16)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a row (default 512)")
    parser.add_argument("--batch", type=int, default=4, help="rows at a time (default 4)")
    args = parser.parse_args()
    model = transformers.Qwen2Model(transformers.AutoConfig.from_pretrained(args.model)).float().eval()
    print(json.dumps({"tokens_per_s": tokens_per_s(model, args.rows, args.tokens, args.batch),
                      "threads": torch.get_num_threads(), "torch": torch.__version__,
                      "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
