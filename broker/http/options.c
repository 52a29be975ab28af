/* options.c - see options.h. One table serves both parsing and help. */
#include "broker/http/options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "schema/log.h"
#include "schema/suggest.h"
#include "schema/utf8.h"

enum kind { TEXT, NUMBER, NAME, LEVEL, FORM };

static const struct {
    const char *name, *argument, *help;
    enum kind kind;
    size_t at;
    int64_t min, max;
} table[] = {
    {"connect", "ENDPOINT", "the broker: ipc:///PATH, or tcp://HOST:PORT", TEXT,
        offsetof(struct http_options, connect), 0, 0},
    {"data", "DIR",
        "or the broker's data directory (default $XDG_STATE_HOME/assay, or ~/.local/state/assay)",
        TEXT, offsetof(struct http_options, data), 0, 0},
    {"listen", "HOST:PORT",
        "where clients connect (default 127.0.0.1:8000; port 0: any free one, which the log says); "
        "a socket that systemd passes (LISTEN_FDS) takes its place",
        TEXT, offsetof(struct http_options, listen), 0, 0},
    {"served-model-name", "NAME",
        "the first model's name in requests; may be repeated (default: the broker's name of it)",
        NAME, 0, 0, 0},
    {"api-keys", "FILE",
        "names and bearer tokens, one pair a line; required to listen beyond this machine", TEXT,
        offsetof(struct http_options, api_keys), 0, 0},
    {"tls-cert", "FILE", "certificate chain in PEM; with it all is HTTPS", TEXT,
        offsetof(struct http_options, tls_cert), 0, 0},
    {"tls-key", "FILE", "its private key in PEM", TEXT, offsetof(struct http_options, tls_key), 0,
        0},
    {"files", "DIR",
        "where uploaded files and batches are kept, of this user alone; without it /v1/files and "
        "/v1/batches are refused",
        TEXT, offsetof(struct http_options, files), 0, 0},
    {"max-file-bytes", "N", "largest file of an upload (default 512 MiB)", NUMBER,
        offsetof(struct http_options, max_file_bytes), 1024, 1ll << 40},
    {"max-body-bytes", "N", "largest body of a request (default 16 MiB)", NUMBER,
        offsetof(struct http_options, max_body_bytes), 1024, 1 << 30},
    {"max-connections", "N", "most connections at a time (default 4096)", NUMBER,
        offsetof(struct http_options, max_connections), 1, 1 << 20},
    {"timeout", "SECONDS", "longest time for the scores of a request (default 600)", NUMBER,
        offsetof(struct http_options, timeout_s), 1, 86400},
    {"log-level", "LEVEL", "error, warn, info or debug (default info)", LEVEL, 0, 0, 0},
    {"log-format", "FORM", "text or json: the form of log lines (default text)", FORM, 0, 0, 0},
};

const char http_about[] =
    "answers HTTP clients of reward models and rerankers with a broker's scores";
const char http_examples[] =
    "  assayd --model ./my-reward-model --data assay-data &\n"
    "  assay-http --data assay-data --listen 127.0.0.1:8000 &\n"
    "  curl -s localhost:8000/classify -H 'Content-Type: application/json' \\\n"
    "    -d '{\"input\": \"3 + 4 = 7\"}'\n"
    "  assay-http --data assay-data --listen 0.0.0.0:8443 --api-keys keys.txt \\\n"
    "    --tls-cert cert.pem --tls-key key.pem\n"
    "  assay-http --data assay-data --files assay-files   # with OpenAI's files and batches\n"
    "  assayd --model ./my-reward-model --http 127.0.0.1:8000   # both at once\n";
const char http_signals[] =
    "SIGTERM and SIGINT end it when the requests under way have their replies, or after five "
    "seconds.";
const char http_exit_codes[] =
    "0 ended by a signal; 64 usage; 69 cannot listen or connect, or the folder of --files is in "
    "use; 78 a file that an option names cannot be used.";

#define N_OPTIONS ((int)(sizeof table / sizeof table[0]))

static int usage(const char *name, const char *expected, const char *found)
{
    fprintf(stderr, "assay-http: --%s: expected %s, found '%s'\n", name, expected, found);
    return EX_USAGE;
}

