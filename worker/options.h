/* options.h - the command line of assay-worker. assayd writes it; people seldom do. */
#ifndef ASSAY_WORKER_OPTIONS_H
#define ASSAY_WORKER_OPTIONS_H

#include <stdint.h>

#include "schema/adapters.h"

struct worker_options {
    const char *model, *control, *isa, *digest_cache, *log_level, *log_format, *cache_dir, *quant,
        *dtype, *weights, *activations, *head;
    const char *digest, *identity; /* what the broker knows of the checkpoint; NULL: nothing */
    long describe, help, rank, tp, incarnation, input_fd, output_fd, comm_fd, parent_fd, threads,
        max_batch_tokens, max_len, max_rows, deadline_ms, start_ms, gpu, kv_cache, pp, pipeline_fd;
    /* Adapters, NAME=DIR, and their digests as far as the broker knows them, in the same order. */
    struct worker_list {
        const char *at[ADAPTERS_MOST];
        uint32_t n;
    } loras, lora_digests;
};

extern const char worker_help[];

/* Fills in *o, with defaults for what argv leaves out; texts point into argv. Returns 0, or
 * EX_USAGE after a message on stderr. With --help, the rest is not checked. */
int worker_options_parse(struct worker_options *o, int argc, char **argv);

#endif
