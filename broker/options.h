/* options.h - parses assayd's command line, once. Options that are not built in are refused by
 * name. */
#ifndef ASSAY_OPTIONS_H
#define ASSAY_OPTIONS_H

#include <stdint.h>

#include "schema/adapters.h"

#define OPTIONS_MAX_ENDPOINTS 8
#define OPTIONS_MAX_REPLICAS 16
#define OPTIONS_MAX_GPUS 256
#define OPTIONS_MAX_RANKS 16 /* of a group */

enum options_device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

#define OPTIONS_MAX_MODELS 8
#define OPTIONS_MOST 80 /* kinds of options */

struct options {
    const char *config; /* a file of options; NULL: none */
    char *config_text;  /* what values from it point into */
    int config_lines
        [OPTIONS_MOST]; /* where each option is there; 0: it is not, or not from there */
    struct {
        const char *dir;
        char name[ADAPTERS_NAME_BYTES]; /* "": by the directory, or --served-name */
    } models[OPTIONS_MAX_MODELS];
    int n_models;
    const char *data, *served_name, *chat_template, *template_date, *worker, *isa, *quant, *dtype,
        *weights, *activations, *head, *pad_rule, *recipe, *tail;
    const char *http;              /* HOST:PORT of an assay-http; NULL: none */
    const char *const *http_words; /* its other options, what follows `--` */
    int n_http_words;
    const char *listen[OPTIONS_MAX_ENDPOINTS];
    int n_listen;
    const char *loras[ADAPTERS_MOST]; /* NAME=DIR or MODEL/NAME=DIR, in this order */
    uint32_t n_loras;
    enum options_device device;
    int gpus[OPTIONS_MAX_GPUS], n_gpus; /* n_gpus 0: not given */
    int tp, pp, replicas, threads, max_batch_tokens, max_len, hang_ms, start_ms, log_level,
        log_json;
    int64_t min_free_bytes, max_message_bytes, max_rows_per_message, max_queued_bytes;
    int exit_with_parent; /* 0: no; the parent's process id; -1: whichever parent it has */
    int64_t score_cache;  /* bytes; 0: none */
    int64_t kv_cache;     /* bytes of each rank; 0: none */
    int64_t session_bytes;
    int64_t retain_s, retain_ephemeral_s; /* of jobs that are over; retain_s 0: for ever */
    int insecure_loopback, no_prefix_sharing, no_dedupe, help, version;
};

/* Returns 0, or an exit code after printing the error to stderr. Defaults that depend on the
 * machine (data, worker, threads, replicas, max_batch_tokens) stay NULL or 0. */
int options_parse(struct options *o, int argc, char **argv);
void options_release(struct options *o);
void options_print_help(void);
/* NAME=DIR of the i-th --lora, if it is this model's; else NULL. */
const char *options_lora_of(const struct options *o, uint32_t i, const char *model);

/* The parts of the help text, for the man page: the same text as on the terminal. */
extern const char options_about[], options_examples[], options_signals[], options_exit_codes[];
struct option_help {
    const char *name, *argument, *help; /* argument NULL: none */
    int may_lack;                       /* the argument is optional, and follows '=' */
};
int options_describe(int k, struct option_help *out); /* the k-th: 1, or 0: there are fewer */

#endif
