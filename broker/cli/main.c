/* main.c - `assay`, the command line client: the table of verbs, and the dispatch to them. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "broker/cli/signals.h"
#include "broker/data_dir.h"
#include "schema/log.h"
#include "schema/start.h"
#include "schema/stdout.h"
#include "schema/suggest.h"

#define SIGNAL_EXIT 128 /* plus the signal's number, as in a shell */

static const enum cli_option no_options[] = {CLI_OPTION_COUNT};
static const enum cli_option score_options[] = {CLI_OUTPUT, CLI_MODEL, CLI_KEY, CLI_KEEP_INPUT,
    CLI_ORDER, CLI_POOL, CLI_ACTIVATION, CLI_STEP_TOKEN, CLI_TRUNCATE, CLI_MAX_LENGTH,
    CLI_TRUNCATION_SIDE, CLI_KEEP_LAST, CLI_SAFE_TEXT, CLI_JOIN_CONTENT, CLI_GENERATION_PROMPT,
    CLI_PAD_RULE, CLI_CHAT_TEMPLATE, CLI_TEMPLATE_DATE, CLI_DEVICE, CLI_DEVICES, CLI_QUANT,
    CLI_DTYPE, CLI_WEIGHTS, CLI_ACTIVATIONS, CLI_HEAD, CLI_LORA, CLI_RECIPE, CLI_TAIL, CLI_TP,
    CLI_PP, CLI_THREADS, CLI_MAX_BATCH_TOKENS, CLI_MAX_LEN, CLI_ACCEPT_MODE, CLI_WORKER,
    CLI_SCORE_CACHE, CLI_KV_CACHE, CLI_NO_DEDUPE, CLI_NO_WAIT, CLI_KEEP_DATA, CLI_FORCE, CLI_MODELS,
    CLI_FORMAT, CLI_SERVED_NAME, CLI_FIELD, CLI_OPTION_COUNT};
static const enum cli_option submit_options[] = {CLI_KEY, CLI_PRIORITY, CLI_POOL, CLI_ACTIVATION,
    CLI_STEP_TOKEN, CLI_TRUNCATE, CLI_MAX_LENGTH, CLI_TRUNCATION_SIDE, CLI_KEEP_LAST, CLI_SAFE_TEXT,
    CLI_JOIN_CONTENT, CLI_GENERATION_PROMPT, CLI_PAD_RULE, CLI_NO_WAIT, CLI_MODELS, CLI_FIELD,
    CLI_OPTION_COUNT};
static const enum cli_option check_options[] = {CLI_HEAD, CLI_RECIPE, CLI_LORA, CLI_WEIGHTS,
    CLI_ACTIVATIONS, CLI_MAX_LEN, CLI_CHAT_TEMPLATE, CLI_TEMPLATE_DATE, CLI_TAIL, CLI_WORKER,
    CLI_JSON, CLI_OPTION_COUNT};
static const enum cli_option scrub_options[] = {CLI_DATA, CLI_JSON, CLI_OPTION_COUNT};
static const enum cli_option export_options[] = {CLI_OUTPUT, CLI_ORDER, CLI_CSV, CLI_OPTION_COUNT};
static const enum cli_option info_options[] = {CLI_RECIPES, CLI_OPTION_COUNT};
static const enum cli_option tokenize_options[] = {CLI_MODEL, CLI_JSONL, CLI_RECIPE, CLI_TAIL,
    CLI_CHAT_TEMPLATE, CLI_TEMPLATE_DATE, CLI_STEP_TOKEN, CLI_JOIN_CONTENT, CLI_GENERATION_PROMPT,
    CLI_SAFE_TEXT, CLI_FIELD, CLI_JSON, CLI_OPTION_COUNT};
static const enum cli_option results_options[] = {CLI_FOLLOW, CLI_AFTER, CLI_OPTION_COUNT};
static const enum cli_option status_options[] = {CLI_WATCH, CLI_OPTION_COUNT};
static const enum cli_option resume_options[] = {CLI_ACCEPT_MODE, CLI_OPTION_COUNT};
static const enum cli_option wait_options[] = {CLI_MAX_WAIT, CLI_OPTION_COUNT};
static const enum cli_option top_options[] = {CLI_INTERVAL, CLI_OPTION_COUNT};
static const enum cli_option verify_options[] = {CLI_SAMPLE, CLI_OPTION_COUNT};
static const enum cli_option purge_options[] = {CLI_OLDER_THAN, CLI_OPTION_COUNT};
static const enum cli_option shard_options[] = {CLI_DIR, CLI_OPTION_COUNT};
static const enum cli_option man_options[] = {CLI_DIR, CLI_OPTION_COUNT};
static const enum cli_option reload_options[] = {CLI_CANCEL, CLI_OPTION_COUNT};
static const enum cli_option retry_options[] = {CLI_FAILED, CLI_OPTION_COUNT};

