/* options.c - the table of all options of `assay`, and parsing with it (getopt_long). */
#include "broker/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/signals.h"
#include "broker/text/recipe.h"
#include "schema/suggest.h"
#include "schema/utf8.h"

#define CHAT_TEMPLATES                                                                             \
    "chatml qwen1.5 qwen2 qwen2.5 qwen2.5-base qwen2.5-math qwen3 qwen3-instruct-2507 llama3 "     \
    "llama3-first llama3.1"

static const struct cli_option_info option_table[CLI_OPTION_COUNT] = {
    [CLI_CONNECT] = {"connect", 0, "ENDPOINT",
        "broker to talk to (default $ASSAY_ENDPOINT, else ipc://<data>/broker.sock)", NULL},
    [CLI_DATA] = {"data", 0, "DIR",
        "data directory (default $ASSAY_DATA, else $XDG_STATE_HOME/assay, or ~/.local/state/assay)",
        NULL},
    [CLI_JSON] = {"json", 0, NULL, "print JSON", NULL},
    [CLI_TIMEOUT] = {"timeout", 0, "S", "give up after S seconds without an answer (default 15)",
        NULL},
    [CLI_HELP] = {"help", 'h', NULL, "print this text", NULL},
    [CLI_OUTPUT] = {"output", 'o', "FILE", "file for the results, - for stdout (default -)", NULL},
    [CLI_MODEL] = {"model", 0, "DIR", "checkpoint; runs a private broker with it", NULL},
    [CLI_KEY] = {"key", 0, "KEY", "the job's name; the same key continues the same job", NULL},
    [CLI_KEEP_INPUT] = {"keep-input", 0, NULL,
        "copy the input line into the output line, as `input`", NULL},
    [CLI_ORDER] = {"order", 0, "ORDER", "order of the output lines (default input)",
        "input completion"},
    [CLI_PRIORITY] = {"priority", 0, "N", "-100 to 100, larger first (default 0)", NULL},
    [CLI_POOL] = {"pool", 0, "TYPE", "tokens that are scored (default the architecture's)",
        "LAST ALL STEP MEAN CLS"},
    [CLI_STEP_TOKEN] = {"step-token", 0, "ID", "token that ends a step, for --pool STEP", NULL},
    [CLI_ACTIVATION] = {"activation", 0, "NAME",
        "function over the logits; config: the one that config.json names (default the "
        "architecture's)",
        "none softmax sigmoid class1 config"},
    [CLI_TRUNCATE] = {"truncate", 0, NULL, "cut rows that are too long, instead of failing them",
        NULL},
    [CLI_MAX_LENGTH] = {"max-length", 0, "N",
        "with --truncate: most tokens of a sequence (default: what the broker takes)", NULL},
    [CLI_TRUNCATION_SIDE] = {"truncation-side", 0, "SIDE",
        "with --truncate: the end that is cut (default right)", "right left"},
    [CLI_KEEP_LAST] = {"keep-last-token", 0, NULL,
        "with --truncate: a row that is cut keeps its last token, as an EOS that is pooled", NULL},
    [CLI_SAFE_TEXT] = {"safe-text", 0, NULL, "control tokens that are written in a text stay text",
        NULL},
    [CLI_JOIN_CONTENT] = {"join-content", 0, NULL,
        "make one text of a message's parts, joined with newlines, for a chat template that takes "
        "texts",
        NULL},
    [CLI_GENERATION_PROMPT] = {"add-generation-prompt", 0, NULL,
        "the chat template writes the beginning of the next answer behind the last message", NULL},
    [CLI_FIELD] = {"field", 0, "KEY=COLUMN,..",
        "read keys of a row from columns of other names: prompt=instruction,response=output", NULL},
    [CLI_PAD_RULE] = {"hf-pad-rule", 0, "WORD",
        "whether LAST is the last token that is not the pad token, or the very last (default the "
        "broker's)",
        "on off"},
    [CLI_CHAT_TEMPLATE] = {"chat-template", 0, "NAME|FILE",
        "chat template to use instead of the checkpoint's", CHAT_TEMPLATES},
    [CLI_TEMPLATE_DATE] = {"template-date", 0, "DAY",
        "YYYY-MM-DD: what a chat template that asks for the date takes for today", NULL},
    [CLI_JSONL] = {"jsonl", 0, "FILE", "one row a line, as {\"text\": ..}; {\"ids\": [..]} out",
        NULL},
    [CLI_DEVICE] = {"device", 0, "NAME", "device of the private broker's model (default auto)",
        "auto cpu cuda"},
    [CLI_DEVICES] = {"devices", 0, "0,1,..",
        "GPUs of the private broker, --tp of them for each copy of the model", NULL},
    [CLI_QUANT] = {"quant", 0, "METHOD",
        "quantization of the private broker's matrices (default none)", "none fp8 int8"},
    [CLI_DTYPE] = {"dtype", 0, "TYPE",
        "type of the private broker's products; f32 and bf16 on the CPU only (default auto: "
        "float32 on the CPU, the checkpoint's type on GPUs)",
        "auto f32 bf16"},
    [CLI_WEIGHTS] = {"weights", 0, "WHICH",
        "which weights to take where a checkpoint has both model.safetensors and an index of other "
        "files (default auto: refuse such a checkpoint)",
        "auto single index"},
    [CLI_ACTIVATIONS] = {"activations", 0, "WHICH",
        "where a quantized checkpoint's config says that activations are quantized too: as-stored "
        "rounds them so, weights-only leaves them as they are (default auto: refuse such a "
        "checkpoint)",
        "auto as-stored weights-only"},
    [CLI_HEAD] = {"head", 0, "HEAD",
        "how a language model scores: lm:ID,ID:softmax, lm:ID,ID:difference, lm:ID:raw or "
        "lm:ID:sigmoid, of the logits of these tokens (default auto: the checkpoint's own head)",
        NULL},
    [CLI_LORA] = {"lora", 0, "NAME=DIR",
        "a LoRA adapter (PEFT's directory) of the private broker, which rows choose by column "
        "adapter; may be repeated",
        NULL},
    [CLI_RECIPE] = {"recipe", 0, "NAME",
        "score as a published reward model is scored where its files do not say it; `assay info "
        "--recipes` lists them",
        NULL},
    [CLI_RECIPES] = {"recipes", 0, NULL,
        "list the recipes: what each is for, and how it scores; no broker is needed", NULL},
    [CLI_TAIL] = {"tail", 0, "RULES",
        "how a conversation ends: strip takes newlines away that the chat template wrote last, eos "
        "puts eos_token there (default none)",
        TAIL_NAMES},
    [CLI_TP] = {"tp", 0, "N", "tensor-parallel ranks of the private broker (default 1)", NULL},
    [CLI_PP] = {"pp", 0, "N", "pipeline stages of the private broker (default 1)", NULL},
    [CLI_THREADS] = {"threads", 0, "N",
        "threads of the private broker's ranks (default: as many as cores it may use)", NULL},
    [CLI_MAX_BATCH_TOKENS] = {"max-batch-tokens", 0, "N",
        "most tokens of one batch (default 4096, on GPUs 8192)", NULL},
    [CLI_MAX_LEN] = {"max-len", 0, "N", "longest row in tokens (default the model's)", NULL},
    [CLI_WORKER] = {"worker", 0, "PATH", "worker program of the private broker", NULL},
    [CLI_SCORE_CACHE] = {"score-cache", 0, "SIZE",
        "the private broker keeps scores on disk, for rows that come again: 512M, 4G", NULL},
    [CLI_KV_CACHE] = {"kv-cache", 0, "SIZE",
        "memory of each rank of the private broker for keys and values of rows' first tokens, for "
        "rows of later batches that begin alike: 512M, 4G (default none)",
        NULL},
    [CLI_NO_DEDUPE] = {"no-dedupe", 0, NULL,
        "the private broker computes each row, even if it is the same as another", NULL},
    [CLI_FOLLOW] = {"follow", 0, NULL, "wait for rows that are not finished yet", NULL},
    [CLI_AFTER] = {"after", 0, "CURSOR", "start after this cursor (default 0)", NULL},
    [CLI_WATCH] = {"watch", 0, NULL, "print again every second until the job is done", NULL},
    [CLI_FAILED] = {"failed", 0, NULL, "queue the job's failed rows (the default)", NULL},
    [CLI_ACCEPT_MODE] = {"accept-mode", 0, NULL,
        "continue a job that was begun with another checkpoint or mode", NULL},
    [CLI_INTERVAL] = {"interval", 0, "S", "seconds between two looks (default 1)", NULL},
    [CLI_SAMPLE] = {"sample", 0, "N", "rows to score again (default 100)", NULL},
    [CLI_OLDER_THAN] = {"older-than", 0, "AGE",
        "only jobs that have been over for so long: 7d, 12h, 30m, 0s", NULL},
    [CLI_NO_WAIT] = {"no-wait", 0, NULL,
        "when the broker has no room for more rows, say why and exit with 75", NULL},
    [CLI_MAX_WAIT] = {"max-wait", 0, "S",
        "exit with 75 if the job is not over after S seconds (default: wait without limit)", NULL},
    [CLI_KEEP_DATA] = {"keep-data", 0, NULL,
        "keep the private broker's directory, OUTPUT.assay, also after success", NULL},
    [CLI_MODELS] = {"models", 0, "NAMES",
        "of a running broker: the model that scores the rows, by its name; several, with commas "
        "between, score each row (default: the broker's first)",
        NULL},
    [CLI_FORMAT] = {"format", 0, "FORMAT",
        "what a line is: a row, or a request of OpenAI's batches, answered as vLLM's run-batch "
        "does "
        "(default rows)",
        "rows openai-batch"},
    [CLI_SERVED_NAME] = {"served-model-name", 0, "NAMES",
        "with --format openai-batch: what lines call the model, with commas between (default: "
        "--model "
        "as it is given, and the broker's name)",
        NULL},
    [CLI_CSV] = {"csv", 0, NULL, "write comma-separated values instead of JSON lines", NULL},
    [CLI_CANCEL] = {"cancel", 0, NULL, "end the reload that is under way", NULL},
    [CLI_FORCE] = {"force", 0, NULL, "score again even if the output is there and whole", NULL},
    [CLI_DIR] = {"dir", 0, "DIR", "write files into DIR: each page, or each shard", NULL},
};

