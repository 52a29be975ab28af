/* completion.c - `assay completion`: scripts with which a shell completes verbs, options and
 * arguments, made from the tables of verbs and options. */
#include <string.h>

#include "broker/cli/cli.h"

/* How an argument is completed. */
enum what { NOTHING, WORDS, FILES, DIRECTORIES };

static enum what what_of_option(const struct cli_option_info *info)
{
    if (info->values)
        return WORDS;
    if (strcmp(info->argument, "DIR") == 0)
        return DIRECTORIES;
    return strcmp(info->argument, "FILE") == 0 || strcmp(info->argument, "PATH") == 0 ? FILES
                                                                                      : NOTHING;
}

/* Prints the words of an operand such as "a|b", or all verbs. */
static void put_operand_words(const struct cli *c, const struct cli_verb *verb)
{
    if (strcmp(verb->operand, "[VERB]") == 0)
        for (const struct cli_verb *v = c->verbs; v->name; v++)
            printf("%s%s", v == c->verbs ? "" : " ", v->name);
    else
        for (const char *at = verb->operand; *at; at++)
            putchar(*at == '|' ? ' ' : *at);
}

static enum what what_of_operand(const struct cli_verb *verb)
{
    if (!verb->operand)
        return NOTHING;
    if (strncmp(verb->operand, "[INPUT", 6) == 0)
        return FILES;
    int is_choice = verb->operand[0] != '[' && strchr(verb->operand, '|');
    return is_choice || strcmp(verb->operand, "[VERB]") == 0 ? WORDS : NOTHING;
}

/* Calls put for the verb's own options and then the shared ones. */
static void each_option(const struct cli_verb *verb,
    void (*put)(const struct cli_verb *verb, const struct cli_option_info *info))
{
    for (const enum cli_option *o = verb->options; *o != CLI_OPTION_COUNT; o++)
        put(verb, cli_option_info(*o));
    for (const enum cli_option *o = cli_shared_options(verb); *o != CLI_OPTION_COUNT; o++)
        put(verb, cli_option_info(*o));
}

/* Prints text for the inside of a shell's single quotes, with a backslash before characters of
 * `special`. */
static void put_quoted(const char *text, const char *special)
{
    for (; *text; text++) {
        if (strchr(special, *text))
            putchar('\\');
        if (*text == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*text);
    }
}

/* ---- bash ---- */

static void put_bash_option(const struct cli_verb *verb, const struct cli_option_info *info)
{
    (void)verb;
    printf("--%s ", info->name);
}

/* Prints what completes the option's argument. */
static void put_bash_argument(const struct cli_option_info *info)
{
    enum what what = what_of_option(info);
    if (info->letter)
        printf("    -%c|", info->letter);
    printf(info->letter ? "--%s)" : "    --%s)", info->name);
    if (what == WORDS)
        printf(" _assay_words \"%s\";", info->values);
    if (what == FILES)
        printf(" _assay_paths -f;");
    if (what == DIRECTORIES)
        printf(" _assay_paths -d;");
    printf(" return ;;\n");
}

static void put_bash_operand(const struct cli *c, const struct cli_verb *verb)
{
    enum what what = what_of_operand(verb);
    if (what == FILES)
        printf("    %s) _assay_paths -f ;;\n", verb->name);
    if (what != WORDS)
        return;
    printf("    %s) _assay_words \"", verb->name);
    put_operand_words(c, verb);
    printf("\" ;;\n");
}

static void put_bash(const struct cli *c)
{
    printf("# bash completion for assay, made by `assay completion bash`\n"
           "_assay_words()\n{\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\")\n}\n\n"
           "_assay_paths()\n{\n"
           "    compopt -o filenames 2>/dev/null\n"
           "    mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$cur\")\n}\n\n"
           "_assay()\n{\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    COMPREPLY=()\n"
           "    if [[ $cur == = ]]; then cur=\n"
           "    elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}\n"
           "    fi\n"
           "    if [[ $COMP_CWORD == 1 ]]; then\n        _assay_words \"");
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++)
        printf("%s ", verb->name);
    printf("--help --version\"\n        return\n    fi\n    case $prev in\n");
    for (int o = 0; o < CLI_OPTION_COUNT; o++)
        if (cli_option_info((enum cli_option)o)->argument)
            put_bash_argument(cli_option_info((enum cli_option)o));
    printf("    esac\n    case ${COMP_WORDS[1]}:$cur in\n");
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++) {
        printf("    %s:-*) _assay_words \"", verb->name);
        each_option(verb, put_bash_option);
        printf("\"; return ;;\n");
    }
    printf("    esac\n    case ${COMP_WORDS[1]} in\n");
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++)
        put_bash_operand(c, verb);
    printf("    esac\n}\ncomplete -F _assay assay\n");
}