#define INPUT_LINES                                                                                \
    "A line is a JSON object. The first of these keys that it has says what is scored:\n"          \
    "  input_ids, or ids                    token ids: one score\n"                                \
    "  chosen and rejected                  two scores and their margin\n"                         \
    "  prompt (question, problem) + steps   one probability a step\n"                              \
    "  prompt + responses                   one score each, ranks, best ..\n"                      \
    "  prompt + response, or completion     one score\n"                                           \
    "  messages                             a conversation: one score\n"                           \
    "  text                                 one score\n"                                           \
    "  query + document, or documents       one score each, with a recipe for it\n"                \
    "\n"                                                                                           \
    "An id or custom_id, a string or an integer of 64 bits (7.0 is 7), comes back with the "       \
    "result. A line without one gets its number as its id. A line that is no JSON has the id "     \
    "that "                                                                                        \
    "stands before the fault, unless another may follow. A bad line fails with an error that has " \
    "its number; the other lines are scored, and the exit code is 1. INPUT may be compressed "     \
    "with "                                                                                        \
    "gzip or zstd. - is stdin."

#define SCORE_RUNS                                                                                 \
    "\n\nOUTPUT is written as OUTPUT.part and renamed when it is whole. A name in .gz or .zst is " \
    "compressed. A device or a pipe is written as it is. Refused as OUTPUT are files that the "    \
    "run "                                                                                         \
    "reads (input, checkpoint, programs), files in a broker's data directory, and files that you " \
    "may not write to.\n\n"                                                                        \
    "With --model a private broker keeps its work in OUTPUT.assay, or in INPUT.assay where "       \
    "OUTPUT "                                                                                      \
    "is stdout or a device. The work is removed once every row has its score. After an "           \
    "interruption, or when rows failed, it stays, and the same command goes on with it. If "       \
    "input, "                                                                                      \
    "options or checkpoint have changed since, the work begins anew and takes the scores that "    \
    "still "                                                                                       \
    "hold. An output that is whole, and was made from the same files with the same options, is "   \
    "left "                                                                                        \
    "as it is; --force scores it again.\n\n"                                                       \
    "With --format openai-batch each line is a request, {custom_id, method, url, body}, as "       \
    "vLLM's "                                                                                      \
    "run-batch and assay-http's batches take them, and its output line is {id, custom_id, "        \
    "response, error}."

