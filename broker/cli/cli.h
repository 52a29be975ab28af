/* cli.h - what the verbs of `assay` share: options, exit codes, and the description of a verb.
 *
 * input/ reads files of JSON lines (input/jsonl.h), and lines.h makes rows of them; client.h is the
 * connection to a broker; target.h is a file that a verb writes.
 *
 * One table holds the options (options.c), another the verbs (main.c), each with the options that
 * it takes. Parsing, errors, help (help.c), man pages (manual.c) and completion (completion.c) are
 * all derived from these two. */
#ifndef ASSAY_CLI_H
#define ASSAY_CLI_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sysexits.h>

#include "schema/adapters.h"
#include "schema/err.h"
#include "schema/version.h"

#define EX_ROWS_FAILED 1

enum cli_option {
    CLI_CONNECT,
    CLI_DATA,
    CLI_JSON,
    CLI_TIMEOUT,
    CLI_HELP,
    CLI_OUTPUT,
    CLI_MODEL,
    CLI_KEY,
    CLI_KEEP_INPUT,
    CLI_ORDER,
    CLI_PRIORITY,
    CLI_POOL,
    CLI_STEP_TOKEN,
    CLI_ACTIVATION,
    CLI_TRUNCATE,
    CLI_MAX_LENGTH,
    CLI_TRUNCATION_SIDE,
    CLI_KEEP_LAST,
    CLI_SAFE_TEXT,
    CLI_JOIN_CONTENT,
    CLI_GENERATION_PROMPT,
    CLI_FIELD,
    CLI_PAD_RULE,
    CLI_CHAT_TEMPLATE,
    CLI_TEMPLATE_DATE,
    CLI_JSONL,
    CLI_DEVICE,
    CLI_DEVICES,
    CLI_QUANT,
    CLI_DTYPE,
    CLI_WEIGHTS,
    CLI_ACTIVATIONS,
    CLI_HEAD,
    CLI_LORA,
    CLI_RECIPE,
    CLI_RECIPES,
    CLI_TAIL,
    CLI_TP,
    CLI_PP,
    CLI_THREADS,
    CLI_MAX_BATCH_TOKENS,
    CLI_MAX_LEN,
    CLI_WORKER,
    CLI_SCORE_CACHE,
    CLI_KV_CACHE,
    CLI_NO_DEDUPE,
    CLI_FOLLOW,
    CLI_AFTER,
    CLI_WATCH,
    CLI_FAILED,
    CLI_ACCEPT_MODE,
    CLI_DIR,
    CLI_INTERVAL,
    CLI_SAMPLE,
    CLI_OLDER_THAN,
    CLI_NO_WAIT,
    CLI_MAX_WAIT,
    CLI_KEEP_DATA,
    CLI_FORCE,
    CLI_MODELS,
    CLI_FORMAT,
    CLI_CSV,
    CLI_SERVED_NAME,
    CLI_CANCEL,
    CLI_OPTION_COUNT
};

struct cli {
    const char *loras[ADAPTERS_MOST]; /* --lora, which may be repeated */
    int n_loras;
    const char *value[CLI_OPTION_COUNT]; /* the argument as given, "" for a flag; NULL: not given */
    const char *operand;                 /* INPUT or JOB; NULL: not given */
    const char *second; /* what follows it, with CLI_ADAPTER or CLI_COUNT; NULL: not given */
    /* default data directory, from the environment; "" if the environment names none */
    const char *state_dir;
    int state_is_named;   /* by ASSAY_DATA */
    const char *endpoint; /* ASSAY_ENDPOINT, where neither --connect nor --data is given; or NULL */
    const char *bin_dir;  /* where this program and assayd are installed */
    int colour;           /* NO_COLOR is not set */
    int stderr_tty;       /* stderr is a terminal that may show progress (NO_COLOR respected) */
    const struct cli_verb *verbs; /* all verbs; the last one has no name */
};

/* CLI_ADAPTER: an adapter may follow the operand; CLI_COUNT: a number must, which the operand's name
 * says; CLI_OUTPUT_TOO: the output may, instead of -o. */
