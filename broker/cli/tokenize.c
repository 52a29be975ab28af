/* tokenize.c - `assay tokenize`: the token ids of a text, or of each row of a file, by the code
 * with which a broker writes and tokenizes rows. Needs no broker and no weights, and for texts only
 * a tokenizer.json. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/json_print.h"
#include "broker/cli/lines.h"
#include "broker/cli/target.h"
#include "broker/text/buffer.h"
#include "broker/text/compose.h"
#include "schema/request.h"
#include "schema/utf8.h"
#include "schema/model_path.h"

struct job {
    const struct cli *cli;
    struct text_model text;
    const struct recipe *recipe; /* --recipe */
    struct composer *composer;
    char architecture[RECIPE_ARCHITECTURE_BYTES];
    int32_t step_token; /* of rows that name none */
    struct buffer ids;  /* of a row that is token ids */
    int failed;         /* a row was bad */
    int64_t n, number;  /* rows so far, and the number of the last one's line */
    int64_t blank;      /* the first blank line between them; 0: none */
};

/* A row's sequences; valid until the next one. */
struct tokens {
    struct composed composed;
    int is_list; /* the row has a list of them, even if only of one */
};

/* ---- a row ---- */

static void take_ids(struct job *j, const struct row_request *q, struct tokens *out)
{
    j->ids.len = 0;
    row_request_ids(q, (int32_t *)(void *)buffer_reserve(&j->ids, q->n_ids * sizeof(int32_t) + 1));
    out->composed = (struct composed){
        .ids = (const int32_t *)(const void *)j->ids.at, .ends = &q->n_ids, .n = 1};
}

/* Makes a row of a message token ids, as a broker does before it cuts what is too long. */
static int tokenize_row(
    struct job *j, struct slice row, struct row_request *q, struct tokens *out, struct err *e)
{
    struct msg_reader r;
    msg_reader_init(&r, row.at, row.len);
    int rc = request_next_row(&r, 0, q, e);
    if (rc == 0)
        rc = compose_check_kind(compose_recipe_of(j->recipe, j->architecture, q), q, e);
    if (rc != 0)
        return rc;
    int32_t step_token = q->pool.step_token >= 0 ? q->pool.step_token : j->step_token;
    *out = (struct tokens){.is_list = row_shape_is_choice(q->shape) || q->shape == ROW_PAIR};
    if (q->shape == ROW_IDS)
        take_ids(j, q, out);
    else
        rc = compose_row(j->composer, q, step_token, &out->composed, e);
    return rc;
}

/* ---- outputs ---- */

static void print_ids(const struct tokens *t)
{
    printf("{\"ids\":%s", t->is_list ? "[" : "");
    for (uint32_t k = 0, i = 0; k < t->composed.n; k++) {
        printf("%s[", k ? "," : "");
        for (uint32_t from = i; i < t->composed.ends[k]; i++)
            printf("%s%d", i > from ? "," : "", t->composed.ids[i]);
        printf("]");
    }
    printf("%s}\n", t->is_list ? "]" : "");
}