static const struct cli_verb verbs[] = {
    {"score", "[INPUT.jsonl|-] [OUTPUT]",
        "Score a JSONL file. After a kill, the same command goes on where it stopped.",
        INPUT_LINES SCORE_RUNS,
        "  assay score rows.jsonl -o scores.jsonl --model ./my-reward-model\n"
        "  assay score rows.jsonl.gz -o scores.jsonl --data /var/lib/assay\n"
        "  cat rows.jsonl | assay score - -o scores.jsonl.gz --model ./my-reward-model\n"
        "  assay score --format openai-batch requests.jsonl answers.jsonl --model DIR\n",
        CLI_OUTPUT_TOO, score_options, verb_score},
    {"submit", "[INPUT.jsonl|-]", "Submit a JSONL file to a running broker as a job, and return.",
        INPUT_LINES,
        "  assay submit rows.jsonl --key monday\n"
        "  assay submit urgent.jsonl --key urgent --priority 10\n",
        0, submit_options, verb_submit},
    {"results", "JOB", "Print a job's results, one JSON line a row, in order of completion.",
        "Exit code 0 means that the job is done, and no row that was printed failed. 1: a row "
        "failed, or the job was cancelled with rows unfinished. 75: the job is not finished, and "
        "these are the results so far; --follow waits for the others.",
        "  assay results monday\n"
        "  assay results monday --follow > scores.jsonl\n",
        CLI_OPERAND, results_options, verb_results},
    {"export", "JOB", "Write all results of a job that is over, in order of its rows.",
        "A line is that of `assay results`. With --csv there are the columns i, id, score, chosen, "
        "rejected, n_tokens, error_code, error_message, and more: what else the result has "
        "(scores, "
        "steps ..), as JSON. FILE is whole or absent, and compressed if its name ends in "
        ".gz or .zst. In order of the rows the lines are kept in memory until all are there. Exit "
        "code 1: a row failed, or the job was cancelled with rows unfinished. 75: the job is not "
        "finished.",
        "  assay export monday -o scores.jsonl\n"
        "  assay export monday -o scores.csv.gz --csv\n"
        "  assay export monday --order completion > scores.jsonl\n",
        CLI_OPERAND, export_options, verb_export},
    {"status", "[JOB]", "Show the progress of a job; without JOB, all jobs.", NULL,
        "  assay status monday\n"
        "  assay status monday --watch\n",
        0, status_options, verb_status},
    {"jobs", NULL, "List jobs.", NULL, "  assay jobs\n  assay jobs --json\n", 0, no_options,
        verb_jobs},
    {"wait", "JOB", "Wait until a job is over. Exit code 1: rows failed, or the job was cancelled.",
        NULL,
        "  assay wait monday && assay results monday\n"
        "  assay wait monday --max-wait 3600\n",
        CLI_OPERAND, wait_options, verb_wait},
    {"cancel", "JOB", "Cancel a job: rows that are not finished are never scored.", NULL,
        "  assay cancel monday\n", CLI_OPERAND, no_options, verb_cancel},
    {"pause", "JOB", "Pause a job: its queued rows do not start.", NULL, "  assay pause monday\n",
        CLI_OPERAND, no_options, verb_pause},
    {"resume", "JOB", "Let a paused or held job go on.", NULL,
        "  assay resume monday\n  assay resume monday --accept-mode\n", CLI_OPERAND, resume_options,
        verb_resume},
    {"retry", "JOB", "Queue a job's failed rows again.",
        "Rows that failed for their content would fail again: they stay as they are. Rows whose "
        "result is damaged are queued too, once the broker has met the damage since its start. "
        "`assay results JOB` makes it meet the damage, since it reads every result of the job; "
        "`assay scrub` does not tell the broker.",
        "  assay retry monday --failed\n", CLI_OPERAND, retry_options, verb_retry},
    {"info", NULL, "Show the broker, its model and its counters; or the recipes.", NULL,
        "  assay info\n  assay info --recipes\n", 0, info_options, verb_info},
    {"top", NULL, "Watch broker, workers and jobs, live.",
        "q quits. Speeds are those of the last seconds. If stdout is no terminal, and with --json, "
        "the state is printed once, with the speeds since the broker's start.",
        "  assay top\n"
        "  assay top --interval 5 --data assay-data\n"
        "  assay top --json\n",
        0, top_options, verb_top},
    {"verify", "JOB", "Score a sample of a job's rows again, and compare every bit.",
        "Rows are chosen at random among the finished ones. Their stored results are read from the "
        "database in the data directory, which must be the broker's. Exit code 1: a row differs.",
        "  assay verify monday\n"
        "  assay verify monday --sample 10000 --data assay-data\n",
        CLI_OPERAND, verify_options, verb_verify},
    {"scrub", NULL, "Read the whole database, and name what is damaged.",
        "Every page, index, row and result is read and compared with its checksum. Nothing is "
        "changed. No broker is needed; one may work meanwhile (its log grows until this ends). "
        "Exit "
        "code 65: something is damaged.\n\n"
        "To compute damaged results again, run `assay results`, so that the broker meets them, and "
        "then `assay retry`. Send damaged rows again. States and counters are made anew at the "
        "next "
        "start of assayd. Replace a file whose pages SQLite cannot read by a copy. The score cache "
        "is not read: each of its entries has a checksum that is compared whenever the entry is "
        "taken, and a damaged entry is computed.",
        "  assay scrub\n"
        "  assay scrub --data /var/lib/assay --json\n",
        CLI_NO_BROKER, scrub_options, verb_scrub},
    {"backup", "DIR", "Copy a broker's database while it works.",
        "DIR must be new or have no database. It gets all jobs, rows and results as of one moment, "
        "in assay.db; the broker goes on meanwhile (its log grows until this ends). No broker is "
        "needed. `assayd --data DIR` starts on the copy, and finishes what was unfinished. The "
        "score cache is not copied; neither are checkpoints, nor the files of assay-http's "
        "--files.",
        "  assay backup /backup/monday --data /var/lib/assay\n", CLI_OPERAND | CLI_NO_BROKER,
        scrub_options, verb_backup},
    {"shard", "INPUT N", "Cut a file of lines into N files, for as many machines.",
        "DIR must be new. It gets 0.jsonl to N-1.jsonl, with equally many lines each, in order: "
        "one "
        "after the other they are INPUT, byte for byte, decompressed. INPUT is a file of lines as "
        "`assay score` takes it. DIR is whole or absent. Lines should have an id: without one a "
        "result has the line's number in its shard.",
        "  assay shard rows.jsonl.zst 16 --dir shards\n"
        "  assay score shards/3.jsonl -o scores/3.jsonl --model ./my-reward-model\n",
        CLI_OPERAND | CLI_COUNT | CLI_NO_BROKER, shard_options, verb_shard},
    {"doctor", NULL, "Say what of this machine a broker would miss, and what to do.",
        "One line each: versions, CPU, GPUs, /dev/shm, limits, the data directory, its file system "
        "and room, the time of a sync there, the clock. No broker is needed, and one may work "
        "meanwhile. Exit code 0: nothing is wrong, though there may be warnings. 78: something is.",
        "  assay doctor\n"
        "  assay doctor --data /var/lib/assay --json\n",
        CLI_NO_BROKER, scrub_options, verb_doctor},
    {"purge", "[JOB]", "Delete jobs that are done or cancelled, and free their space.",
        "The jobs are gone at once, and their keys are free. The broker deletes their rows bit by "
        "bit "
        "beside its work; then the database's file shrinks.",
        "  assay purge --older-than 7d\n"
        "  assay purge monday\n",
        0, purge_options, verb_purge},
    {"lora", "add|list|remove", "Add LoRA adapters to a running broker, list and remove them.",
        "The broker checks the directory, and its workers start anew with it: what is being "
        "computed "
        "is finished first. Then rows may name it by `adapter`. Jobs whose rows name an adapter "
        "that "
        "is removed wait until it is added again, or until `assay resume --accept-mode`, with "
        "which "
        "these rows fail. A broker that is started again has those of its --lora alone.",
        "  assay lora add helpful=./helpful-lora\n"
        "  assay lora list\n"
        "  assay lora remove helpful\n",
        CLI_OPERAND | CLI_ADAPTER, no_options, verb_lora},
    {"reload", "[[NAME=]DIR]", "Load another checkpoint for a model of a running broker.",
        "The checkpoint is read and loaded beside the present one, while that goes on scoring. "
        "Once "
        "it is ready new jobs are scored by it, under the model's name; jobs that were begun "
        "before "
        "are finished by the one that they were begun with, which ends when no unfinished job "
        "needs "
        "it. Both are in memory until then. A directory that cannot be loaded, or whose head has "
        "other labels or another pooling, changes nothing.\n\n"
        "NAME is needed if the broker has several models. The adapters that the model has go over "
        "to the new checkpoint, if it takes them and their files are what they were. The broker's "
        "options are what counts at its next start, so change --model there, too.\n\n"
        "With --cancel, and no DIR, a reload that is not over yet ends, and changes nothing.",
        "  assay reload ./my-reward-model-v2\n"
        "  assay reload math=./my-math-model-v2 --data /var/lib/assay\n"
        "  assay reload --cancel\n",
        0, reload_options, verb_reload},
    {"check", "DIR", "Say what a checkpoint is taken for, and what is missing.",
        "No broker is needed, and nothing is scored. A short row is written, of the kind that the "
        "recipe or the architecture is for. The exit code is 0 if rows of text can be scored, and "
        "78 if they cannot, if the chat template or the recipe cannot write its rows, or if the "
        "checkpoint or an adapter (--lora) cannot be loaded at all.",
        "  assay check ./my-reward-model\n"
        "  assay check ./my-language-model --head lm:9693,2152:softmax\n"
        "  assay check ./Llama-3.1-Nemotron-70B-Reward-HF --recipe nemotron-reward\n"
        "  assay check ./my-reward-model --lora helpful=./helpful-lora\n"
        "  assay check ./my-reward-model --json\n",
        CLI_OPERAND | CLI_NO_BROKER, check_options, verb_check},
    {"tokenize", "[TEXT|-]", "Show the token ids of a text or of rows, as they are scored.",
        "With --jsonl the lines are those of `assay score`, written by the chat template or the "
        "recipe, and whole: `assay score` may cut them. A line of output is one of input, with a "
        "list for each sequence of responses, documents and pairs. Blank lines have none, as with "
        "`assay "
        "score`: "
        "how many there were is said at the end. No broker is needed.",
        "  assay tokenize 'Hello, world' --model ./my-reward-model\n"
        "  assay tokenize - --model ./my-reward-model < text.txt\n"
        "  assay tokenize --jsonl rows.jsonl --model ./my-reward-model > ids.jsonl\n"
        "  assay tokenize --jsonl rows.jsonl --model ./Eurus-RM-7b --recipe eurus-rm\n",
        CLI_NO_BROKER, tokenize_options, verb_tokenize},
    {"completion", "bash|zsh|fish",
        "Print the script with which a shell completes assay's arguments.", NULL,
        "  source <(assay completion bash)\n"
        "  assay completion zsh > ~/.zfunc/_assay\n"
        "  assay completion fish > ~/.config/fish/completions/assay.fish\n",
        CLI_OPERAND | CLI_NO_BROKER, no_options, verb_completion},
    {"man", "[VERB]", "Print a man page: of a verb, of assayd, or of all.", NULL,
        "  assay man score | man -l -\n"
        "  assay man --dir /usr/local/share/man/man1\n",
        CLI_NO_BROKER, man_options, verb_man},
    {NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};

static const struct cli_verb *find_verb(const char *name)
{
    for (const struct cli_verb *verb = verbs; verb->name; verb++)
        if (strcmp(verb->name, name) == 0)
            return verb;
    return NULL;
}

static int unknown_verb(const char *typed)
{
    struct suggestion s;
    char text[80];
    suggestion_begin(&s, typed);
    for (const struct cli_verb *verb = verbs; verb->name; verb++)
        suggestion_try(&s, verb->name);
    return cli_usage("expected a verb, found '%s'%s; `assay --help` lists them", typed,
        suggestion_text(&s, "", text, sizeof text));
}

/* A variable's value; NULL: it is not set, or empty. */
static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

/* Finds the default data directory: $ASSAY_DATA, else as data_dir_find does; empty if there is
 * none. */
static void find_state_dir(struct cli *c, char *out, size_t size)
{
    const char *data = variable("ASSAY_DATA");
    if (data_dir_find(out, size, data, NULL) != 0)
        out[0] = '\0';
    c->state_dir = out;
    c->state_is_named = data != NULL;
    c->endpoint = variable("ASSAY_ENDPOINT");
}

static void find_bin_dir(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = '\0';
}

/* Output that was not written is no success. An output error was reported already. */
static int end_output(int rc)
{
    if (rc != EX_IOERR && stdout_end("assay") != 0 && (rc == EX_OK || rc == EX_ROWS_FAILED))
        return EX_IOERR;
    return rc;
}

int main(int argc, char **argv)
{
    char state_dir[PATH_MAX], bin_dir[PATH_MAX];
    start_process();
    log_init("assay", -1, LOG_LEVEL_WARN);
    if (argc < 2) {
        cli_print_overview(stderr, verbs);
        return EX_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        cli_print_overview(stdout, verbs);
        return stdout_end("assay");
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("assay %s\n", ASSAY_VERSION);
        return stdout_end("assay");
    }
    const struct cli_verb *verb = find_verb(argv[1]);
    if (!verb)
        return unknown_verb(argv[1]);
    find_bin_dir(bin_dir, sizeof bin_dir);
    int colour = getenv("NO_COLOR") == NULL;
    struct cli c = {.bin_dir = bin_dir,
        .verbs = verbs,
        .colour = colour,
        .stderr_tty = colour && isatty(STDERR_FILENO)};
    find_state_dir(&c, state_dir, sizeof state_dir);
    int rc = cli_parse(&c, verb, argc - 1, argv + 1);
    if (rc == 1) {
        cli_print_help(verb);
        return stdout_end("assay");
    }
    if (rc != 0)
        return rc;
    rc = end_output(verb->run(&c));
    return rc != EX_OK && cli_interrupted() ? SIGNAL_EXIT + cli_interrupted() : rc;
}
