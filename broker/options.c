/* options.c - see options.h. One table serves both parsing and help. */
#include "broker/options.h"

#include <ctype.h>
#include <getopt.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "broker/store/score_cache.h"
#include "broker/text/recipe.h"
#include "schema/age.h"
#include "schema/config_file.h"
#include "schema/endpoint.h"
#include "schema/log.h"
#include "schema/utf8.h"
#include "schema/suggest.h"
#include "schema/utf8.h"

enum kind {
    TEXT,
    INT,
    INT64,
    FLAG,
    LISTEN,
    DEVICE,
    GPUS,
    MODEL,
    LORA,
    LEVEL,
    LOG_FORMAT,
    PARENT,
    SIZE,
    AGE
};

static const struct {
    const char *name, *argument, *help;
    enum kind kind;
    size_t at;
    int64_t min, max;
} table[] = {
    {"model", "[NAME=]DIR",
        "checkpoint: config.json and safetensors (required); several, each with its NAME, are "
        "served side by side, and rows that name none get the first",
        MODEL, 0, 0, 0},
    {"data", "DIR",
        "directory of the database and sockets (default $XDG_STATE_HOME/assay, or "
        "~/.local/state/assay)",
        TEXT, offsetof(struct options, data), 0, 0},
    {"listen", "ENDPOINT",
        "where clients connect: ipc:///PATH or tcp://127.0.0.1:PORT; may be repeated (default "
        "ipc://<data>/broker.sock)",
        LISTEN, 0, 0, 0},
    {"http", "HOST:PORT",
        "start assay-http in front of this broker, listening there; what follows `--` are options "
        "of assay-http",
        TEXT, offsetof(struct options, http), 0, 0},
    {"device", "auto|cpu|cuda", "where the model runs (default auto: on GPUs if there are any)",
        DEVICE, 0, 0, 0},
    {"devices", "0,1,..",
        "GPUs to use, --tp of them for each copy of the model (default: all of the first's kind)",
        GPUS, 0, 0, 0},
    {"tp", "N", "tensor-parallel ranks that share one copy of the model (default 1)", INT,
        offsetof(struct options, tp), 1, 16},
    {"pp", "N", "pipeline stages, of --tp ranks each, that share the model's layers (default 1)",
        INT, offsetof(struct options, pp), 1, 16},
    {"replicas", "N", "copies of the model (default: as many as there are GPUs for, on a CPU 1)",
        INT, offsetof(struct options, replicas), 1, OPTIONS_MAX_REPLICAS},
    {"threads", "N", "threads of all ranks together (default: as many as cores it may use)", INT,
        offsetof(struct options, threads), 1, 1024},
    {"max-batch-tokens", "N", "most tokens of one batch (default 4096, on GPUs 8192)", INT,
        offsetof(struct options, max_batch_tokens), 1, 1 << 24},
    {"max-len", "N", "longest row in tokens (default: the model's)", INT,
        offsetof(struct options, max_len), 1, 1 << 24},
    {"served-name", "NAME", "the model's name for clients (default: the directory's)", TEXT,
        offsetof(struct options, served_name), 0, 0},
    {"chat-template", "NAME|FILE",
        "chat template to use instead of the checkpoint's: chatml, qwen2.5 .., or a file", TEXT,
        offsetof(struct options, chat_template), 0, 0},
    {"template-date", "DAY",
        "YYYY-MM-DD: what a chat template that asks for the date takes for today", TEXT,
        offsetof(struct options, template_date), 0, 0},
    {"isa", "NAME",
        "CPU instructions: auto, avx512bf16, avx512vnni, avx512, avx2 or portable; all give the "
        "same scores (default auto)",
        TEXT, offsetof(struct options, isa), 0, 0},
    {"hang-ms", "N", "restart a group after N ms without progress (default 2000)", INT,
        offsetof(struct options, hang_ms), 100, INT_MAX / 16},
    {"start-ms", "N",
        "longest start of a group, in ms, and 10 more for each MiB of weights (default 600000)",
        INT, offsetof(struct options, start_ms), 1000, INT_MAX / 16},
    {"min-free-bytes", "N", "refuse new work when the disk has less room (default 64 MiB)", INT64,
        offsetof(struct options, min_free_bytes), 0, INT64_MAX / 16},
    {"max-message-bytes", "N", "largest request, in bytes (default 64 MiB)", INT64,
        offsetof(struct options, max_message_bytes), 1 << 16, 1 << 30},
    {"max-rows-per-message", "N", "most rows of one request (default 10000)", INT64,
        offsetof(struct options, max_rows_per_message), 1, 1 << 20},
    {"max-queued-bytes", "N", "most token bytes of unfinished rows (default 64 GiB)", INT64,
        offsetof(struct options, max_queued_bytes), 1 << 16, INT64_MAX / 16},
    {"score-cache", "SIZE",
        "keep scores on disk, for rows that come again in any job: 512M, 4G (default none)", SIZE,
        offsetof(struct options, score_cache), STORE_CACHE_LEAST, 1ll << 50},
    {"kv-cache", "SIZE",
        "memory of each rank for keys and values of rows' first tokens, which rows of later "
        "batches need not compute again: 512M, 4G (default none)",
        SIZE, offsetof(struct options, kv_cache), 1, 1ll << 50},
    {"session-bytes", "SIZE", "most memory of all clients' sessions: 64M, 1G (default 256M)", SIZE,
        offsetof(struct options, session_bytes), 1 << 16, 1ll << 50},
    {"retain", "AGE",
        "delete jobs that have been over for so long: 30 or 30d (days), 12h, 30m, 10s (default: "
        "keep them until `assay purge`)",
        AGE, offsetof(struct options, retain_s), 1, INT32_MAX},
    {"retain-ephemeral", "AGE",
        "delete jobs that nobody needs any more, as those of `assay score` whose output is whole, "
        "when they have been over for so long (default 1m)",
        AGE, offsetof(struct options, retain_ephemeral_s), 0, INT32_MAX},
    {"no-dedupe", NULL, "compute each row, even if it is the same as another of its job", FLAG,
        offsetof(struct options, no_dedupe), 0, 0},
    {"insecure-loopback", NULL,
        "allow tcp endpoints without keys: any user of this machine may connect", FLAG,
        offsetof(struct options, insecure_loopback), 0, 0},
    {"no-prefix-sharing", NULL,
        "compute each row whole, even if others begin with the same tokens; scores are the same",
        FLAG, offsetof(struct options, no_prefix_sharing), 0, 0},
    {"exit-with-parent", "[=PID]", "stop when the process that started this one ends; PID: its id",
        PARENT, offsetof(struct options, exit_with_parent), 1, INT_MAX},
    {"worker", "PATH",
        "worker program (default: beside this one, assay-worker or, on GPUs, assay-worker-cuda)",
        TEXT, offsetof(struct options, worker), 0, 0},
    {"log-level", "LEVEL", "error, warn, info or debug, the workers' too (default info)", LEVEL,
        offsetof(struct options, log_level), 0, 0},
    {"log-format", "FORM", "text or json: the form of log lines, the workers' too (default text)",
        LOG_FORMAT, offsetof(struct options, log_json), 0, 0},
    {"quant", "none|fp8|int8",
        "quantization of the layers' matrices; fp8 on GPUs only (default none)", TEXT,
        offsetof(struct options, quant), 0, 0},
    {"dtype", "auto|f32|bf16",
        "type of the layers' products; f32 and bf16 on the CPU only (default auto: float32 on the "
        "CPU, the checkpoint's type on GPUs)",
        TEXT, offsetof(struct options, dtype), 0, 0},
    {"weights", "auto|single|index",
        "which weights to take where a checkpoint has both model.safetensors and an index of other "
        "files (default auto: refuse such a checkpoint)",
        TEXT, offsetof(struct options, weights), 0, 0},
    {"activations", "auto|as-stored|weights-only",
        "where a quantized checkpoint's config says that activations are quantized too: as-stored "
        "rounds them so, weights-only leaves them as they are (default auto: refuse such a "
        "checkpoint)",
        TEXT, offsetof(struct options, activations), 0, 0},
    {"head", "auto|lm:IDS:HOW",
        "how a language model scores: lm:ID,ID:softmax, lm:ID,ID:difference, lm:ID:raw or "
        "lm:ID:sigmoid, of the logits of these tokens (default auto: the checkpoint's own head)",
        TEXT, offsetof(struct options, head), 0, 0},
    {"recipe", "NAME",
        "score as a published reward model is scored where its files do not say it; `assay info "
        "--recipes` lists them (default none)",
        TEXT, offsetof(struct options, recipe), 0, 0},
    {"tail", "none|strip|strip,eos",
        "how a conversation ends: strip takes newlines away that the chat template wrote last, eos "
        "puts eos_token there (default none)",
        TEXT, offsetof(struct options, tail), 0, 0},
    {"hf-pad-rule", "auto|on|off",
        "whether LAST is the last token that is not the pad token, for rows that do not say it "
        "(default auto: as the architecture's class in transformers does)",
        TEXT, offsetof(struct options, pad_rule), 0, 0},
    {"lora", "[MODEL/]NAME=DIR",
        "a LoRA adapter (PEFT's directory), which rows choose by name, of the model of that name "
        "if there are several; may be repeated",
        LORA, 0, 0, 0},
    {"config", "FILE",
        "read options from FILE, a line each: `threads = 8`; those of the command line win", TEXT,
        offsetof(struct options, config), 0, 0},
    {"version", NULL, "print the version", FLAG, offsetof(struct options, version), 0, 0},
    {"help", NULL, "print this text", FLAG, offsetof(struct options, help), 0, 0},
};
enum { N_OPTIONS = sizeof table / sizeof table[0] };
_Static_assert(N_OPTIONS <= OPTIONS_MOST, "each has its line");

