/* help.c - prints --help from the tables of verbs and options, 79 columns wide. */
#include "broker/cli/cli.h"

#include <string.h>

#define WIDTH 79
#define HELP_COLUMN 29 /* where the text beside an option or a verb begins */

const char cli_examples[] = "  assay score rows.jsonl -o scores.jsonl --model ./my-reward-model\n"
                            "  assayd --model ./my-reward-model &\n"
                            "  assay submit rows.jsonl --key monday\n"
                            "  assay wait monday && assay results monday\n";

/* Writes a line of text that begins at `column`, and wraps it to `indent`. */
static void put_line(FILE *f, const char *text, size_t len, int column, int indent)
{
    int first = 1;
    for (size_t at = 0, n; at < len; at += n + 1, first = 0) {
        n = 0;
        while (at + n < len && text[at + n] != ' ')
            n++;
        if (!first && column + 1 + (int)n > WIDTH)
            column = fprintf(f, "\n%*s", indent, "") - 1;
        else if (!first)
            column += fprintf(f, " ");
        column += fprintf(f, "%.*s", (int)n, text + at);
    }
    fputc('\n', f);
}

/* Writes lines of text, wrapped, except those that begin with a space. */
static void put_text(FILE *f, const char *text)
{
    for (size_t len; *text; text += len + (text[len] == '\n')) {
        len = strcspn(text, "\n");
        if (*text == ' ')
            fprintf(f, "%.*s\n", (int)len, text);
        else
            put_line(f, text, len, 0, 0);
    }
}

void cli_option_help(enum cli_option option, char *text, size_t size)
{
    const struct cli_option_info *info = cli_option_info(option);
    size_t at = (size_t)snprintf(text, size, "%s%s", info->help, info->values ? ": " : "");
    for (const char *word = info->values; word && at < size;) {
        int len = (int)strcspn(word, " ");
        const char *next = word[len] ? word + len + 1 : NULL;
        const char *mark = !next ? "" : strchr(next, ' ') ? ", " : " or ";
        at += (size_t)snprintf(text + at, size - at, "%.*s%s", len, word, mark);
        word = next;
    }
}

static void print_options(const enum cli_option *options)
{
    char left[64], text[CLI_HELP_BYTES];
    for (; *options != CLI_OPTION_COUNT; options++) {
        const struct cli_option_info *info = cli_option_info(*options);
        char letter[] = {'-', info->letter, ',', ' ', '\0'};
        if (!info->letter)
            letter[0] = '\0';
        snprintf(left, sizeof left, "%s--%s%s%s", letter, info->name, info->argument ? " " : "",
            info->argument ? info->argument : "");
        cli_option_help(*options, text, sizeof text);
        printf("  %-*s ", HELP_COLUMN - 3, left);
        put_line(stdout, text, strlen(text), HELP_COLUMN, HELP_COLUMN);
    }
}

void cli_print_help(const struct cli_verb *verb)
{
    put_text(stdout, verb->summary);
    printf("\nExamples:\n%s\nUsage: assay %s%s%s%s [options]\n\n", verb->examples, verb->name,
        verb->operand ? " " : "", verb->operand ? verb->operand : "",
        verb->needs & CLI_ADAPTER ? CLI_ADAPTER_OPERAND : "");
    if (verb->details) {
        put_text(stdout, verb->details);
        printf("\n");
    }
    printf("Options:\n");
    print_options(verb->options);
    print_options(cli_shared_options(verb));
    printf("\nExit codes: ");
    put_line(stdout, cli_exit_codes, strlen(cli_exit_codes), 12, 0);
}

void cli_print_overview(FILE *f, const struct cli_verb *verbs)
{
    fprintf(f, "assay - %s\n\nExamples:\n%s\nVerbs (each has --help):\n", CLI_ABOUT, cli_examples);
    for (; verbs->name; verbs++) {
        fprintf(f, "  %-11s ", verbs->name);
        put_line(f, verbs->summary, strlen(verbs->summary), 14, 14);
    }
}
