"""The peer of v1 and v3: vLLM on the CPU, with a checkpoint of one score a row. Needs vLLM (tests/reference/rules.mk installs it).

    peer_vllm.py --model DIR --tokenizer DIR [--dtype float32] [--eager] [--lora DIR ..] [--tokens 512] [--batch-tokens 2048]

Says {"ready": ..} once the model is there, and then reads lines of JSON, {"ids": [[..], ..], "adapters": [N, ..]}: rows, and for
each the number of its adapter (-1: none). For each line it scores the rows, and says {"seconds": .., "values": [..]}. An error is
a line, too. Threads: OMP_NUM_THREADS.
"""
import argparse
import contextlib
import json
import os
import pathlib
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", VLLM_TARGET_DEVICE="cpu", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR",
                  VLLM_NO_USAGE_STATS="1", TRANSFORMERS_VERBOSITY="error")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def open_model(args):
    import torch
    import vllm
    from vllm.config import PoolerConfig
    from vllm.lora.request import LoRARequest
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    lora = dict(enable_lora=True, max_loras=len(args.lora), max_lora_rank=args.rank) if args.lora else {}
    model = vllm.LLM(model=args.model, runner="pooling", tokenizer=args.tokenizer, dtype=args.dtype, enforce_eager=args.eager,
                     max_model_len=args.tokens, max_num_batched_tokens=args.batch_tokens, max_num_seqs=64, enable_prefix_caching=False,
                     disable_log_stats=True, pooler_config=PoolerConfig(task="classify", seq_pooling_type="LAST"), **lora)
    params = vllm.PoolingParams(use_activation=False)
    loras = [LoRARequest(pathlib.Path(path).name, k + 1, path) for k, path in enumerate(args.lora)] + [None]

    def score(ids, adapters):
        found = model.encode([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False, pooling_task="classify",
                             lora_request=[loras[k] for k in adapters or [-1] * len(ids)] if args.lora else None)
        return [float(out.outputs.data.flatten()[0]) for out in found]

    compiled = str(model.llm_engine.vllm_config.compilation_config.mode)
    return score, {"vllm": vllm.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(), "compilation": compiled}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the checkpoint's directory")
    parser.add_argument("--tokenizer", required=True, help="a directory with one; rows are ids, and nothing is written by it")
    parser.add_argument("--dtype", default="float32", help="of vLLM (default float32)")
    parser.add_argument("--eager", action="store_true", help="without its compiler")
    parser.add_argument("--lora", nargs="*", default=[], help="directories of adapters")
    parser.add_argument("--rank", type=int, default=16, help="the adapters' largest rank (default 16)")
    parser.add_argument("--tokens", type=int, default=512, help="of the longest row (default 512)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="of a batch (default 2048)")
    args = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is not an answer

    def say(what):
        print(json.dumps(what), file=out, flush=True)

    try:
        with contextlib.redirect_stdout(sys.stderr):
            score, facts = open_model(args)
    except BaseException as why:  # noqa: BLE001: whatever vLLM says
        say({"error": f"{type(why).__name__}: {why}"})
        raise SystemExit(1) from why
    say({"ready": facts})
    for line in sys.stdin:
        asked, start = json.loads(line), time.perf_counter()
        try:
            values = score(asked["ids"], asked.get("adapters"))
            say({"seconds": time.perf_counter() - start, "values": values})
        except BaseException as why:  # noqa: BLE001
            say({"error": f"{type(why).__name__}: {why}"})
            raise SystemExit(1) from why


if __name__ == "__main__":
    main()