const char options_about[] =
    "the broker: takes scoring jobs over ZeroMQ, keeps them in SQLite, drives the workers";
const char options_examples[] =
    "  assayd --model ./my-reward-model\n"
    "  assayd --model ./my-reward-model --data /var/lib/assay --tp 2\n"
    "  assayd --model ./my-reward-model --device cuda --devices 0,1,2,3\n"
    "  assayd --model ./my-reward-model --http 127.0.0.1:8000 -- --files ./assay-files\n"
    "  sqlite3 -readonly /var/lib/assay/assay.db 'select key,state,done,total from jobs'\n";
const char options_signals[] =
    "SIGTERM: finish the batches in flight and exit with 0. A second SIGTERM: exit at once. "
    "Nothing accepted is lost either way.";
const char options_exit_codes[] =
    "0 ok, 64 usage, 69 the workers do not start, 70 bug, 71 no memory, 72 database "
    "files removed or cut, 74 I/O, 75 data directory or socket in use, 77 permission, 78 "
    "checkpoint, "
    "configuration, or an incomplete database.";

int options_describe(int k, struct option_help *out)
{
    if (k >= N_OPTIONS)
        return 0;
    *out = (struct option_help){
        table[k].name, table[k].argument, table[k].help, table[k].kind == PARENT};
    return 1;
}

