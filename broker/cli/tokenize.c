/* tokenize.c - `assay tokenize`: text to token ids, with only a directory that has a
 * tokenizer.json. Needs no broker and no weights. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/json_print.h"
#include "broker/cli/input/jsonl.h"
#include "broker/cli/target.h"
#include "broker/text/buffer.h"
#include "broker/text/tokenizer.h"
#include "schema/utf8.h"

struct job {
    const struct cli *cli;
    struct tokenizer *tokenizer;
    struct encoder *encoder;
    int failed;        /* a text was bad */
    int64_t n, number; /* lines with a text so far, and the number of the last */
    int64_t blank;     /* the first blank line between them; 0: none */
};

static int encode(struct job *j, struct slice text, int safe, int special, struct err *e)
{
    struct span all = {0, text.len};
    encoder_clear(j->encoder);
    if (special)
        encoder_begin(j->encoder);
    int rc = encoder_text(j->encoder, text, &all, safe, e);
    if (special)
        encoder_end(j->encoder);
    return rc;
}

static void print_ids(const struct id_list *ids)
{
    printf("{\"ids\":[");
    for (size_t i = 0; i < ids->len; i++)
        printf("%s%d", i ? "," : "", ids->at[i]);
    printf("]}\n");
}

static void print_error(const struct err *e)
{
    json_t *line = json_pack(
        "{s:n, s:{s:s, s:s}}", "ids", "error", "code", err_name(e->code), "message", e->msg);
    json_print_line(stdout, line, NULL);
    json_decref(line);
}

/* Prints a piece as one word: control characters and invalid bytes as \x.., a space as it is. */
static void print_piece(struct slice piece)
{
    for (size_t i = 0; i < piece.len;) {
        int len = utf8_length(piece.at + i, piece.len - i);
        int shown = len > 0 && !utf8_is_control(piece.at + i, len);
        for (len = len > 0 ? len : 1; len > 0; len--, i++)
            if (shown)
                putchar(piece.at[i]);
            else
                printf("\\x%02x", piece.at[i]);
    }
}

static void print_table(const struct job *j)
{
    const struct id_list *ids = encoder_ids(j->encoder);
    for (size_t i = 0; i < ids->len; i++) {
        printf("%6zu %8d  '", i, ids->at[i]);
        print_piece(tokenizer_piece(j->tokenizer, ids->at[i]));
        printf("'\n");
    }
    printf("%zu tokens\n", ids->len);
}

/* ---- one text ---- */

static int read_stdin(struct buffer *text)
{
    struct err e;
    size_t got;
    errno = 0;
    do {
        got = fread(buffer_reserve(text, 1 << 16), 1, 1 << 16, stdin);
        text->len += got;
    } while (got > 0);
    if (!ferror(stdin))
        return EX_OK;
    err_errno(&e, ASSAY_EIO, "cannot read stdin");
    return cli_fail(&e);
}

static int tokenize_text(struct job *j)
{
    struct buffer text = {0};
    struct err e = {0};
    int rc = EX_OK;
    if (strcmp(j->cli->operand, "-") == 0)
        rc = read_stdin(&text);
    else
        buffer_text(&text, j->cli->operand);
    int safe = j->cli->value[CLI_SAFE_TEXT] != NULL;
    if (rc == EX_OK && encode(j, (struct slice){text.at, text.len}, safe, 1, &e) != 0) {
        cli_fail(&e);
        rc = EX_DATAERR;
    } else if (rc == EX_OK && j->cli->value[CLI_JSON]) {
        print_ids(encoder_ids(j->encoder));
    } else if (rc == EX_OK) {
        print_table(j);
    }
    buffer_release(&text);
    return rc;
}

/* ---- a file of texts ---- */

/* Is the text safe, by the line or the option? Negative with line->err: bad, or they contradict. */
static int is_safe(const struct job *j, struct jsonl_line *line)
{
    const json_t *v = json_object_get(line->object, "safe_text");
    int is_given = j->cli->value[CLI_SAFE_TEXT] != NULL;
    if (!v || json_is_null(v) || (is_given && json_is_true(v)))
        return is_given;
    if (json_is_boolean(v) && !is_given)
        return json_is_true(v);
    return err_set(&line->err, ASSAY_EBADREQ, "line %lld: safe_text: expected %s, found %s",
        (long long)line->number, json_is_boolean(v) ? "what --safe-text says" : "true or false",
        json_is_boolean(v) ? "false" : json_kind(v));
}

/* Does the line take what the tokenizer puts around a text? Negative with line->err: bad. */
static int adds_special_tokens(struct jsonl_line *line)
{
    const json_t *v = json_object_get(line->object, "add_special_tokens");
    if (!v || json_is_null(v) || json_is_boolean(v))
        return !json_is_false(v);
    return err_set(&line->err, ASSAY_EBADREQ,
        "line %lld: add_special_tokens: expected true or false, found %s", (long long)line->number,
        json_kind(v));
}

static void tokenize_line(struct job *j, struct jsonl_line *line)
{
    const json_t *text = json_object_get(line->object, "text");
    struct slice bytes = {(const uint8_t *)json_string_value(text), json_string_length(text)};
    if (line->object && !json_is_string(text))
        err_set(&line->err, ASSAY_EBADREQ, "line %lld: text: expected a string, found %s",
            (long long)line->number, json_kind(text));
    int safe = line->err.code == 0 ? is_safe(j, line) : 0;
    int special = line->err.code == 0 ? adds_special_tokens(line) : 0;
    if (line->err.code == 0 && encode(j, bytes, safe, special, &line->err) == 0) {
        print_ids(encoder_ids(j->encoder));
        return;
    }
    j->failed = 1;
    print_error(&line->err);
}

static int tokenize_file(struct job *j, const char *path)
{
    struct jsonl *file = NULL;
    struct jsonl_line line;
    struct err e = {0};
    int got = 1;
    if (jsonl_open(&file, path, &e) != 0) {
        cli_fail(&e);
        return EX_NOINPUT;
    }
    if (jsonl_look(file, &e) != 0)
        got = -1;
    while (got == 1 && (got = jsonl_next(file, &line, &e)) == 1) {
        if (j->blank == 0 && line.number > j->number + 1)
            j->blank = j->number + 1;
        j->number = line.number;
        j->n++;
        tokenize_line(j, &line);
        json_decref(line.object);
        json_decref(line.beginning);
    }
    jsonl_close(&file);
    if (j->blank > 0)
        cli_say("%s: blank lines: %" PRId64 ", the first is line %" PRId64
                "; the output has none for them",
            path, j->number - j->n, j->blank);
    if (got < 0)
        return cli_fail(&e);
    return j->failed ? EX_ROWS_FAILED : EX_OK;
}

int verb_tokenize(const struct cli *c)
{
    struct job j = {.cli = c};
    struct err e = {0};
    const char *path = c->value[CLI_JSONL];
    if (!c->value[CLI_MODEL])
        return cli_usage("tokenize: expected --model DIR, a directory with a tokenizer.json");
    if (!c->operand == !path)
        return cli_usage("tokenize: expected a text, - for stdin, or --jsonl FILE");
    if ((path || strcmp(c->operand, "-") == 0) && target_check_stdout(path, &e) != 0)
        return cli_usage("tokenize: %s", e.msg);
    if (tokenizer_load(&j.tokenizer, c->value[CLI_MODEL], &e) != 0)
        return cli_fail(&e);
    j.encoder = encoder_new(j.tokenizer);
    int rc = path ? tokenize_file(&j, path) : tokenize_text(&j);
    encoder_free(&j.encoder);
    tokenizer_free(&j.tokenizer);
    return rc;
}