enum cli_need {
    CLI_OPERAND = 1,
    CLI_NO_BROKER = 2,
    CLI_ADAPTER = 4,
    CLI_OUTPUT_TOO = 8,
    CLI_COUNT = 16
};
#define CLI_ADAPTER_OPERAND " [NAME=DIR|NAME]"

struct cli_verb {
    const char *name, *operand, *summary;
    const char *details; /* paragraphs separated by an empty line; NULL: none */
    const char *examples;
    int needs;                      /* of enum cli_need */
    const enum cli_option *options; /* ended by CLI_OPTION_COUNT; shared options are added */
    int (*run)(const struct cli *c);
};

struct cli_option_info {
    const char *name;
    char letter;          /* the short form; 0: none */
    const char *argument; /* FILE and PATH are files, DIR is a directory; NULL: a flag */
    const char *help;
    const char *values; /* the words that the argument may be; NULL: anything */
};
const struct cli_option_info *cli_option_info(enum cli_option option);
/* Is the value one of the option's words? */
int cli_is_listed(enum cli_option option, const char *value);
/* What every verb takes beside its own options; or, with CLI_NO_BROKER, --help alone. */
const enum cli_option *cli_shared_options(const struct cli_verb *verb);
extern const char cli_exit_codes[];

/* Parses the arguments after the verb. Returns 0, 1 if help is asked for, or EX_USAGE after
 * printing an error to stderr. */
int cli_parse(struct cli *c, const struct cli_verb *verb, int argc, char **argv);

/* Sets *value to an option's number in [min, max], or to `fallback` if the option is not given.
 * Returns 0, or EX_USAGE after printing an error to stderr. */
int cli_number(
    const struct cli *c, enum cli_option option, long min, long max, long fallback, long *value);

/* Checks the numbers that go to a private broker or a worker, in the same way. */
int cli_check_numbers(const struct cli *c);

/* Prints one line "assay: <message>" to stderr; control characters in it are made harmless. */
void cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints the error in the same way and returns the exit code for e->code. */
int cli_fail(const struct err *e);
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The end of a word of which there are n: "%lld job%s". */
static inline const char *cli_s(int64_t n)
{
    return n == 1 ? "" : "s";
}

/* snprintf for a path. Returns 0, or EX_USAGE after printing to stderr that it does not fit. */
int cli_path(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Sets *dir to --data or its default. Returns 0, or EX_USAGE after printing an error to stderr. */
int cli_data_dir(const struct cli *c, const char **dir);

/* format.c: is it --format openai-batch? And refuses options that do not go with the format; returns 0
 * or EX_USAGE. */
int cli_is_batch(const struct cli *c);
int cli_check_format(const struct cli *c);

/* help.c */
#define CLI_ABOUT "score text with reward models, through a queue that loses nothing"
extern const char cli_examples[];
void cli_print_overview(FILE *f, const struct cli_verb *verbs);
void cli_print_help(const struct cli_verb *verb);
/* Writes the option's help text and the values that its argument may have. */
#define CLI_HELP_BYTES 400
void cli_option_help(enum cli_option option, char *text, size_t size);

int verb_score(const struct cli *c);
int verb_submit(const struct cli *c);
int verb_results(const struct cli *c);
int verb_status(const struct cli *c);
int verb_jobs(const struct cli *c);
int verb_wait(const struct cli *c);
int verb_cancel(const struct cli *c);
int verb_pause(const struct cli *c);
int verb_resume(const struct cli *c);
int verb_retry(const struct cli *c);
int verb_info(const struct cli *c);
/* recipes.c: prints the table of recipes, which needs no broker; and refuses, with EX_USAGE,
 * options that say what --recipe says. */
int print_recipes(const struct cli *c);
int cli_check_recipe(const struct cli *c);
int verb_tokenize(const struct cli *c);
int verb_check(const struct cli *c);
int verb_top(const struct cli *c);
int verb_purge(const struct cli *c);
int verb_lora(const struct cli *c);
int verb_reload(const struct cli *c);
int verb_verify(const struct cli *c);
int verb_scrub(const struct cli *c);
int verb_doctor(const struct cli *c);
int verb_backup(const struct cli *c);
int verb_shard(const struct cli *c);
int verb_export(const struct cli *c);
int verb_man(const struct cli *c);
int verb_completion(const struct cli *c);

#endif