void options_print_help(void)
{
    struct option_help o;
    printf("assayd - %s\n\nExamples:\n%s\nOptions:\n", options_about, options_examples);
    for (int k = 0; options_describe(k, &o); k++) {
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", o.name, o.argument && !o.may_lack ? " " : "",
            o.argument ? o.argument : "");
        printf("  %-28s %s\n", left, o.help);
    }
    printf("\n%s\nExit codes: %s\n", options_signals, options_exit_codes);
}

#define ORIGIN_BYTES 400

static int index_of(const char *name)
{
    int k = 0;
    while (k < N_OPTIONS && strcmp(table[k].name, name) != 0)
        k++;
    return k;
}

/* Says where the option is from: "--threads", or "FILE:12: threads". */
static const char *origin(const struct options *o, const char *name, char text[ORIGIN_BYTES])
{
    int k = index_of(name);
    if (k < N_OPTIONS && o->config_lines[k] > 0)
        snprintf(text, ORIGIN_BYTES, "%.300s:%d: %s", o->config, o->config_lines[k], name);
    else
        snprintf(text, ORIGIN_BYTES, "--%s", name);
    return text;
}

static int complain(
    const struct options *o, const char *name, const char *expected, const char *found)
{
    char from[ORIGIN_BYTES];
    fprintf(
        stderr, "assayd: %s: expected %s, found '%s'\n", origin(o, name, from), expected, found);
    return EX_USAGE;
}

