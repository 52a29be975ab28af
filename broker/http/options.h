/* options.h - assay-http's command line. */
#ifndef ASSAY_HTTP_OPTIONS_H
#define ASSAY_HTTP_OPTIONS_H

#include <stdint.h>

#include "broker/ask/card.h"
#include "broker/options.h"

struct http_options {
    const char *connect, *data, *listen, *api_keys, *tls_cert, *tls_key, *files;
    const char *names[CARD_MAX_NAMES]; /* --served-model-name */
    int n_names;
    int64_t max_body_bytes, timeout_s, max_connections, max_file_bytes, log_level;
    int log_json;
    int help, version;
};

/* Returns 0, or an exit code after printing the error to stderr. */
int http_options_parse(struct http_options *o, int argc, char **argv);
void http_options_print_help(void);

/* The parts of the help text, for the man page. */
extern const char http_about[], http_examples[], http_signals[], http_exit_codes[];
int http_options_describe(int k, struct option_help *out); /* the k-th: 1, or 0: there are fewer */

#endif
