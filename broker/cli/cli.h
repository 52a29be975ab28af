/* cli.h - the pieces of `assay` that its verbs share: options, exit codes, and what a verb is.
 *
 * Options are one table (options.c), verbs another (main.c), which names the options that each
 * takes. Parsing, errors, help (help.c), man pages (manual.c) and completion (completion.c) are all
 * made from these two. */
#ifndef ASSAY_CLI_H
#define ASSAY_CLI_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sysexits.h>

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
    CLI_SAFE_TEXT,
    CLI_PAD_RULE,
    CLI_CHAT_TEMPLATE,
    CLI_JSONL,
    CLI_DEVICE,
    CLI_DEVICES,
    CLI_QUANT,
    CLI_DTYPE,
    CLI_WEIGHTS,
    CLI_TP,
    CLI_THREADS,
    CLI_MAX_BATCH_TOKENS,
    CLI_MAX_LEN,
    CLI_WORKER,
    CLI_SCORE_CACHE,
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
    CLI_OPTION_COUNT
};

struct cli {
    const char *value[CLI_OPTION_COUNT]; /* argument as given, "" for a flag; NULL: not given */
    const char *operand;                 /* INPUT or JOB, NULL: not given */
    const char
        *state_dir; /* default data directory, from the environment; "" where that names none */
    const char *bin_dir; /* where this program and assayd lie */
    int colour;          /* NO_COLOR is not set */
    int stderr_tty;      /* a terminal that progress may be drawn on (NO_COLOR respected) */
    const struct cli_verb *verbs; /* all of them, ended by one without a name */
};

struct cli_verb {
    const char *name, *operand, *summary;
    const char *details; /* paragraphs with an empty line between them; NULL: none */
    const char *examples;
    int operand_needed;
    const enum cli_option *options; /* ended by CLI_OPTION_COUNT; the common ones are added */
    int (*run)(const struct cli *c);
};

struct cli_option_info {
    const char *name;
    char letter;          /* of the short form; 0: none */
    const char *argument; /* FILE and PATH are files, DIR is a directory; NULL: a flag */
    const char *help;
    const char *values; /* what the argument may be, words; NULL: anything */
};
const struct cli_option_info *cli_option_info(enum cli_option option);
extern const enum cli_option cli_common_options[]; /* that every verb takes */
extern const char cli_exit_codes[];

/* Parse argv after the verb. 0; 1 when help was printed; else EX_USAGE, told on stderr. */
int cli_parse(struct cli *c, const struct cli_verb *verb, int argc, char **argv);

/* An option's number in [min, max], or `fallback` when not given. 0, or EX_USAGE told on stderr. */
int cli_number(
    const struct cli *c, enum cli_option option, long min, long max, long fallback, long *value);

/* One line "assay: <message>" on stderr, fit for a terminal whatever is in it. */
void cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same of an error; returns the exit code that fits e->code. */
int cli_fail(const struct err *e);
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A file beside the others: snprintf that says when it does not fit. 0 or EX_USAGE told on stderr.
 */
int cli_path(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* --data, or the default. 0, or EX_USAGE told on stderr. */
int cli_data_dir(const struct cli *c, const char **dir);

/* help.c */
#define CLI_ABOUT "score text with reward models, through a queue that loses nothing"
extern const char cli_examples[];
void cli_print_overview(FILE *f, const struct cli_verb *verbs);
void cli_print_help(const struct cli_verb *verb);
/* What the option is for, and what its argument may be. */
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
int verb_tokenize(const struct cli *c);
int verb_top(const struct cli *c);
int verb_purge(const struct cli *c);
int verb_verify(const struct cli *c);
int verb_scrub(const struct cli *c);
int verb_man(const struct cli *c);
int verb_completion(const struct cli *c);

#endif