static int take_number(struct options *o, int i, const char *text)
{
    char *end, expected[64];
    long long v = strtoll(text, &end, 10);
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)table[i].min,
        (long long)table[i].max);
    if (*text == '\0' || *end != '\0' || v < table[i].min || v > table[i].max)
        return complain(o, table[i].name, expected, text);
    if (table[i].kind == INT || table[i].kind == PARENT)
        *(int *)((char *)o + table[i].at) = (int)v;
    else
        *(int64_t *)((char *)o + table[i].at) = v;
    return 0;
}

/* Parses a size in bytes, or with K, M, G or T in powers of 1024. */
static int take_size(struct options *o, int i, const char *text)
{
    static const char units[] = "KMGT";
    char *end, *unit;
    long long v = isdigit((unsigned char)*text) ? strtoll(text, &end, 10) : -1;
    int shift = v >= 0 && *end && (unit = strchr(units, *end)) ? 10 * (int)(unit - units + 1) : 0;
    if (v < 0 || end[shift > 0] != '\0' || v > table[i].max >> shift || v << shift < table[i].min)
        return complain(o, table[i].name, "a size from 4M to 1024T, as in 512M or 4G", text);
    *(int64_t *)((char *)o + table[i].at) = v << shift;
    return 0;
}

static int take_age(struct options *o, int i, const char *text)
{
    int64_t *age_s = (int64_t *)((char *)o + table[i].at);
    if (age_read(text, 'd', age_s) != 0 || *age_s < table[i].min)
        return complain(o, table[i].name,
            table[i].min > 0 ? "an age such as 30d, 12h, 30m or 10s, 1s at least"
                             : "an age such as 30d, 12h, 30m or 0s",
            text);
    return 0;
}

static int take_listen(struct options *o, const char *text)
{
    char from[ORIGIN_BYTES];
    struct endpoint endpoint;
    struct err e;
    int rc = endpoint_parse(&endpoint, text, ENDPOINT_LISTEN, &e);
    if (rc != 0) {
        fprintf(stderr, "assayd: %s: %s\n", origin(o, "listen", from), e.msg);
        return rc == ASSAY_EUNSUPPORTED ? EX_CONFIG : EX_USAGE;
    }
    if (o->n_listen == OPTIONS_MAX_ENDPOINTS)
        return complain(o, "listen", "at most 8 endpoints", text);
    o->listen[o->n_listen++] = text;
    return 0;
}

/* A path with '=' in it is one: NAME has no slash, and a directory of that whole name is meant. */
static int take_model(struct options *o, const char *text)
{
    struct stat st;
    size_t n = stat(text, &st) == 0 ? 0 : adapters_name_of(text);
    if (o->n_models == OPTIONS_MAX_MODELS)
        return complain(o, "model", "at most 8 models", text);
    for (int i = 0; n > 0 && i < o->n_models; i++)
        if (strncmp(o->models[i].name, text, n) == 0 && o->models[i].name[n] == '\0')
            return complain(o, "model", "another NAME for each model", text);
    o->models[o->n_models].dir = n > 0 ? text + n + 1 : text;
    snprintf(o->models[o->n_models++].name, ADAPTERS_NAME_BYTES, "%.*s", (int)n, text);
    return 0;
}