/* ---- zsh ---- */

static void put_zsh_option(const struct cli_verb *verb, const struct cli_option_info *info)
{
    (void)verb;
    printf(" \\\n            ");
    if (info->letter)
        printf("'(-%c --%s)'{-%c,--%s}'[", info->letter, info->name, info->letter, info->name);
    else
        printf("'--%s[", info->name);
    put_quoted(info->help, "[]:\\");
    printf("]");
    if (info->argument) {
        printf(":%s:", info->argument);
        switch (what_of_option(info)) {
        case WORDS:
            printf("(%s)", info->values);
            break;
        case FILES:
            printf("_files");
            break;
        case DIRECTORIES:
            printf("_files -/");
            break;
        case NOTHING:
            break;
        }
    }
    printf("'");
}

static void put_zsh_operand(const struct cli *c, const struct cli_verb *verb)
{
    enum what what = what_of_operand(verb);
    if (what == NOTHING)
        return;
    printf(" \\\n            '1:argument:");
    if (what == FILES) {
        printf("_files'");
        return;
    }
    printf("(");
    put_operand_words(c, verb);
    printf(")'");
}

static void put_zsh(const struct cli *c)
{
    printf("#compdef assay\n# zsh completion for assay, made by `assay completion zsh`\n"
           "_assay()\n{\n    local -a verbs\n    verbs=(\n");
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++) {
        printf("        '%s:", verb->name);
        put_quoted(verb->summary, ":\\");
        printf("'\n");
    }
    printf("    )\n    if (( CURRENT == 2 )); then\n        _describe verb verbs\n        return\n "
           "   fi\n"
           "    shift words\n    (( CURRENT-- ))\n    case $words[1] in\n");
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++) {
        printf("    %s)\n        _arguments", verb->name);
        each_option(verb, put_zsh_option);
        put_zsh_operand(c, verb);
        printf(" ;;\n");
    }
    printf("    esac\n}\n\nif [ \"$funcstack[1]\" = _assay ]; then\n    _assay \"$@\"\nelse\n"
           "    compdef _assay assay\nfi\n");
}

/* ---- fish ---- */

static void put_fish_option(const struct cli_verb *verb, const struct cli_option_info *info)
{
    printf("complete -c assay -n '__fish_seen_subcommand_from %s' -l %s", verb->name, info->name);
    if (info->letter)
        printf(" -s %c", info->letter);
    if (info->argument) {
        enum what what = what_of_option(info);
        printf(what == FILES ? " -rF" : " -x");
        if (what == WORDS)
            printf(" -a '%s'", info->values);
        if (what == DIRECTORIES)
            printf(" -a '(__fish_complete_directories)'");
    }
    printf(" -d '");
    put_quoted(info->help, "\\");
    printf("'\n");
}

static void put_fish_operand(const struct cli *c, const struct cli_verb *verb)
{
    enum what what = what_of_operand(verb);
    if (what == NOTHING)
        return;
    printf("complete -c assay -n '__fish_seen_subcommand_from %s'", verb->name);
    if (what == FILES) {
        printf(" -F\n");
        return;
    }
    printf(" -a '");
    put_operand_words(c, verb);
    printf("'\n");
}

static void put_fish(const struct cli *c)
{
    printf("# fish completion for assay, made by `assay completion fish`\ncomplete -c assay -f\n");
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++) {
        printf("complete -c assay -n __fish_use_subcommand -a %s -d '", verb->name);
        put_quoted(verb->summary, "\\");
        printf("'\n");
    }
    for (const struct cli_verb *verb = c->verbs; verb->name; verb++) {
        each_option(verb, put_fish_option);
        put_fish_operand(c, verb);
    }
}

int verb_completion(const struct cli *c)
{
    if (strcmp(c->operand, "bash") == 0)
        put_bash(c);
    else if (strcmp(c->operand, "zsh") == 0)
        put_zsh(c);
    else if (strcmp(c->operand, "fish") == 0)
        put_fish(c);
    else
        return cli_usage("completion: expected bash, zsh or fish, found '%s'", c->operand);
    return EX_OK;
}