static const enum cli_option shared_options[] = {
    CLI_CONNECT, CLI_DATA, CLI_JSON, CLI_TIMEOUT, CLI_HELP, CLI_OPTION_COUNT};
static const enum cli_option help_alone[] = {CLI_HELP, CLI_OPTION_COUNT};

const enum cli_option *cli_shared_options(const struct cli_verb *verb)
{
    return verb->needs & CLI_NO_BROKER ? help_alone : shared_options;
}

const struct cli_option_info *cli_option_info(enum cli_option option)
{
    return &option_table[option];
}

static int add_options(struct option *list, int n, const enum cli_option *options)
{
    for (; *options != CLI_OPTION_COUNT; options++)
        list[n++] = (struct option){option_table[*options].name,
            option_table[*options].argument ? required_argument : no_argument, NULL,
            256 + (int)*options};
    return n;
}

/* Appends the short forms in getopt's syntax. */
static void list_letters(const enum cli_option *options, char *letters)
{
    letters += strlen(letters);
    for (; *options != CLI_OPTION_COUNT; options++)
        if (option_table[*options].letter)
            letters += sprintf(letters, "%c%s", option_table[*options].letter,
                option_table[*options].argument ? ":" : "");
}

/* Translates getopt_long's result: a letter, or 256 + the option. */
static enum cli_option option_of(int found)
{
    if (found >= 256)
        return (enum cli_option)(found - 256);
    int option = 0;
    while (option_table[option].letter != found)
        option++;
    return (enum cli_option)option;
}