static int take_number(struct http_options *o, int k, const char *text)
{
    char *end, expected[80];
    errno = 0;
    long long v = strtoll(text, &end, 10);
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)table[k].min,
        (long long)table[k].max);
    if (errno != 0 || end == text || *end || v < table[k].min || v > table[k].max)
        return usage(table[k].name, expected, text);
    *(int64_t *)((char *)o + table[k].at) = v;
    return 0;
}

static int has_control(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 127)
            return 1;
    return 0;
}

static int take_name(struct http_options *o, const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || o->n_names == CARD_MAX_NAMES || has_control(text) ||
        utf8_valid((const uint8_t *)text, len) < len)
        return usage("served-model-name",
            "at most 16 names in UTF-8, none of them empty or with control characters", text);
    o->names[o->n_names++] = text;
    return 0;
}

static int take(struct http_options *o, int k, const char *text)
{
    switch (table[k].kind) {
    case NUMBER:
        return take_number(o, k, text);
    case NAME:
        return take_name(o, text);
    case LEVEL:
        o->log_level = log_level_from_name(text);
        return o->log_level < 0 ? usage("log-level", "error, warn, info or debug", text) : 0;
    case FORM:
        o->log_json = strcmp(text, "json") == 0;
        return o->log_json || strcmp(text, "text") == 0 ? 0
                                                        : usage("log-format", "text or json", text);
    default:
        *(const char **)((char *)o + table[k].at) = text;
        return *text ? 0 : usage(table[k].name, table[k].argument, text);
    }
}

static int check_together(const struct http_options *o)
{
    if (o->connect && o->data)
        return fprintf(stderr, "assay-http: expected --connect or --data, found both\n"), EX_USAGE;
    if (!o->tls_cert != !o->tls_key)
        return fprintf(stderr, "assay-http: expected both --tls-cert and --tls-key, found one\n"),
               EX_USAGE;
    return 0;
}

int http_options_parse(struct http_options *o, int argc, char **argv)
{
    struct option list[N_OPTIONS + 3] = {{0}};
    int found, rc;
    *o = (struct http_options){.listen = "127.0.0.1:8000",
        .max_body_bytes = 16 << 20,
        .max_connections = 4096,
        .max_file_bytes = 512 << 20,
        .timeout_s = 600,
        .log_level = LOG_LEVEL_INFO};
    for (int i = 0; i < N_OPTIONS; i++)
        list[i] = (struct option){table[i].name, required_argument, NULL, i + 256};
    list[N_OPTIONS] = (struct option){"help", no_argument, NULL, 'h'};
    list[N_OPTIONS + 1] = (struct option){"version", no_argument, NULL, 'V'};
    opterr = 0;
    while ((found = getopt_long(argc, argv, ":h", list, NULL)) != -1) {
        char wrong[256];
        if (found == 'h' || found == 'V') {
            *(found == 'h' ? &o->help : &o->version) = 1;
        } else if (found < 256) {
            suggest_explain(list, found, argv, wrong, sizeof wrong);
            return fprintf(stderr, "assay-http: %s; see `assay-http --help`\n", wrong), EX_USAGE;
        } else if ((rc = take(o, found - 256, optarg)) != 0) {
            return rc;
        }
    }
    if (optind < argc)
        return fprintf(stderr, "assay-http: unexpected argument '%s'\n", argv[optind]), EX_USAGE;
    return check_together(o);
}

int http_options_describe(int k, struct option_help *out)
{
    static const struct option_help more[] = {
        {"help", NULL, "this text", 0}, {"version", NULL, "the version", 0}};
    if (k >= N_OPTIONS + 2)
        return 0;
    if (k >= N_OPTIONS)
        *out = more[k - N_OPTIONS];
    else
        *out = (struct option_help){table[k].name, table[k].argument, table[k].help, 0};
    return 1;
}

void http_options_print_help(void)
{
    struct option_help o;
    printf("assay-http - %s\n\nExamples:\n%s\nOptions:\n", http_about, http_examples);
    for (int k = 0; http_options_describe(k, &o); k++) {
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", o.name, o.argument ? " " : "",
            o.argument ? o.argument : "");
        printf("  %-28s %s\n", left, o.help);
    }
    printf("\n%s\n\nExit codes: %s\n", http_signals, http_exit_codes);
}
