/* multipart.c - see multipart.h.
 *
 * A boundary stands at the beginning of a line: CR LF - - BOUNDARY, behind it blanks and CR LF, or - -
 * behind the last part. CR is in it only once, so what was taken for its beginning and is not has no
 * other beginning of it inside. */
#include "broker/http/multipart.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "schema/alloc.h"

#define BLANKS_BYTES 64 /* behind a boundary */

enum state { BEFORE, HEAD, CONTENTS, BEHIND };

struct multipart {
    struct multipart_taker taker;
    enum state state;
    char mark[MULTIPART_BOUNDARY_BYTES + 5]; /* CR LF - - BOUNDARY */
    size_t mark_len, n_matched;
    char after[BLANKS_BYTES]; /* what came behind a mark that is whole */
    size_t n_after;
    char head[MULTIPART_HEAD_BYTES + 1];
    size_t n_head;
    size_t n_around;
};

/* ---- parameters ---- */

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " \t");
}

/* Copies a value, perhaps in quotes, where a backslash stands in front of a quote or of itself. */
static const char *copy_value(const char *at, char *out, size_t size)
{
    size_t n = 0;
    int is_quoted = *at == '"';
    at += is_quoted;
    while (*at && (is_quoted ? *at != '"' : !strchr("; \t", *at))) {
        at += is_quoted && *at == '\\' && (at[1] == '"' || at[1] == '\\');
        if (n + 1 < size)
            out[n] = *at;
        n++;
        at++;
    }
    out[n < size ? n : 0] = '\0'; /* one that is too long is none */
    return at + (is_quoted && *at);
}

/* Finds ";NAME=VALUE" in a header's value. Returns 1 with a copy of the value, or 0. */
static int find_parameter(const char *header, const char *name, char *out, size_t size)
{
    const char *at = header + strcspn(header, ";");
    while (*at == ';') {
        char ignored[2];
        const char *word = at = skip_blanks(at + 1);
        size_t n = strcspn(word, "=; \t");
        int is_it = n == strlen(name) && strncasecmp(word, name, n) == 0;
        at = skip_blanks(word + n);
        if (*at == '=')
            at = copy_value(skip_blanks(at + 1), is_it ? out : ignored, is_it ? size : 2);
        else
            is_it = 0;
        if (is_it)
            return 1;
        at += strcspn(at, ";");
    }
    return 0;
}

int multipart_new(
    struct multipart **out, const char *type, const struct multipart_taker *taker, struct err *e)
{
    char boundary[MULTIPART_BOUNDARY_BYTES + 1] = "";
    *out = NULL;
    if (!find_parameter(type, "boundary", boundary, sizeof boundary) || !boundary[0] ||
        strpbrk(boundary, "\r\n"))
        return err_set(e, ASSAY_EBADREQ,
            "Content-Type: expected multipart/form-data with a boundary of 1 to %d bytes",
            MULTIPART_BOUNDARY_BYTES);
    struct multipart *m = *out = xcalloc(1, sizeof *m);
    m->taker = *taker;
    m->mark_len = 4 + strlen(boundary);
    memcpy(m->mark, "\r\n--", 4);
    memcpy(m->mark + 4, boundary, m->mark_len - 4);
    m->n_matched = 2; /* the first may stand at the very beginning */
    return 0;
}

void multipart_free(struct multipart **m)
{
    free(*m);
    *m = NULL;
}

int multipart_is_whole(const struct multipart *m)
{
    return m->state == BEHIND;
}

/* ---- heads ---- */

/* The value of a header of the part's head, which ends lines with NUL; "" where it is not there. */
static const char *find_header(const struct multipart *m, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = m->head; line < m->head + m->n_head; line += strlen(line) + 1)
        if (strncasecmp(line, name, n) == 0 && line[n] == ':')
            return skip_blanks(line + n + 1);
    return "";
}

static void begin_part(struct multipart *m)
{
    char name[MULTIPART_NAME_BYTES] = "", filename[MULTIPART_NAME_BYTES] = "";
    for (size_t k = 0; k < m->n_head; k++)
        if (m->head[k] == '\r' || m->head[k] == '\n')
            m->head[k] = '\0';
    const char *disposition = find_header(m, "Content-Disposition");
    find_parameter(disposition, "name", name, sizeof name);
    int is_file = find_parameter(disposition, "filename", filename, sizeof filename);
    struct multipart_part part = {.name = name,
        .filename = is_file ? filename : NULL,
        .encoding = find_header(m, "Content-Transfer-Encoding")};
    m->taker.begin(m->taker.arg, &part);
    m->state = CONTENTS;
}

