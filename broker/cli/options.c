/* options.c - every option of `assay`, once: parsing (getopt_long) and help are made from this
 * table. */
#include "broker/cli/cli.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const char *argument; /* NULL: a flag */
    const char *help;
} option_table[CLI_OPTION_COUNT] = {
    [CLI_CONNECT] = {"connect", "ENDPOINT", "broker to talk to (default ipc://<data>/broker.sock)"},
    [CLI_DATA] = {"data", "DIR", "data directory (default $XDG_STATE_HOME/assay)"},
    [CLI_JSON] = {"json", NULL, "print JSON"},
    [CLI_TIMEOUT] = {"timeout", "S", "give up after S seconds without an answer (default 15)"},
    [CLI_HELP] = {"help", NULL, "this text"},
    [CLI_OUTPUT] = {"output", "FILE", "where results go, - for stdout (default -)"},
    [CLI_MODEL] = {"model", "DIR", "checkpoint: run a private broker with it"},
    [CLI_KEY] = {"key", "KEY", "the job's name; the same key goes on with the same job"},
    [CLI_KEEP_INPUT] = {"keep-input", NULL, "put the input line into the output line, as `input`"},
    [CLI_ORDER] = {"order", "input|completion", "order of the output lines (default input)"},
    [CLI_PRIORITY] = {"priority", "N", "-100 to 100, larger first (default 0)"},
    [CLI_POOL] = {"pool", "TYPE", "LAST, ALL, STEP, MEAN or CLS (default the architecture's)"},
    [CLI_STEP_TOKEN] = {"step-token", "ID", "token that ends a step, for STEP"},
    [CLI_ACTIVATION] = {"activation", "NAME",
        "none, softmax or sigmoid (default the architecture's)"},
    [CLI_TRUNCATE] = {"truncate", NULL, "cut rows longer than the limit instead of failing them"},
    [CLI_SAFE_TEXT] = {"safe-text", NULL, "control tokens written out in the text stay text"},
    [CLI_CHAT_TEMPLATE] = {"chat-template", "NAME",
        "chat format, where the checkpoint's is not known"},
    [CLI_JSONL] = {"jsonl", "FILE", "one text a line: {\"text\": ..} in, {\"ids\": [..]} out"},
    [CLI_TP] = {"tp", "N", "tensor-parallel ranks of the private broker (default 1)"},
    [CLI_THREADS] = {"threads", "N", "threads of the private broker's ranks (default all cores)"},
    [CLI_MAX_BATCH_TOKENS] = {"max-batch-tokens", "N", "tokens of one batch (default 4096)"},
    [CLI_MAX_LEN] = {"max-len", "N", "longest row in tokens (default the model's)"},
    [CLI_WORKER] = {"worker", "PATH", "worker program of the private broker"},
    [CLI_FOLLOW] = {"follow", NULL, "wait for rows that are not finished yet"},
    [CLI_AFTER] = {"after", "CURSOR", "start after this cursor (default 0)"},
    [CLI_WATCH] = {"watch", NULL, "print again every second until the job is done"},
    [CLI_FAILED] = {"failed", NULL, "the job's failed rows"},
    [CLI_ACCEPT_MODE] = {"accept-mode", NULL,
        "go on with a job begun under another checkpoint or mode"},
};

static const enum cli_option common[] = {
    CLI_CONNECT, CLI_DATA, CLI_JSON, CLI_TIMEOUT, CLI_HELP, CLI_OPTION_COUNT};

static void print_options(const enum cli_option *options)
{
    for (; *options != CLI_OPTION_COUNT; options++) {
        char left[64];
        const char *argument = option_table[*options].argument;
        snprintf(left, sizeof left, "%s--%s%s%s", *options == CLI_OUTPUT ? "-o, " : "",
            option_table[*options].name, argument ? " " : "", argument ? argument : "");
        printf("  %-26s %s\n", left, option_table[*options].help);
    }
}