static int is_among(const char *words, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = words; len > 0 && (at = strstr(at, word)) != NULL; at += len)
        if ((at == words || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0'))
            return 1;
    return 0;
}

int cli_is_listed(enum cli_option option, const char *value)
{
    return is_among(option_table[option].values, value);
}

static int check_value(enum cli_option option, const char *value)
{
    const struct cli_option_info *info = &option_table[option];
    char names[RECIPE_NAMES_BYTES];
    recipe_names(names);
    if (option == CLI_RECIPE && !recipe_find(value))
        return cli_usage("--recipe: expected one of %s, found '%s'", names, value);
    int may_be_file = option == CLI_CHAT_TEMPLATE;
    if (!info->values || is_among(info->values, value) || (may_be_file && access(value, F_OK) == 0))
        return 0;
    return cli_usage("--%s: expected one of %s%s, found '%s'", info->name, info->values,
        may_be_file ? ", or a file" : "", value);
}

int cli_parse(struct cli *c, const struct cli_verb *verb, int argc, char **argv)
{
    struct option list[CLI_OPTION_COUNT + 1] = {{0}};
    char letters[2 * CLI_OPTION_COUNT + 2] = ":", wrong[256];
    opterr = 0;
    int n = add_options(list, 0, verb->options), found, rc;
    add_options(list, n, cli_shared_options(verb));
    list_letters(verb->options, letters);
    list_letters(cli_shared_options(verb), letters);
    while ((found = getopt_long(argc, argv, letters, list, NULL)) != -1) {
        if (found == '?' || found == ':') {
            suggest_explain(list, found, argv, wrong, sizeof wrong);
            return cli_usage("%s: %s; see `assay %s --help`", verb->name, wrong, verb->name);
        }
        enum cli_option option = option_of(found);
        if (option == CLI_FIELD && c->value[option])
            return cli_usage("--field: expected once, with commas between, found again");
        c->value[option] = optarg ? optarg : "";
        if (option == CLI_LORA && c->n_loras == ADAPTERS_MOST)
            return cli_usage("--lora: expected at most %d adapters", ADAPTERS_MOST);
        if (option == CLI_LORA)
            c->loras[c->n_loras++] = optarg;
        if ((rc = check_value(option, c->value[option])) != 0)
            return rc;
    }
    if (c->value[CLI_HELP])
        return 1;
    if (optind < argc && verb->operand)
        c->operand = argv[optind++];
    if (optind < argc && verb->needs & CLI_OUTPUT_TOO && !c->value[CLI_OUTPUT])
        c->value[CLI_OUTPUT] = argv[optind++];
    if (optind < argc && verb->needs & (CLI_ADAPTER | CLI_COUNT))
        c->second = argv[optind++];
    if (optind < argc)
        return cli_usage("%s: unexpected argument '%s'", verb->name, argv[optind]);
    if ((verb->needs & CLI_OPERAND) && !c->operand)
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
    errno = 0;
    long v = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || errno == ERANGE || v < min || v > max)
        return cli_usage("--%s: expected an integer from %ld to %ld, found '%s'",
            option_table[option].name, min, max, text);
    *value = v;
    return 0;
}