/* Takes one byte of a head, which an empty line ends. */
static int take_head(struct multipart *m, char c, struct err *e)
{
    if (m->n_head == MULTIPART_HEAD_BYTES || c == '\0')
        return err_set(e, ASSAY_EBADREQ, "expected heads of parts of at most %d bytes, without NUL",
            MULTIPART_HEAD_BYTES);
    m->head[m->n_head++] = c;
    m->head[m->n_head] = '\0';
    int is_end = m->n_head >= 4 && memcmp(m->head + m->n_head - 4, "\r\n\r\n", 4) == 0;
    if (is_end || (m->n_head == 2 && memcmp(m->head, "\r\n", 2) == 0))
        begin_part(m);
    return 0;
}

/* ---- contents ---- */

static int put(struct multipart *m, const char *bytes, size_t n, struct err *e)
{
    if (m->state == CONTENTS) {
        m->taker.take(m->taker.arg, bytes, n);
        return 0;
    }
    m->n_around += n;
    if (m->n_around <= MULTIPART_AROUND_BYTES)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "expected at most %d bytes in front of the first part and behind the last",
        MULTIPART_AROUND_BYTES);
}

/* What looked like a boundary is none. */
static int put_back(struct multipart *m, struct err *e)
{
    int at_begin = m->state == BEFORE && m->n_around == 0 && m->n_matched >= 2;
    size_t from = at_begin ? 2 : 0; /* CR LF that nobody sent */
    int rc = put(m, m->mark + from, m->n_matched - from, e);
    if (rc == 0)
        rc = put(m, m->after, m->n_after, e);
    m->n_matched = m->n_after = 0;
    return rc;
}

/* A byte behind a whole mark. Returns 1 where it belongs to the boundary, 0 where there is none. */
static int take_after(struct multipart *m, char c)
{
    if (m->n_after == BLANKS_BYTES)
        return 0;
    m->after[m->n_after++] = c;
    char before = m->n_after > 1 ? m->after[m->n_after - 2] : ' ';
    int is_last = c == '-' && m->n_after == 2 && before == '-',
        is_end = c == '\n' && before == '\r';
    if (is_last || is_end) {
        m->state = is_last ? BEHIND : HEAD;
        m->n_head = m->n_matched = m->n_after = 0;
        return 1;
    }
    int goes_on = c == '\0'          ? 0
                  : strchr(" \t", c) ? strchr(" \t", before) != NULL
                  : c == '-'         ? m->n_after == 1
                                     : c == '\r' && strchr(" \t", before);
    m->n_after -= !goes_on;
    return goes_on;
}

/* Takes bytes that may hold a boundary. Returns how many, at least one, or a code. */
static ptrdiff_t take_contents(struct multipart *m, const char *bytes, size_t n, struct err *e)
{
    if (m->n_matched == m->mark_len) {
        if (take_after(m, *bytes))
            return 1;
    } else if (*bytes == m->mark[m->n_matched]) {
        m->n_matched++;
        return 1;
    }
    if (m->n_matched > 0 && put_back(m, e) != 0)
        return e->code;
    const char *cr = memchr(bytes, '\r', n);
    size_t plain = cr ? (size_t)(cr - bytes) : n;
    if (plain == 0) {
        m->n_matched = 1;
        return 1;
    }
    return put(m, bytes, plain, e) == 0 ? (ptrdiff_t)plain : e->code;
}

int multipart_feed(struct multipart *m, const char *bytes, size_t n, struct err *e)
{
    int rc = 0;
    while (rc == 0 && n > 0) {
        ptrdiff_t done = 1;
        if (m->state == BEHIND)
            rc = put(m, bytes, (size_t)(done = (ptrdiff_t)n), e);
        else if (m->state == HEAD)
            rc = take_head(m, *bytes, e);
        else if ((done = take_contents(m, bytes, n, e)) < 0)
            rc = (int)done;
        bytes += done;
        n -= (size_t)done;
    }
    return rc;
}