void cli_print_help(const struct cli_verb *verb)
{
    printf("%s\n\nExamples:\n%s\nUsage: assay %s%s%s [options]\n\nOptions:\n", verb->summary,
        verb->examples, verb->name, verb->operand ? " " : "", verb->operand ? verb->operand : "");
    print_options(verb->options);
    print_options(common);
    printf("\nExit codes: 0 ok, 1 some rows failed, 64 usage, 65 bad data, 66 no input, 69 broker\n"
           "unavailable, 70 bug, 74 I/O, 75 try again later, 77 permission, 78 configuration.\n");
}

static int add_options(struct option *list, int n, const enum cli_option *options)
{
    for (; *options != CLI_OPTION_COUNT; options++)
        list[n++] = (struct option){option_table[*options].name,
            option_table[*options].argument ? required_argument : no_argument, NULL,
            256 + (int)*options};
    return n;
}

static int takes_output(const enum cli_option *options)
{
    for (; *options != CLI_OPTION_COUNT; options++)
        if (*options == CLI_OUTPUT)
            return 1;
    return 0;
}

int cli_parse(struct cli *c, const struct cli_verb *verb, int argc, char **argv)
{
    struct option list[CLI_OPTION_COUNT + 1] = {{0}};
    int n = add_options(list, 0, verb->options);
    add_options(list, n, common);
    const char *shorts = takes_output(verb->options) ? "ho:" : "h";
    int found;
    while ((found = getopt_long(argc, argv, shorts, list, NULL)) != -1) {
        if (found == '?')
            return cli_usage("see `assay %s --help`", verb->name);
        if (found == 'h')
            found = 256 + CLI_HELP;
        if (found == 'o')
            found = 256 + CLI_OUTPUT;
        c->value[found - 256] = optarg ? optarg : "";
    }
    if (c->value[CLI_HELP]) {
        cli_print_help(verb);
        return 1;
    }
    if (optind < argc && verb->operand)
        c->operand = argv[optind++];
    if (optind < argc)
        return cli_usage("%s: unexpected argument '%s'", verb->name, argv[optind]);
    if (verb->operand_needed && !c->operand)
        return cli_usage("%s: expected %s, found nothing", verb->name, verb->operand);
    return 0;
}

int cli_number(
    const struct cli *c, enum cli_option option, long min, long max, long fallback, long *value)
{
    *value = fallback;
    const char *text = c->value[option];
    if (!text)
        return 0;
    char *end;
    long v = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || v < min || v > max)
        return cli_usage("--%s: expected an integer from %ld to %ld, found '%s'",
            option_table[option].name, min, max, text);
    *value = v;
    return 0;
}

int cli_usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("assay: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return EX_USAGE;
}

static int exit_code_of(int code)
{
    switch (code) {
    case ASSAY_EBADMSG:
    case ASSAY_EBADREQ:
    case ASSAY_EUNSUPPORTED:
    case ASSAY_EKEYREUSED:
    case ASSAY_ETOOLONG:
    case ASSAY_ETOOLARGE:
    case ASSAY_EUNKNOWNJOB:
    case ASSAY_ESTATE:
        return EX_DATAERR;
    case ASSAY_EQUEUEFULL:
    case ASSAY_EBUSY:
        return EX_TEMPFAIL;
    case ASSAY_ENOTREADY:
    case ASSAY_ETIMEOUT:
        return EX_UNAVAILABLE;
    case ASSAY_EUNAUTHORIZED:
        return EX_NOPERM;
    case ASSAY_EIO:
    case ASSAY_EFULL:
        return EX_IOERR;
    case ASSAY_EFORMAT:
        return EX_CONFIG;
    default:
        return EX_SOFTWARE;
    }
}

int cli_fail(const struct err *e)
{
    if (e->field[0])
        fprintf(stderr, "assay: %s: %s (%s)\n", e->field, e->msg, err_name(e->code));
    else
        fprintf(stderr, "assay: %s\n", e->msg);
    return exit_code_of(e->code);
}

int cli_path(char *out, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(out, size, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= size)
        return cli_usage("path too long: expected at most %zu bytes, found %d", size - 1, n);
    return 0;
}
