/* main.c - `assay`, the command line client: which verbs there are, and the way to each. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "schema/log.h"

static const enum cli_option no_options[] = {CLI_OPTION_COUNT};
static const enum cli_option score_options[] = {CLI_OUTPUT, CLI_MODEL, CLI_KEY, CLI_KEEP_INPUT,
    CLI_ORDER, CLI_POOL, CLI_ACTIVATION, CLI_STEP_TOKEN, CLI_TRUNCATE, CLI_SAFE_TEXT,
    CLI_CHAT_TEMPLATE, CLI_TP, CLI_THREADS, CLI_MAX_BATCH_TOKENS, CLI_MAX_LEN, CLI_ACCEPT_MODE,
    CLI_WORKER, CLI_OPTION_COUNT};
static const enum cli_option submit_options[] = {CLI_KEY, CLI_PRIORITY, CLI_POOL, CLI_ACTIVATION,
    CLI_STEP_TOKEN, CLI_TRUNCATE, CLI_SAFE_TEXT, CLI_OPTION_COUNT};
static const enum cli_option tokenize_options[] = {
    CLI_MODEL, CLI_JSONL, CLI_SAFE_TEXT, CLI_OPTION_COUNT};
static const enum cli_option results_options[] = {CLI_FOLLOW, CLI_AFTER, CLI_OPTION_COUNT};
static const enum cli_option status_options[] = {CLI_WATCH, CLI_OPTION_COUNT};
static const enum cli_option resume_options[] = {CLI_ACCEPT_MODE, CLI_OPTION_COUNT};
static const enum cli_option retry_options[] = {CLI_FAILED, CLI_OPTION_COUNT};

static const struct cli_verb verbs[] = {
    {"score", "[INPUT.jsonl|-]",
        "Score a JSONL file. Killed and run again, it goes on where it stopped.",
        "  assay score rows.jsonl -o scores.jsonl --model ./my-reward-model\n"
        "  assay score rows.jsonl -o scores.jsonl --connect ipc:///var/lib/assay/broker.sock\n"
        "  zcat rows.jsonl.gz | assay score - --data /tmp/assay --model ./my-reward-model\n",
        0, score_options, verb_score},
    {"submit", "[INPUT.jsonl|-]", "Hand a JSONL file to a running broker as a job, and return.",
        "  assay submit rows.jsonl --key monday\n"
        "  assay submit urgent.jsonl --key urgent --priority 10\n",
        0, submit_options, verb_submit},
    {"results", "JOB", "Print a job's results, one JSON line a row, in order of completion.",
        "  assay results monday\n"
        "  assay results monday --follow > scores.jsonl\n",
        1, results_options, verb_results},
    {"status", "[JOB]", "Show how far a job is; without JOB, all jobs.",
        "  assay status monday\n"
        "  assay status monday --watch\n",
        0, status_options, verb_status},
    {"jobs", NULL, "List jobs.", "  assay jobs\n  assay jobs --json\n", 0, no_options, verb_jobs},
    {"wait", "JOB", "Wait until a job is done. Exit code 1 when rows failed.",
        "  assay wait monday && assay results monday\n", 1, no_options, verb_wait},
    {"cancel", "JOB", "Cancel a job: rows not yet finished never run.", "  assay cancel monday\n",
        1, no_options, verb_cancel},
    {"pause", "JOB", "Keep a job's queued rows from running.", "  assay pause monday\n", 1,
        no_options, verb_pause},
    {"resume", "JOB", "Let a paused or held job go on.",
        "  assay resume monday\n  assay resume monday --accept-mode\n", 1, resume_options,
        verb_resume},
    {"retry", "JOB", "Queue a job's failed rows again.", "  assay retry monday --failed\n", 1,
        retry_options, verb_retry},
    {"info", NULL, "Show the broker, its model and its counters.", "  assay info\n", 0, no_options,
        verb_info},
    {"tokenize", "[TEXT|-]",
        "Show the token ids of a text, as the checkpoint's tokenizer makes them.",
        "  assay tokenize 'Hello, world' --model ./my-reward-model\n"
        "  assay tokenize - --model ./my-reward-model < text.txt\n"
        "  assay tokenize --jsonl texts.jsonl --model ./my-reward-model > ids.jsonl\n",
        0, tokenize_options, verb_tokenize},
};
static const int n_verbs = sizeof verbs / sizeof verbs[0];

static void print_overview(FILE *f)
{
    fprintf(f,
        "assay - score token sequences with reward models, through a queue that loses nothing\n\n"
        "Examples:\n"
        "  assay score rows.jsonl -o scores.jsonl --model ./my-reward-model\n"
        "  assayd --model ./my-reward-model &   then   assay submit rows.jsonl --key monday\n"
        "  assay wait monday && assay results monday\n\n"
        "Verbs (each has --help):\n");
    for (int i = 0; i < n_verbs; i++)
        fprintf(f, "  %-9s %s\n", verbs[i].name, verbs[i].summary);
}

static const struct cli_verb *find_verb(const char *name)
{
    for (int i = 0; i < n_verbs; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

/* Default data directory: $XDG_STATE_HOME/assay, else ~/.local/state/assay. */
static void find_state_dir(char *out, size_t size)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && state[0] == '/')
        snprintf(out, size, "%s/assay", state);
    else
        snprintf(out, size, "%s/.local/state/assay", home ? home : "");
}

static void find_bin_dir(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = '\0';
}

int main(int argc, char **argv)
{
    char state_dir[PATH_MAX], bin_dir[PATH_MAX];
    log_init("assay", -1, LOG_LEVEL_WARN);
    if (argc < 2) {
        print_overview(stderr);
        return EX_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_overview(stdout);
        return EX_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("assay %s\n", ASSAY_VERSION);
        return EX_OK;
    }
    const struct cli_verb *verb = find_verb(argv[1]);
    if (!verb)
        return cli_usage("expected a verb, found '%s'; `assay --help` lists them", argv[1]);
    find_state_dir(state_dir, sizeof state_dir);
    find_bin_dir(bin_dir, sizeof bin_dir);
    int colour = getenv("NO_COLOR") == NULL;
    struct cli c = {
        .state_dir = state_dir, .bin_dir = bin_dir, .stderr_tty = colour && isatty(STDERR_FILENO)};
    int rc = cli_parse(&c, verb, argc - 1, argv + 1);
    if (rc != 0)
        return rc == 1 ? EX_OK : rc;
    return verb->run(&c);
}
