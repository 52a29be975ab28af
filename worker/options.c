/* options.c - reads the options of assay-worker from a table, and checks them (options.h). */
#include "worker/options.h"

#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "schema/log.h"

const char worker_help[] =
    "assay-worker - one rank of a worker group; assayd starts it\n\n"
    "Examples:\n"
    "  assay-worker --describe --model ./my-reward-model\n\n"
    "Options:\n"
    "  --describe              check the checkpoint, describe it as JSON, exit\n"
    "  --model DIR             checkpoint: config.json and safetensors\n"
    "  --tp N                  ranks that share every matrix (default 1)\n"
    "  --pp N                  pipeline stages, each of so many ranks (default 1)\n"
    "  --quant METHOD          none, fp8 (on GPUs) or int8 (default none)\n"
    "  --dtype TYPE            type of the layers' products: auto, or f32 or bf16 (on the CPU)\n"
    "  --weights WHICH         auto; single or index where a checkpoint has both\n"
    "  --activations WHICH     auto; as-stored or weights-only where a config quantizes them\n"
    "  --head HEAD             auto; lm:ID,ID:softmax and such for a language model\n"
    "  --lora NAME=DIR         an adapter that rows may choose; may be repeated\n"
    "  --kv-cache BYTES        for keys and values kept from batch to batch (default 0: none)\n"
    "  --max-len N              longest row in tokens (default: the model's)\n"
    "  --digest-cache FILE     file that keeps the checkpoint's digest\n"
    "  --log-level LEVEL       error, warn, info or debug (default info)\n"
    "  --log-format FORM       text or json (default text)\n"
    "  --rank N --control ENDPOINT --incarnation N --input-fd N --output-fd N --comm-fd N\n"
    "  --pipeline-fd N --parent-fd N --threads N --max-batch-tokens N --max-rows N --isa NAME "
    "--deadline-ms N\n"
    "  --start-ms N\n"
    "  --gpu N --cache-dir DIR --digest HEX --identity HEX --lora-digest HEX\n"
    "                          set by assayd\n";

struct known_option {
    const char *name;
    enum { TEXT, NUMBER, BYTES, FLAG, LIST } kind;
    void *to; /* const char *, long or struct worker_list */
};

__attribute__((format(printf, 1, 2))) static int usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "assay-worker: ");
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return EX_USAGE;
}

static int check_options(const struct worker_options *o)
{
    if (!o->model)
        return usage("expected --model DIR, found none");
    if (log_level_from_name(o->log_level) < 0)
        return usage("--log-level: expected error, warn, info or debug, found '%s'", o->log_level);
    if (strcmp(o->log_format, "text") != 0 && strcmp(o->log_format, "json") != 0)
        return usage("--log-format: expected text or json, found '%s'", o->log_format);
    if (strcmp(o->weights, "auto") != 0 && strcmp(o->weights, "single") != 0 &&
        strcmp(o->weights, "index") != 0)
        return usage("--weights: expected auto, single or index, found '%s'", o->weights);
    for (uint32_t i = 0; i < o->loras.n; i++)
        if (!adapters_name_of(o->loras.at[i]))
            return usage("--lora: expected NAME=DIR, NAME of letters, digits, '.', '_' and '-', "
                         "found '%s'",
                o->loras.at[i]);
    if (!o->describe && (o->tp < 1 || o->pp < 1 || o->rank >= o->tp * o->pp))
        return usage("--rank %ld: expected one of --tp %ld times --pp %ld", o->rank, o->tp, o->pp);
    if (!o->describe && (!o->control || o->input_fd < 0 || o->output_fd < 0 || o->parent_fd < 0 ||
                            (o->tp > 1 && o->comm_fd < 0) || (o->pp > 1 && o->pipeline_fd < 0)))
        return usage("expected --control and the descriptors that assayd hands over; "
                     "see `assay-worker --help`");
    return 0;
}