/* The length of MODEL in front of a slash; 0: there is none, or it is no name. */
static size_t model_of(const char *lora)
{
    size_t n = strcspn(lora, "/=");
    return lora[n] == '/' && adapters_is_name(lora, n) ? n : 0;
}

static int take_lora(struct options *o, const char *text)
{
    size_t before = model_of(text) + (model_of(text) > 0);
    size_t n = adapters_name_of(text + before);
    if (n == 0)
        return complain(o, "lora",
            "NAME=DIR or MODEL/NAME=DIR, each NAME of up to 64 letters, digits, '.', '_' and '-'",
            text);
    for (uint32_t i = 0; i < o->n_loras; i++)
        if (strncmp(o->loras[i], text, before + n + 1) == 0)
            return complain(o, "lora", "another name for each adapter", text);
    if (o->n_loras == ADAPTERS_MOST)
        return complain(o, "lora", "at most 64 adapters", text);
    uint32_t at = o->n_loras++;
    for (; at > 0 && strcmp(o->loras[at - 1], text) > 0; at--)
        o->loras[at] = o->loras[at - 1];
    o->loras[at] = text;
    return 0;
}

const char *options_lora_of(const struct options *o, uint32_t i, const char *model)
{
    const char *text = o->loras[i];
    size_t n = model_of(text);
    if (n > 0)
        return strlen(model) == n && strncmp(text, model, n) == 0 ? text + n + 1 : NULL;
    return o->n_models == 1 ? text : NULL;
}

static int take_device(struct options *o, const char *name)
{
    static const char *const names[] = {"auto", "cpu", "cuda"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            o->device = (enum options_device)i;
            return 0;
        }
    return complain(o, "device", "auto, cpu or cuda", name);
}

static int take_gpus(struct options *o, const char *list)
{
    char from[ORIGIN_BYTES];
    const char *expected = "different device numbers with commas between them, as in 0,1,2,3";
    char *end;
    o->n_gpus = 0;
    for (const char *at = list;; at = end + 1) {
        long gpu = strtol(at, &end, 10);
        if (end == at || !isdigit((unsigned char)*at) || gpu > 1023 ||
            o->n_gpus == OPTIONS_MAX_GPUS)
            return complain(o, "devices", expected, list);
        for (int i = 0; i < o->n_gpus; i++)
            if (o->gpus[i] == gpu)
                return fprintf(stderr,
                           "assayd: %s: GPU %ld is named twice; expected a GPU of its own "
                           "for "
                           "each rank, found '%s'\n",
                           origin(o, "devices", from), gpu, list),
                       EX_USAGE;
        o->gpus[o->n_gpus++] = (int)gpu;
        if (*end == '\0')
            return 0;
        if (*end != ',')
            return complain(o, "devices", expected, list);
    }
}

static int take_option(struct options *o, int i, const char *value)
{
    switch (table[i].kind) {
    case TEXT:
        *(const char **)((char *)o + table[i].at) = value;
        return 0;
    case FLAG:
        *(int *)((char *)o + table[i].at) = 1;
        return 0;
    case SIZE:
        return take_size(o, i, value);
    case AGE:
        return take_age(o, i, value);
    case LISTEN:
        return take_listen(o, value);
    case DEVICE:
        return take_device(o, value);
    case GPUS:
        return take_gpus(o, value);
    case MODEL:
        return take_model(o, value);
    case LORA:
        return take_lora(o, value);
    case PARENT:
        o->exit_with_parent = -1;
        return value ? take_number(o, i, value) : 0;
    case LEVEL:
        o->log_level = log_level_from_name(value);
        return o->log_level < 0 ? complain(o, "log-level", "error, warn, info or debug", value) : 0;
    case LOG_FORMAT:
        o->log_json = strcmp(value, "json") == 0;
        return o->log_json || strcmp(value, "text") == 0
                   ? 0
                   : complain(o, "log-format", "text or json", value);
    default:
        return take_number(o, i, value);
    }
}

