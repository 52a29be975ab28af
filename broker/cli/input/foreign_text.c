/* foreign_text.c - recognises text that is not JSON lines: JSON over several lines, and tables
 * (foreign.h).
 *
 * One bad line is no reason to refuse a file, so the lines after it are examined as well: if lines
 * begin with `{` as rows do, only that line is bad. */
#include <string.h>

#include "broker/cli/input/columns.h"
#include "broker/cli/input/foreign.h"
#include "schema/json.h"

static const struct foreign array = {
    "a JSON array", "write each of its objects into a line of its own: jq -c '.[]'"};
static const struct foreign spread = {
    "JSON that is spread over lines", "write each object into one line: jq -c ."};
static const struct foreign comma_table = {"a table of comma-separated values (CSV)",
    "write it out as JSON lines first (pandas: read_csv(..).to_json(orient='records', "
    "lines=True))"};
static const struct foreign tab_table = {"a table of tab-separated values (TSV)",
    "write it out as JSON lines first (pandas: read_csv(.., sep='\\t').to_json(orient='records', "
    "lines=True))"};

/* A line that is not blank, without surrounding white space. */
struct line {
    const char *at;
    size_t len;
    int is_indented;
    int is_whole;  /* its end was seen */
    int depth;     /* of brackets that are open at its end */
    int in_string; /* it ends within a string */
};

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void measure(struct line *line)
{
    const char *at = line->at, *end = at + line->len;
    while (at && at < end) {
        line->depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        at = *at == '"' ? json_string_end(at, end) : at + 1;
    }
    line->in_string = !at;
}

/* Returns 1 with the next line and *from set past it, 0 if there is none. */
static int next_line(const char **from, const char *end, int is_all, struct line *line)
{
    while (*from < end) {
        const char *at = *from, *stop = memchr(at, '\n', (size_t)(end - at));
        *line = (struct line){.is_whole = stop || is_all};
        stop = stop ? stop : end;
        *from = stop < end ? stop + 1 : end;
        line->is_indented = at < stop && is_blank(*at);
        while (at < stop && is_blank(*at))
            at++;
        while (stop > at && is_blank(stop[-1]))
            stop--;
        line->at = at;
        line->len = (size_t)(stop - at);
        if (line->len > 0) {
            measure(line);
            return 1;
        }
    }
    return 0;
}

static int is_row(const struct line *line)
{
    return line->at[0] == '{' && line->at[line->len - 1] == '}' && line->depth == 0 &&
           !line->in_string && !line->is_indented;
}

/* Is there a row that is followed by another row or by the end? In an array, a comma or a bracket
 * would follow. */
static int has_rows(const char *from, const char *end, int is_all)
{
    struct line line;
    int was_row = 0;
    while (next_line(&from, end, is_all, &line)) {
        if (was_row && line.at[0] == '{')
            return 1;
        was_row = is_row(&line);
    }
    return was_row && is_all;
}

static int begins_row(const char *from, const char *end)
{
    struct line line;
    while (next_line(&from, end, 1, &line))
        if (line.at[0] == '{')
            return 1;
    return 0;
}

/* ---- tables ---- */

/* Counts the separators outside of quotes. */
static int count(const struct line *line, char separator)
{
    int n = 0, in_string = 0;
    for (size_t i = 0; i < line->len; i++) {
        in_string ^= line->at[i] == '"';
        n += !in_string && line->at[i] == separator;
    }
    return n;
}

/* Does it name a column that rows have? */
static int has_column(const struct line *line, char separator)
{
    for (const char *at = line->at, *end = at + line->len, *stop; at < end; at = stop + 1) {
        stop = memchr(at, separator, (size_t)(end - at));
        stop = stop ? stop : end;
        size_t n = (size_t)(stop - at);
        int quoted = n > 2 && at[0] == '"' && stop[-1] == '"';
        if (columns_is_read(quoted ? at + 1 : at, quoted ? n - 2 : n))
            return 1;
    }
    return 0;
}

static int is_table(
    const struct line *head, char separator, const char *from, const char *end, int is_all)
{
    struct line second;
    int n = count(head, separator);
    if (has_column(head, separator))
        return 1;
    return n > 0 && next_line(&from, end, is_all, &second) && count(&second, separator) == n;
}

/* ---- all ---- */

static int is_spread(const struct line *first, const char *from, const char *end, int is_all)
{
    struct line second;
    return first->is_whole && first->depth > 0 && !first->in_string &&
           strchr("{[,:", first->at[first->len - 1]) != NULL &&
           next_line(&from, end, is_all, &second) &&
           (second.is_indented || strchr("\"]}", second.at[0]) != NULL);
}

/* True if nothing follows the array, or it does not end in its line and no rows follow. */
static int is_array(const struct line *first, const char *from, const char *end, int is_all)
{
    struct line second;
    if (!first->is_whole || first->depth > 0)
        return !has_rows(from, end, is_all);
    return is_all && !next_line(&from, end, is_all, &second);
}

int foreign_is_plain(const char *text, size_t len)
{
    struct line first;
    const char *from = text;
    int is_line =
        memchr(text, '\n', len) != NULL; /* else it is longer than a line of spread JSON */
    return next_line(&from, text + len, 1, &first) && first.at[0] == '{' &&
           (!is_line || first.depth <= 0 || first.in_string);
}

const struct foreign *foreign_text(const char *text, size_t len, int is_all)
{
    struct line first;
    const char *from = text, *end = text + len;
    if (!next_line(&from, end, is_all, &first))
        return NULL;
    if (first.at[0] == '[')
        return is_array(&first, from, end, is_all) ? &array : NULL;
    if (first.at[0] == '{')
        return is_spread(&first, from, end, is_all) && !has_rows(from, end, is_all) ? &spread
                                                                                    : NULL;
    if (begins_row(from, end))
        return NULL;
    if (is_table(&first, '\t', from, end, is_all))
        return count(&first, '\t') > 0 ? &tab_table : &comma_table;
    return is_table(&first, ',', from, end, is_all) || is_table(&first, ';', from, end, is_all)
               ? &comma_table
               : NULL;
}
