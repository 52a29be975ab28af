/* manual.c - `assay man`: man pages in roff, of assayd and assay-http too, made from the same tables
 * as --help. `make install` writes all of them. */
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/target.h"
#include "broker/http/options.h"
#include "broker/options.h"

/* Escapes text for roff, so that backslashes and hyphens are shown as they are and no line is a
 * request. */
static void put(FILE *f, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        int at_line_start = i == 0 || text[i - 1] == '\n';
        if (at_line_start && (text[i] == '.' || text[i] == '\''))
            fputs("\\&", f);
        if (text[i] == '\\')
            fputs("\\e", f);
        else if (text[i] == '-')
            fputs("\\-", f);
        else if (text[i] == '\'')
            fputs("\\(aq", f);
        else if (text[i] == '~' || text[i] == '^' || text[i] == '`')
            fprintf(f, "\\(%s", text[i] == '~' ? "ti" : text[i] == '^' ? "ha" : "ga");
        else
            fputc(text[i], f);
    }
}

static void put_all(FILE *f, const char *text)
{
    put(f, text, strlen(text));
}

/* Writes examples unfilled, without the leading spaces of --help. */
static void put_examples(FILE *f, const char *text)
{
    fputs(".SH EXAMPLES\n.nf\n", f);
    for (size_t len; *text; text += len + 1) {
        len = strcspn(text, "\n");
        size_t skip = strspn(text, " ");
        put(f, text + skip, len - skip);
        fputc('\n', f);
    }
    fputs(".fi\n", f);
}

/* Writes paragraphs; lines that begin with a space stay unfilled. */
static void put_paragraphs(FILE *f, const char *text)
{
    int as_is = 0;
    for (size_t len; *text; text += len + (text[len] == '\n')) {
        len = strcspn(text, "\n");
        int line_as_is = *text == ' ';
        if (line_as_is != as_is)
            fputs(line_as_is ? ".nf\n" : ".fi\n", f);
        as_is = line_as_is;
        if (len == 0)
            fputs(".PP", f);
        put(f, text, len);
        fputc('\n', f);
    }
    if (as_is)
        fputs(".fi\n", f);
}

static void put_options(FILE *f, const enum cli_option *options)
{
    char text[CLI_HELP_BYTES];
    for (; *options != CLI_OPTION_COUNT; options++) {
        const struct cli_option_info *info = cli_option_info(*options);
        fputs(".TP\n", f);
        if (info->letter)
            fprintf(f, "\\fB\\-%c\\fR, ", info->letter);
        fputs("\\fB\\-\\-", f);
        put_all(f, info->name);
        fputs("\\fR", f);
        if (info->argument)
            fprintf(f, " \\fI%s\\fR", info->argument);
        fputc('\n', f);
        cli_option_help(*options, text, sizeof text);
        put_all(f, text);
        fputs(".\n", f);
    }
}

static void put_head(FILE *f, const char *name, const char *title)
{
    fprintf(f, ".TH %s 1 \"\" \"assay %s\" \"Assay\"\n.SH NAME\n", title, ASSAY_VERSION);
    put_all(f, name);
    fputs(" \\- ", f);
}

static void put_exit_codes(FILE *f, const char *codes)
{
    fputs(".SH EXIT STATUS\n", f);
    put_all(f, codes);
    fputc('\n', f);
}

static void put_verb_page(FILE *f, const struct cli_verb *verb)
{
    char name[64], title[64];
    snprintf(name, sizeof name, "assay-%s", verb->name);
    snprintf(title, sizeof title, "assay\\-%s", verb->name);
    put_head(f, name, title);
    put_all(f, verb->summary);
    fprintf(f, "\n.SH SYNOPSIS\n\\fBassay %s\\fR [\\fIoptions\\fR]", verb->name);
    if (verb->operand) {
        fputs(" \\fI", f);
        put_all(f, verb->operand);
        if (verb->needs & CLI_ADAPTER)
            put_all(f, CLI_ADAPTER_OPERAND);
        fputs("\\fR", f);
    }
    fputc('\n', f);
    if (verb->details) {
        fputs(".SH DESCRIPTION\n", f);
        put_paragraphs(f, verb->details);
    }
    fputs(".SH OPTIONS\n", f);
    put_options(f, verb->options);
    put_options(f, cli_shared_options(verb));
    put_exit_codes(f, cli_exit_codes);
    put_examples(f, verb->examples);
    fputs(".SH SEE ALSO\n.BR assay (1)\n", f);
}

