/* serve.h - the main loop of one rank: options, model, READY, then slots until stop. main.c calls
 * worker_main with the CPU table; tests wrap a table of their own around it. The code below this
 * (model, ops) builds without ZeroMQ. */
#ifndef ASSAY_SERVE_H
#define ASSAY_SERVE_H

#include "worker/ops.h"

/* Runs the process and returns its exit code (serve.c lists them). --help documents argv:
 *
 *     assay-worker --describe --model DIR [--tp N] [--max-len N] [--digest-cache FILE]
 *
 * checks config and every tensor's name, shape and dtype, prints one line of JSON (describe.h) and
 * exits 0; a bad checkpoint: exit 78 and one line on stderr.
 *
 *     assay-worker --model DIR --rank R --tp N --control ENDPOINT --incarnation N --input-fd N
 *                  --output-fd N --comm-fd N --parent-fd N [--threads N] [--max-batch-tokens N]
 *                  [--max-len N] [--max-rows N] [--isa NAME] [--deadline-ms N] [--digest HEX]
 *                  [--identity HEX]
 *
 * serves slots. */
int worker_main(int argc, char **argv, const struct ops *ops);

#endif
