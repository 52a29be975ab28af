"""Measures and prints one table: each figure as a ratio to a ceiling or a peer taken in the same run.

    make bench                                    everything (FIGURES below); README.md here says what each one is
    make bench WHAT="b1 c1"                       some of it
    make bench OUT=DIR                            where results.json, README.md and plots/ go (default build/bench/out)
    make bench PEER_PYTHON=PYTHON PEER_LLAMA=DIR PEER_VLLM=PYTHON  with peers that are not installed by `make deps`

A new figure is a function that yields Row and Chart (common.py), named here with what it measures.
"""
import argparse
import datetime
import pathlib
import sys
import time
import traceback

import common
import area_forward
import area_growth
import area_http
import area_load
import area_queue
import area_saved
import area_search
import area_text
import area_vllm
import page

FIGURES = {
    "b1": (area_forward.b1, "matrix products / peak of fused multiply-adds"),
    "att": (area_forward.attention, "attention / peak of fused multiply-adds"),
    "b2": (area_forward.b2, "OpenBLAS sgemm on the products alone / the whole forward"),
    "b3": (area_forward.b3, "tokens/s of the forward / llama.cpp and transformers"),
    "b4": (area_forward.b4, "tokens/s of the forward in int8 / what float32's fused multiply-adds allow"),
    "q4": (area_forward.q4, "products with 4-bit weights / the same with bfloat16 weights"),
    "c1": (area_queue.c1, "durable rows/s through the socket / the disk alone, beanstalkd, Redis Streams"),
    "e1": (area_queue.e1, "claim, finish and restart with DEPTH rows queued (default a million) / a thousand"),
    "f1": (area_forward.f1, "best of N with its prompt shared / without, / the ideal"),
    "f2": (area_search.f2, "a beam search by sessions with a KV cache / its rows sent whole without"),
    "v1": (area_vllm.v1, "tokens/s / vLLM on the CPU, form by form"),
    "v2": (area_http.v2, "samples posted one a request through assay-http / one job of the same rows; assay-http / vllm serve"),
    "v3": (area_vllm.v3, "rows whose score changes with its batch, ours and vLLM's"),
    "g1": (area_load.g1, "weights mapped and used / read() of the same file"),
    "h1": (area_load.h1, "weights + bound of the activations / peak memory of a worker"),
    "len": (area_growth.length, "share of the peak over the length of a row"),
    "batch": (area_growth.batch, "share of the peak over the tokens of a batch"),
    "tp": (area_growth.ranks, "tokens/s over the ranks that share a model"),
    "rep": (area_growth.replicas, "tokens/s over the replicas of a model"),
    "pp": (area_growth.stages, "how long pipeline stages idle"),
    "lora": (area_saved.lora, "tokens/s over the adapters of a batch / the base alone"),
    "append": (area_saved.append, "a row sent whole / appended to its session, over its length"),
    "hits": (area_saved.hits, "what the score cache has, over jobs"),
    "t1": (area_text.t1, "tokenizer / the tokenizers package"),
    "d2": (area_forward.d2, "tokens/s from submit to last result / the forward in process; d1: how long the rank idled"),
}


def measure(name):
    """A figure's rows and charts; progress on standard error."""
    function, what = FIGURES[name]
    print(f"{datetime.datetime.now():%H:%M:%S} {name}: {what}", file=sys.stderr, flush=True)
    start = time.monotonic()
    found = list(function())
    common.say(f"{name} took {time.monotonic() - start:.0f} s")
    return [f for f in found if isinstance(f, common.Row)], [f for f in found if isinstance(f, common.Chart)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(FIGURES)} (default all)")
    parser.add_argument("--out", type=pathlib.Path, default=common.SCRATCH / "out", help="directory of the results (default build/bench/out)")
    args = parser.parse_args()
    unknown = [name for name in args.what if name not in FIGURES]
    if unknown:
        parser.error(f"expected some of {', '.join(FIGURES)}, found {', '.join(unknown)}")
    results = page.Results(args.out)
    names, failed, start = args.what or list(FIGURES), [], time.monotonic()
    for name in names:
        try:
            results.put(name, *measure(name))
            results.write(list(FIGURES))
        except (Exception, SystemExit) as error:  # the others are worth having all the same
            traceback.print_exc()
            failed.append(f"{name} ({type(error).__name__})")
    common.say(f"{len(names)} figures took {(time.monotonic() - start) / 60:.1f} minutes")
    print(results.table(names))
    if failed:
        print(f"\nnot measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