static void put_overview_page(FILE *f, const struct cli_verb *verbs)
{
    put_head(f, "assay", "assay");
    put_all(f, CLI_ABOUT);
    fputs("\n.SH SYNOPSIS\n\\fBassay\\fR \\fIverb\\fR [\\fIoptions\\fR] [\\fIargument\\fR]\n.SH "
          "VERBS\n",
        f);
    const enum cli_option *shared = cli_shared_options(verbs); /* the first verb has a broker */
    for (; verbs->name; verbs++) {
        fprintf(f, ".TP\n.BR assay\\-%s (1)\n", verbs->name);
        put_all(f, verbs->summary);
        fputc('\n', f);
    }
    fputs(".SH OPTIONS\nEvery verb that asks a broker takes these; its page has its own.\n", f);
    put_options(f, shared);
    fputs(
        ".SH ENVIRONMENT\n"
        ".TP\n.B ASSAY_ENDPOINT\nThe broker to talk to, where neither \\-\\-connect nor \\-\\-data "
        "is given.\n"
        ".TP\n.B ASSAY_DATA\nThe data directory, where \\-\\-data is not given. assayd and "
        "assay\\-http do not read it.\n"
        ".TP\n.B XDG_STATE_HOME\nThe data directory is \\fIassay\\fR in it; "
        "\\fI\\(ti/.local/state\\fR where it is not set.\n"
        ".TP\n.B NO_COLOR\nWhere it is set, neither colour nor a progress bar is drawn.\n"
        ".SH FILES\n"
        ".TP\n.I broker.sock\nIn the data directory: where the broker listens.\n"
        ".TP\n.I assay.db\nIn the data directory: an SQLite database. Its views may be read at any "
        "time, read\\-only.\n",
        f);
    put_exit_codes(f, cli_exit_codes);
    put_examples(f, cli_examples);
    fputs(".SH SEE ALSO\n.BR assayd (1)\n", f);
}

/* The programs beside `assay`. */
struct program {
    const char *name, *about, *synopsis, *signals, *exit_codes, *examples, *see_also;
    int (*describe)(int k, struct option_help *out);
};

static const struct program programs[] = {
    {"assayd", options_about, "\\fB\\-\\-model\\fR \\fIDIR\\fR [\\fIoptions\\fR]", options_signals,
        options_exit_codes, options_examples, ".BR assay (1),\n.BR assay\\-http (1)",
        options_describe},
    {"assay-http", http_about, "[\\fIoptions\\fR]", http_signals, http_exit_codes, http_examples,
        ".BR assayd (1)", http_options_describe},
};
enum { N_PROGRAMS = sizeof programs / sizeof programs[0] };

static const struct program *find_program(const char *name)
{
    for (int k = 0; k < N_PROGRAMS; k++)
        if (strcmp(programs[k].name, name) == 0)
            return &programs[k];
    return NULL;
}

static void put_program_page(FILE *f, const struct program *p)
{
    struct option_help o;
    put_head(f, p->name, p->name);
    put_all(f, p->about);
    fputs("\n.SH SYNOPSIS\n\\fB", f);
    put_all(f, p->name);
    fprintf(f, "\\fR %s\n.SH OPTIONS\n", p->synopsis);
    for (int k = 0; p->describe(k, &o); k++) {
        fputs(".TP\n\\fB\\-\\-", f);
        put_all(f, o.name);
        fputs("\\fR", f);
        if (o.argument) {
            fputs(o.may_lack ? "\\fI" : " \\fI", f);
            put_all(f, o.argument);
            fputs("\\fR", f);
        }
        fputc('\n', f);
        put_all(f, o.help);
        fputs(".\n", f);
    }
    fputs(".SH SIGNALS\n", f);
    put_all(f, p->signals);
    fputc('\n', f);
    put_exit_codes(f, p->exit_codes);
    put_examples(f, p->examples);
    fprintf(f, ".SH SEE ALSO\n%s\n", p->see_also);
}

/* Writes a page by name: the overview, a program's, or a verb's. */
static void put_page(FILE *f, const struct cli *c, const char *name, const struct cli_verb *verb)
{
    if (verb)
        put_verb_page(f, verb);
    else if (find_program(name))
        put_program_page(f, find_program(name));
    else
        put_overview_page(f, c->verbs);
}

static int write_page(const struct cli *c, const char *name, const struct cli_verb *verb)
{
    char path[4096];
    struct target target;
    struct err e = {0};
    int rc = cli_path(path, sizeof path, "%s/%s%s%s.1", c->value[CLI_DIR], name, verb ? "-" : "",
        verb ? verb->name : "");
    if (rc != 0)
        return rc;
    if (target_open(&target, path, NULL, c, &e) != 0)
        return e.code == ASSAY_EBADREQ ? cli_usage("%s", e.msg) : cli_fail(&e);
    put_page(target.file, c, name, verb);
    rc = target_finish(&target, &e) == 0 ? EX_OK : cli_fail(&e);
    target_release(&target);
    return rc;
}

static int write_pages(const struct cli *c)
{
    int rc = write_page(c, "assay", NULL);
    for (int k = 0; rc == 0 && k < N_PROGRAMS; k++)
        rc = write_page(c, programs[k].name, NULL);
    for (const struct cli_verb *verb = c->verbs; rc == 0 && verb->name; verb++)
        rc = write_page(c, "assay", verb);
    return rc;
}

int verb_man(const struct cli *c)
{
    const struct cli_verb *verb = c->verbs;
    if (c->value[CLI_DIR])
        return write_pages(c);
    int is_whole = !c->operand || find_program(c->operand);
    while (!is_whole && verb->name && strcmp(verb->name, c->operand) != 0)
        verb++;
    if (!verb->name)
        return cli_usage("man: expected a verb, assayd or assay-http, found '%s'", c->operand);
    put_page(stdout, c, c->operand ? c->operand : "assay", is_whole ? NULL : verb);
    return EX_OK;
}
