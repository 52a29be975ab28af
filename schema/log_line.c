/* log_line.c - see log_line.h.
 *
 * A format is words KEY=VALUE, where a value may have quotes around it. It is split at its keys, and
 * formatted at once with a separator for each: random, so that no value has it. */
#include "schema/log_line.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "schema/utf8.h"

#define MOST_FIELDS 32
#define FORMAT_BYTES 2048
#define TEXT_BYTES 4096
#define SEPARATOR_BYTES 18 /* with its NUL */
#define LAST_BYTES 4       /* a quote, a brace, a newline */

struct field {
    const char *key, *format; /* into the format */
    int n_key, n_format;      /* n_key 0: words without a key */
    int is_quoted;
};

/* ---- the format ---- */

/* The length of the key that a text begins with, 0 if it does not. */
static int key_length(const char *at)
{
    int n = (int)strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return n > 0 && at[n] == '=' ? n : 0;
}

/* The end of a value without quotes: where the next key begins, less the blank, or the text's
 * end. */
static const char *end_of_words(const char *at)
{
    for (const char *blank = at; (blank = strchr(blank, ' ')); blank++)
        if (key_length(blank + 1) > 0)
            return blank;
    return at + strlen(at);
}

static const char *split_one(const char *at, struct field *f)
{
    *f = (struct field){.key = at, .n_key = key_length(at)};
    f->format = at + f->n_key + (f->n_key > 0);
    f->is_quoted = f->n_key > 0 && *f->format == '"' && strchr(f->format + 1, '"');
    f->format += f->is_quoted;
    const char *end = f->is_quoted ? strchr(f->format, '"') : end_of_words(f->format);
    f->n_format = (int)(end - f->format);
    return end + f->is_quoted;
}

static int split(const char *format, struct field *fields)
{
    int n = 0;
    for (const char *at = format; n < MOST_FIELDS; n++) {
        at += strspn(at, " ");
        if (*at == '\0')
            return n;
        at = split_one(at, &fields[n]);
    }
    return 0; /* too many: all of it is words */
}

/* The formats of all fields with the separator between them: 0, or -1 if they have no room. */
static int join(char *joined, size_t size, const struct field *fields, int n, const char *separator)
{
    size_t len = 0;
    for (int k = 0; k < n; k++) {
        int added = snprintf(joined + len, size - len, "%.*s%s", fields[k].n_format,
            fields[k].format, k + 1 < n ? separator : "");
        if (added < 0 || (size_t)added >= size - len)
            return -1;
        len += (size_t)added;
    }
    return 0;
}

static void make_separator(char *separator)
{
    unsigned char random[8] = {0};
    ssize_t got = getrandom(random, sizeof random, GRND_NONBLOCK);
    (void)got; /* early after a start of the machine there is none: a control character remains */
    separator[0] = '\x1f';
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(separator + 1 + 2 * i, 3, "%02x", random[i]);
}

/* ---- writing ---- */

struct line {
    char *at;
    size_t n, size;
    int is_full;
};

/* Puts as much as has room beside the line's end, whole characters. */
static void put(struct line *l, const char *bytes, size_t n)
{
    if (l->is_full || l->n + n + LAST_BYTES > l->size) {
        l->is_full = 1;
        return;
    }
    memcpy(l->at + l->n, bytes, n);
    l->n += n;
}

static void put_text(struct line *l, const char *text)
{
    put(l, text, strlen(text));
}

static void put_escaped(struct line *l, const char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        int n = utf8_length((const uint8_t *)text, left);
        char pair[2] = {'\\', *text};
        n = n > 0 ? n : 1;
        if (*text == '"' || *text == '\\')
            put(l, pair, 2);
        else
            put(l, text, (size_t)n);
        text += n;
        left -= (size_t)n;
    }
}