/* 1: value is one of these words, which blanks separate. */
static int is_one_of(const char *value, const char *words)
{
    size_t n = strcspn(value, " ");
    for (const char *at = words; n > 0 && value[n] == 0 && (at = strstr(at, value)); at++)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0))
            return 1;
    return 0;
}

/* Checks a name, which goes into logs and onto terminals. */
static int check_name(const struct options *o, const char *name)
{
    char *shown = name ? strdup(name) : NULL;
    int rc = 0;
    if (!shown)
        return 0;
    utf8_make_printable(shown);
    if (strcmp(shown, name) != 0)
        rc = complain(o, "served-name", "a name in UTF-8 without control characters", shown);
    free(shown);
    return rc;
}

/* 1: the name can be sent, logged and shown as it is. */
static int is_name(const char *text)
{
    char shown[128]; /* the size in model_info */
    size_t n = strlen(text);
    if (n == 0 || n >= sizeof shown || utf8_valid((const uint8_t *)text, n) < n)
        return 0;
    memcpy(shown, text, n + 1);
    utf8_make_printable(shown);
    return strcmp(shown, text) == 0;
}

/* Checks options that take one of a few words, and names. */
static int check_words(const struct options *o)
{
    if (!is_one_of(o->isa, "auto avx512bf16 avx512vnni avx512 avx2 portable"))
        return complain(o, "isa", "auto, avx512bf16, avx512vnni, avx512, avx2 or portable", o->isa);
    if (o->served_name && !is_name(o->served_name))
        return complain(o, "served-name", "1 to 127 bytes of text without control characters",
            "something else");
    if (!is_one_of(o->quant, "none fp8 int8"))
        return complain(o, "quant", "none, fp8 or int8", o->quant);
    if (!is_one_of(o->dtype, "auto f32 bf16"))
        return complain(o, "dtype", "auto, f32 or bf16", o->dtype);
    if (!is_one_of(o->weights, "auto single index"))
        return complain(o, "weights", "auto, single or index", o->weights);
    if (!is_one_of(o->activations, "auto as-stored weights-only"))
        return complain(o, "activations", "auto, as-stored or weights-only", o->activations);
    if (!is_one_of(o->tail, TAIL_NAMES))
        return complain(o, "tail", "none, strip or strip,eos", o->tail);
    if (!is_one_of(o->pad_rule, "auto on off"))
        return complain(o, "hf-pad-rule", "auto, on or off", o->pad_rule);
    return 0;
}

/* A recipe says how texts are scored, so an option that says it too is refused. */
static int check_recipe(const struct options *o)
{
    char names[RECIPE_NAMES_BYTES];
    const struct recipe *r = o->recipe ? recipe_find(o->recipe) : NULL;
    if (!o->recipe)
        return 0;
    recipe_names(names);
    if (!r)
        return complain(o, "recipe", names, o->recipe);
    if (strcmp(o->head, "auto") != 0)
        return complain(o, "head", "auto with --recipe, which names the head", o->head);
    if (strcmp(o->pad_rule, "auto") != 0)
        return complain(o, "hf-pad-rule", "auto with --recipe, which names the token", o->pad_rule);
    if (strcmp(o->tail, "none") != 0)
        return complain(o, "tail", "none with --recipe, which says how texts end", o->tail);
    if (o->chat_template && !recipe_uses_template(r))
        return complain(o, "chat-template", "none with this --recipe, which writes its own text",
            o->chat_template);
    if (o->template_date && !recipe_uses_template(r))
        return complain(o, "template-date", "none with this --recipe, which writes its own text",
            o->template_date);
    return 0;
}

