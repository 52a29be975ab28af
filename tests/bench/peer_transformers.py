"""The peer of b3: tokens/s of transformers in float32 on the CPU, all cores, one batch of equal rows at a time. Needs PyTorch.

    peer_transformers.py MODEL ROWS TOKENS BATCH
"""
import json
import sys
import time

import torch
import transformers


@torch.no_grad()
def main():
    model_dir, rows, tokens, batch = sys.argv[1], *map(int, sys.argv[2:5])
    config = transformers.AutoConfig.from_pretrained(model_dir)
    model = transformers.Qwen2Model(config).float().eval()  # same shape; which numbers does not matter for timing
    ids = torch.randint(0, config.vocab_size, (batch, tokens))
    model(input_ids=ids[:1], use_cache=False)
    start = time.perf_counter()
    for _ in range(rows // batch):
        model(input_ids=ids, use_cache=False)
    took = time.perf_counter() - start
    print(json.dumps({"tokens_per_s": rows // batch * batch * tokens / took, "threads": torch.get_num_threads(),
                      "torch": torch.__version__, "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