int cli_check_numbers(const struct cli *c)
{
    static const struct {
        enum cli_option option;
        long max;
    } numbers[] = {{CLI_TP, 16}, {CLI_PP, 16}, {CLI_THREADS, 1024}, {CLI_MAX_BATCH_TOKENS, 1 << 24},
        {CLI_MAX_LEN, 1 << 24}};
    int rc = 0;
    long value;
    for (size_t i = 0; rc == 0 && i < sizeof numbers / sizeof numbers[0]; i++)
        rc = cli_number(c, numbers[i].option, 1, numbers[i].max, 1, &value);
    return rc;
}

static void say(const char *fmt, va_list args)
{
    char text[2048], line[2064];
    vsnprintf(text, sizeof text, fmt, args);
    utf8_make_printable(text);
    snprintf(line, sizeof line, "assay: %s\n", text);
    cli_tell(line);
}

void cli_say(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(fmt, args);
    va_end(args);
}

int cli_usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(fmt, args);
    va_end(args);
    return EX_USAGE;
}

int cli_data_dir(const struct cli *c, const char **dir)
{
    *dir = c->value[CLI_DATA] ? c->value[CLI_DATA] : c->state_dir;
    if (**dir)
        return 0;
    return c->value[CLI_DATA]
               ? cli_usage("--data: expected a directory, found ''")
               : cli_usage("data directory: expected --data, ASSAY_DATA, or XDG_STATE_HOME or "
                           "HOME with an absolute path");
}

const char cli_exit_codes[] =
    "0 ok, 1 some rows failed, 64 usage, 65 bad data, 66 no input, 69 broker unavailable, 70 bug, "
    "74 I/O, 75 try again later, 77 permission, 78 configuration, 128 + N stopped by "
    "signal N (130 SIGINT, 143 SIGTERM, 141 a closed pipe).";

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
    case ASSAY_ENOSESSION:
    case ASSAY_EBADTOKEN:
    case ASSAY_ENOTOKENS:
    case ASSAY_ENOSTEP:
    case ASSAY_EADAPTER:
    case ASSAY_EMODEL:
    case ASSAY_EBADTEXT:
    case ASSAY_EPOSITION:
    case ASSAY_EMANY:
    case ASSAY_EDAMAGED:
        return EX_DATAERR;
    case ASSAY_EQUEUEFULL:
    case ASSAY_EBUSY:
    case ASSAY_ELOCKED:
        return EX_TEMPFAIL;
    case ASSAY_ENOTREADY:
    case ASSAY_ETIMEOUT:
        return EX_UNAVAILABLE;
    case ASSAY_EUNAUTHORIZED:
        return EX_NOPERM;
    case ASSAY_EIO:
    case ASSAY_EFULL:
    case ASSAY_EGONE:
        return EX_IOERR;
    case ASSAY_EFORMAT:
        return EX_CONFIG;
    default:
        return EX_SOFTWARE;
    }
}

int cli_fail(const struct err *e)
{
    char line[2048];
    if (e->field[0])
        snprintf(line, sizeof line, "assay: %s: %s (%s)\n", e->field, e->msg, err_name(e->code));
    else
        snprintf(line, sizeof line, "assay: %s\n", e->msg);
    cli_tell(line);
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