/* Several models are told apart by their names, and each adapter is of one of them. */
static int check_models(const struct options *o)
{
    if (o->n_models == 0) {
        fprintf(stderr, "assayd: expected --model DIR%s%s, found none; see `assayd --help`\n",
            o->config ? ", or a line `model = DIR` in " : "", o->config ? o->config : "");
        return EX_USAGE;
    }
    for (int i = 0; o->n_models > 1 && i < o->n_models; i++)
        if (!o->models[i].name[0])
            return complain(o, "model", "NAME=DIR for each of several models", o->models[i].dir);
    if (o->served_name && o->models[0].name[0])
        return complain(o, "served-name", "none where --model has a NAME", o->served_name);
    for (uint32_t i = 0; i < o->n_loras; i++) {
        int found = 0;
        for (int k = 0; k < o->n_models; k++)
            found |= options_lora_of(o, i, o->models[k].name) != NULL;
        if (!found)
            return complain(o, "lora",
                o->n_models > 1 ? "MODEL/NAME=DIR, MODEL the name of a model"
                                : "NAME=DIR, or the name of the model in front of it",
                o->loras[i]);
    }
    return 0;
}

static int check_together(const struct options *o)
{
    char from[ORIGIN_BYTES];
    if (o->help || o->version)
        return 0;
    int rc = check_models(o);
    if (rc != 0)
        return rc;
    for (int i = 0; i < o->n_listen; i++)
        if (strncmp(o->listen[i], "tcp://", 6) == 0 && !o->insecure_loopback) {
            fprintf(stderr,
                "assayd: %s: %s: a tcp endpoint without keys needs --insecure-loopback\n",
                origin(o, "listen", from), o->listen[i]);
            return EX_CONFIG;
        }
    if (o->no_dedupe && o->score_cache > 0)
        return complain(o, "no-dedupe", "no --score-cache with it", "one");
    if (o->n_gpus > 0 && o->device == DEVICE_CPU)
        return complain(o, "devices", "no list with --device cpu", "one");
    if (o->tp * o->pp > OPTIONS_MAX_RANKS) {
        fprintf(stderr, "assayd: --tp %d --pp %d: expected at most %d ranks, found %d\n", o->tp,
            o->pp, OPTIONS_MAX_RANKS, o->tp * o->pp);
        return EX_CONFIG;
    }
    const char *port = o->http ? strrchr(o->http, ':') : NULL;
    if (o->http && (!port || atoi(port + 1) <= 0))
        return complain(o, "http", "HOST:PORT with a port, as 127.0.0.1:8000", o->http);
    if (o->http && o->exit_with_parent > 0)
        return complain(o, "http", "none for a broker that one process has for itself", o->http);
    rc = check_name(o, o->served_name);
    if (rc == 0)
        rc = check_words(o);
    return rc == 0 ? check_recipe(o) : rc;
}

static int argument_of(int i)
{
    if (table[i].kind == PARENT)
        return optional_argument;
    return table[i].argument ? required_argument : no_argument;
}

/* ---- the file ---- */

struct reading {
    struct options *o;
    int given[N_OPTIONS]; /* on the command line, which wins */
};

static int unknown_key(const struct options *o, int line, const char *key)
{
    struct suggestion s;
    char text[80];
    suggestion_begin(&s, key);
    for (int k = 0; k < N_OPTIONS; k++)
        suggestion_try(&s, table[k].name);
    fprintf(stderr, "assayd: %s:%d: unknown key '%.80s'%s\n", o->config, line, key,
        suggestion_text(&s, "", text, sizeof text));
    return EX_USAGE;
}

/* Reads the word behind a flag: 1, 0, or -1. */
static int flag_of(const char *word)
{
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {
                                                                     "no", "false", "off", "0"};
    for (int i = 0; word && i < 4; i++)
        if (strcmp(word, yes[i]) == 0 || strcmp(word, no[i]) == 0)
            return strcmp(word, yes[i]) == 0;
    return word ? -1 : 1;
}

static int may_repeat(int k)
{
    return table[k].kind == MODEL || table[k].kind == LISTEN || table[k].kind == LORA;
}