static void put_quoted(struct line *l, const char *text)
{
    int was_full = l->is_full;
    put_text(l, "\"");
    if (!was_full && l->is_full) /* not even begun: an empty one */
        l->at[l->n++] = '"';
    else
        put_escaped(l, text);
    if (!was_full)
        l->at[l->n++] = '"';
}

/* Is it a number by its format, and JSON's as it came out? */
static int is_number(const struct field *f, const char *value)
{
    size_t n = strlen(value), digits = strspn(value + (*value == '-'), "0123456789");
    const char *last = f->format + f->n_format - 1,
               *conversion = memchr(f->format, '%', (size_t)f->n_format);
    const char *first = value + (*value == '-');
    return !f->is_quoted && conversion == f->format && strchr("diu", *last) && digits > 0 &&
           digits < 19 && (digits == 1 || *first != '0') && first + digits == value + n;
}

static int needs_quotes(const char *value)
{
    return *value == '\0' || strpbrk(value, " \"=\\") != NULL;
}

static void put_field(struct line *l, const struct field *f, const char *value, int is_json)
{
    char key[64];
    snprintf(
        key, sizeof key, "%.*s", f->n_key > 0 ? f->n_key : 7, f->n_key > 0 ? f->key : "message");
    if (l->n + strlen(key) + 32 + LAST_BYTES > l->size)
        l->is_full = 1;
    if (l->is_full)
        return;
    put_text(l, is_json ? ",\"" : " ");
    put_text(l, key);
    put_text(l, is_json ? "\":" : "=");
    if (is_json ? !is_number(f, value) : f->is_quoted || needs_quotes(value))
        put_quoted(l, value);
    else
        put_escaped(l, value);
}

static void put_head(struct line *l, const struct log_head *head, int is_json)
{
    char rank[16] = "-", text[256];
    if (head->rank >= 0)
        snprintf(rank, sizeof rank, "%d", head->rank);
    else if (is_json)
        strcpy(rank, "null");
    snprintf(text, sizeof text,
        is_json ? "{\"ts\":\"%s\",\"level\":\"%s\",\"role\":\"%.60s\",\"rank\":%s"
                : "%s %s %.60s %s",
        head->time, head->level, head->role, rank);
    put_text(l, text);
}

/* Puts each field with its part of the text. */
static void put_fields(struct line *l, const struct field *fields, int n, char *text,
    const char *separator, int is_json)
{
    for (int k = 0; k < n && text; k++) {
        char *next = k + 1 < n ? strstr(text, separator) : NULL;
        if (next)
            *next = '\0';
        utf8_make_printable(text); /* names and messages may come from outside */
        put_field(l, &fields[k], text, is_json);
        text = next ? next + strlen(separator) : NULL;
    }
}

/* A text that was cut may end in a part of a separator. */
static void drop_part(char *text, const char *separator)
{
    char *begin = strrchr(text, separator[0]);
    if (begin && strncmp(begin, separator, strlen(begin)) == 0 && strlen(begin) < strlen(separator))
        *begin = '\0';
}

size_t log_line_write(char *out, size_t size, const struct log_head *head, int is_json,
    const char *format, va_list arguments)
{
    struct field fields[MOST_FIELDS];
    struct line l = {.at = out, .size = size};
    char separator[SEPARATOR_BYTES] = "", joined[FORMAT_BYTES], text[TEXT_BYTES];
    int n = split(format, fields);
    make_separator(separator);
    if (n == 0 || join(joined, sizeof joined, fields, n, separator) != 0) {
        n = 1;
        fields[0] = (struct field){.format = format, .n_format = (int)strlen(format)};
        snprintf(joined, sizeof joined, "%s", format);
    }
    if (vsnprintf(text, sizeof text, joined, arguments) < 0)
        text[0] = '\0';
    drop_part(text, separator);
    put_head(&l, head, is_json);
    put_fields(&l, fields, n, text, separator, is_json);
    if (is_json)
        out[l.n++] = '}';
    out[l.n++] = '\n';
    return l.n;
}