static void print_error(const struct err *e)
{
    char message[ERR_FIELD_BYTES + ERR_MESSAGE_BYTES + 4];
    snprintf(message, sizeof message, "%s%s%s", e->field, e->field[0] ? ": " : "", e->msg);
    json_t *line = json_pack(
        "{s:n, s:{s:s, s:s}}", "ids", "error", "code", err_name(e->code), "message", message);
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

static void print_table(const struct job *j, const struct tokens *t)
{
    uint32_t n = t->composed.ends[0];
    for (uint32_t i = 0; i < n; i++) {
        printf("%6u %8d  '", i, t->composed.ids[i]);
        print_piece(tokenizer_piece(j->text.tokenizer, t->composed.ids[i]));
        printf("'\n");
    }
    printf("%u token%s\n", n, cli_s(n));
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

static void write_text_row(const struct job *j, const struct buffer *text, struct msg_writer *w)
{
    msg_map(w, 2);
    msg_str(w, "text");
    msg_str_len(w, (const char *)text->at, text->len);
    msg_key_bool(w, "safe_text", j->cli->value[CLI_SAFE_TEXT] != NULL);
}

static int tokenize_text(struct job *j)
{
    struct buffer text = {0};
    struct err e = {0};
    struct msg_writer w;
    struct row_request q;
    struct tokens tokens;
    int rc = EX_OK;
    if (strcmp(j->cli->operand, "-") == 0)
        rc = read_stdin(&text);
    else
        buffer_text(&text, j->cli->operand);
    msg_writer_init(&w);
    write_text_row(j, &text, &w);
    struct slice row = {(const uint8_t *)w.buffer.data, w.buffer.size};
    if (rc == EX_OK && tokenize_row(j, row, &q, &tokens, &e) != 0) {
        cli_fail(&e);
        rc = EX_DATAERR;
    } else if (rc == EX_OK && j->cli->value[CLI_JSON]) {
        print_ids(&tokens);
    } else if (rc == EX_OK) {
        print_table(j, &tokens);
    }
    msg_writer_release(&w);
    buffer_release(&text);
    return rc;
}

/* ---- a file of rows ---- */

static void tokenize_line(struct job *j, struct line *line)
{
    struct row_request q;
    struct tokens tokens;
    if (line->err.code == 0 && tokenize_row(j, line->row, &q, &tokens, &line->err) == 0) {
        print_ids(&tokens);
        return;
    }
    j->failed = 1;
    print_error(&line->err);
}

static int tokenize_file(struct job *j, const char *path)
{
    struct cli of_lines = *j->cli;
    struct lines *file = NULL;
    struct line line;
    struct err e = {0};
    int got;
    of_lines.operand = path;
    int rc = lines_open(&file, &of_lines);
    if (rc != 0)
        return rc;
    while ((got = lines_next(file, &line, &e)) == 1) {
        if (j->blank == 0 && line.number > j->number + 1)
            j->blank = j->number + 1;
        j->number = line.number;
        j->n++;
        tokenize_line(j, &line);
        line_release(&line);
    }
    lines_close(&file);
    if (j->blank > 0)
        cli_say("%s: blank lines: %" PRId64 ", the first is line %" PRId64
                "; the output has none for them",
            path, j->number - j->n, j->blank);
    if (got < 0)
        return cli_fail(&e);
    return j->failed ? EX_ROWS_FAILED : EX_OK;
}

/* ---- the model's text ---- */

static int load(struct job *j, struct err *e)
{
    const struct cli *c = j->cli;
    const char *dir = c->value[CLI_MODEL], *tail = c->value[CLI_TAIL], *name = c->value[CLI_RECIPE];
    int rc = model_path_check(dir, e);
    if (rc != 0)
        return rc;
    recipe_architecture_of_dir(dir, j->architecture);
    struct text_options options = {c->value[CLI_CHAT_TEMPLATE], c->value[CLI_TEMPLATE_DATE],
        j->architecture, name ? recipe_find(name) : NULL,
        tail ? (unsigned)tail_from_name(tail) : 0};
    j->recipe = options.recipe;
    if (options.recipe)
        rc = recipe_check_dir(options.recipe, dir, e);
    if (rc == 0)
        rc = text_model_load(&j->text, dir, &options, e);
    if (rc == 0 && !j->text.tokenizer)
        rc = err_set(e, ASSAY_EFORMAT, "--model %s: %s", dir, j->text.reason);
    if (rc == 0)
        rc = text_model_step_token(&j->text, &j->step_token, e);
    if (rc == 0)
        j->composer = composer_new(&j->text);
    return rc;
}

/* A text is tokenized as it is: what says how a row is written says nothing of it. */
static int check_options(const struct cli *c)
{
    static const enum cli_option of_rows[] = {CLI_RECIPE, CLI_TAIL, CLI_CHAT_TEMPLATE,
        CLI_TEMPLATE_DATE, CLI_JOIN_CONTENT, CLI_GENERATION_PROMPT, CLI_STEP_TOKEN, CLI_FIELD};
    if (!c->value[CLI_MODEL])
        return cli_usage("tokenize: expected --model DIR, a directory with a tokenizer.json");
    if (!c->operand == !c->value[CLI_JSONL])
        return cli_usage("tokenize: expected a text, - for stdin, or --jsonl FILE");
    for (size_t i = 0; c->operand && i < sizeof of_rows / sizeof of_rows[0]; i++)
        if (c->value[of_rows[i]])
            return cli_usage("tokenize: --%s: expected with --jsonl FILE, found with a text, which "
                             "is tokenized as it is",
                cli_option_info(of_rows[i])->name);
    return c->value[CLI_RECIPE] ? cli_check_recipe(c) : 0;
}

int verb_tokenize(const struct cli *c)
{
    struct job j = {.cli = c};
    struct err e = {0};
    const char *path = c->value[CLI_JSONL];
    int rc = check_options(c);
    if (rc != 0)
        return rc;
    if ((path || strcmp(c->operand, "-") == 0) && target_check_stdout(path, &e) != 0)
        return cli_usage("tokenize: %s", e.msg);
    if (load(&j, &e) != 0)
        rc = cli_fail(&e);
    else
        rc = path ? tokenize_file(&j, path) : tokenize_text(&j);
    composer_free(&j.composer);
    text_model_release(&j.text);
    buffer_release(&j.ids);
    return rc;
}