static int take_key(void *arg, int line, char *key, char *value)
{
    struct reading *r = arg;
    struct options *o = r->o;
    int k = index_of(key), earlier = k < N_OPTIONS ? o->config_lines[k] : 0;
    utf8_make_printable(key);
    if (k == N_OPTIONS)
        return unknown_key(o, line, key);
    o->config_lines[k] = line;
    if (strcmp(key, "help") == 0 || strcmp(key, "version") == 0 || strcmp(key, "config") == 0 ||
        table[k].kind == PARENT)
        return complain(o, key, "it on the command line only", value ? value : "it");
    if (earlier > 0 && !may_repeat(k))
        return fprintf(stderr, "assayd: %s:%d: %s: expected once, found also in line %d\n",
                   o->config, line, key, earlier),
               EX_USAGE;
    if (table[k].kind == FLAG && flag_of(value) < 0)
        return complain(o, key, "yes or no, or nothing", value);
    if (table[k].kind != FLAG && !value)
        return complain(o, key, table[k].argument, "nothing");
    if (r->given[k])
        return o->config_lines[k] = 0, 0;
    return table[k].kind == FLAG && !flag_of(value) ? 0 : take_option(o, k, value);
}

static int read_config(struct reading *r)
{
    struct err e = {0};
    int rc = config_file_read(r->o->config, &r->o->config_text, take_key, r, &e);
    if (rc < 0)
        fprintf(stderr, "assayd: --config: %s\n", e.msg);
    return rc >= 0 ? rc : rc == ASSAY_EIO ? EX_NOINPUT : EX_CONFIG;
}

void options_release(struct options *o)
{
    free(o->config_text);
    o->config_text = NULL;
}

/* ---- the command line ---- */

/* Finds what the command line has, before anything of it is taken. What is wrong in it is found
 * again then. */
static void look_ahead(struct reading *r, int argc, char **argv, const struct option *list)
{
    int found;
    opterr = 0;
    while ((found = getopt_long(argc, argv, ":h", list, NULL)) != -1) {
        if (found < 256)
            continue;
        r->given[found - 256] = 1;
        if (strcmp(table[found - 256].name, "config") == 0)
            r->o->config = optarg;
    }
    optind = 0; /* from the beginning */
}

int options_parse(struct options *o, int argc, char **argv)
{
    struct option list[N_OPTIONS + 1] = {{0}};
    struct reading reading = {.o = o};
    int found, rc;
    *o = (struct options){.isa = "auto",
        .quant = "none",
        .dtype = "auto",
        .weights = "auto",
        .activations = "auto",
        .head = "auto",
        .pad_rule = "auto",
        .tail = "none",
        .tp = 1,
        .pp = 1,
        .hang_ms = 2000,
        .start_ms = 600000,
        .log_level = LOG_LEVEL_INFO,
        .min_free_bytes = 64 << 20,
        .max_message_bytes = 64 << 20,
        .max_rows_per_message = 10000,
        .max_queued_bytes = 64ll << 30,
        .session_bytes = 256 << 20,
        .retain_ephemeral_s = 60};
    for (int i = 0; i < N_OPTIONS; i++)
        list[i] = (struct option){table[i].name, argument_of(i), NULL, i + 256};
    look_ahead(&reading, argc, argv, list);
    if (o->config && (rc = read_config(&reading)) != 0)
        return rc;
    opterr = 0;
    while ((found = getopt_long(argc, argv, ":h", list, NULL)) != -1) {
        if (found == 'h') {
            o->help = 1;
            continue;
        }
        if (found < 256) {
            char wrong[256];
            suggest_explain(list, found, argv, wrong, sizeof wrong);
            return fprintf(stderr, "assayd: %s; see `assayd --help`\n", wrong), EX_USAGE;
        }
        if ((rc = take_option(o, found - 256, optarg)) != 0)
            return rc;
    }
    if (optind < argc && (!o->http || strcmp(argv[optind - 1], "--") != 0))
        return fprintf(stderr, "assayd: unexpected argument '%s'\n", argv[optind]), EX_USAGE;
    o->http_words = (const char *const *)argv + optind;
    o->n_http_words = argc - optind;
    return check_together(o);
}