static int set_option(const struct known_option *k, char *text)
{
    char *end;
    if (k->kind == TEXT) {
        *(const char **)k->to = text;
    } else if (k->kind == LIST) {
        struct worker_list *list = k->to;
        if (list->n == ADAPTERS_MOST)
            return usage("--%s: expected at most %d of them", k->name, ADAPTERS_MOST);
        list->at[list->n++] = text;
    } else if (k->kind == FLAG) {
        *(long *)k->to = 1;
    } else {
        long value = strtol(text, &end, 10), most = k->kind == BYTES ? LONG_MAX - 1 : INT32_MAX;
        if (*end != '\0' || end == text || value < 0 || value > most)
            return usage("--%s: expected a number, found '%s'", k->name, text);
        *(long *)k->to = value;
    }
    return 0;
}

int worker_options_parse(struct worker_options *o, int argc, char **argv)
{
    *o = (struct worker_options){.isa = "auto",
        .log_level = "info",
        .log_format = "text",
        .quant = "none",
        .dtype = "auto",
        .weights = "auto",
        .activations = "auto",
        .head = "auto",
        .tp = 1,
        .pp = 1,
        .threads = 1,
        .input_fd = -1,
        .output_fd = -1,
        .comm_fd = -1,
        .pipeline_fd = -1,
        .parent_fd = -1,
        .max_batch_tokens = 4096,
        .max_rows = 4096,
        .deadline_ms = 60000,
        .start_ms = 600000};
    const struct known_option table[] = {{"model", TEXT, &o->model}, {"control", TEXT, &o->control},
        {"isa", TEXT, &o->isa}, {"digest-cache", TEXT, &o->digest_cache},
        {"log-level", TEXT, &o->log_level}, {"log-format", TEXT, &o->log_format},
        {"describe", FLAG, &o->describe}, {"help", FLAG, &o->help}, {"rank", NUMBER, &o->rank},
        {"tp", NUMBER, &o->tp}, {"pp", NUMBER, &o->pp}, {"pipeline-fd", NUMBER, &o->pipeline_fd},
        {"incarnation", NUMBER, &o->incarnation}, {"input-fd", NUMBER, &o->input_fd},
        {"output-fd", NUMBER, &o->output_fd}, {"comm-fd", NUMBER, &o->comm_fd},
        {"parent-fd", NUMBER, &o->parent_fd}, {"threads", NUMBER, &o->threads},
        {"max-batch-tokens", NUMBER, &o->max_batch_tokens}, {"max-len", NUMBER, &o->max_len},
        {"max-rows", NUMBER, &o->max_rows}, {"deadline-ms", NUMBER, &o->deadline_ms},
        {"start-ms", NUMBER, &o->start_ms}, {"gpu", NUMBER, &o->gpu},
        {"kv-cache", BYTES, &o->kv_cache}, {"cache-dir", TEXT, &o->cache_dir},
        {"quant", TEXT, &o->quant}, {"dtype", TEXT, &o->dtype}, {"weights", TEXT, &o->weights},
        {"activations", TEXT, &o->activations}, {"head", TEXT, &o->head},
        {"digest", TEXT, &o->digest}, {"identity", TEXT, &o->identity}, {"lora", LIST, &o->loras},
        {"lora-digest", LIST, &o->lora_digests}};
    enum { N = sizeof table / sizeof table[0] };
    struct option list[N + 1] = {{0}};
    for (int i = 0; i < N; i++)
        list[i] = (struct option){
            table[i].name, table[i].kind == FLAG ? no_argument : required_argument, NULL, i};
    int found;
    while ((found = getopt_long(argc, argv, "", list, NULL)) != -1) {
        if (found < 0 || found >= N)
            return usage("see `assay-worker --help`");
        int rc = set_option(&table[found], optarg);
        if (rc != 0)
            return rc;
    }
    if (optind < argc)
        return usage("unexpected argument '%s'", argv[optind]);
    return o->help ? 0 : check_options(o);
}
