/* batch_lines.c - see batch_lines.h. */
#include "broker/http/batch_lines.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/ask/body.h"
#include "schema/alloc.h"

#define PIECE_BYTES (1 << 20)
#define HASH_BYTES 16

/* ---- where the lines are ---- */

static int note_begin(
    struct batch_lines *l, uint32_t *room, int64_t at, uint32_t number, struct err *e)
{
    if (l->n == LINES_MOST)
        return err_set(e, ASSAY_ETOOLARGE, "expected at most %u lines, found more", LINES_MOST);
    if (l->n + 1 >= *room) {
        *room = *room ? 2 * *room : 1024;
        l->places = xgrow(l->places, l->n, *room + 1, sizeof *l->places);
    }
    l->places[l->n++] = (struct batch_place){at, number};
    return 0;
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A line begins with its first byte that is not blank, and so none is where there are only blanks. */
static int scan(struct batch_lines *l, char *piece, struct err *e)
{
    int64_t at = 0;
    int is_begin = 1, rc = 0;
    uint32_t room = 0, number = 1;
    ssize_t got;
    while (rc == 0 && (got = pread(l->fd, piece, PIECE_BYTES, at)) > 0) {
        for (char *p = piece, *end = piece + got; rc == 0 && p < end; p++) {
            if (is_begin && !is_blank(*p)) {
                rc = note_begin(l, &room, at + (p - piece), number, e);
                is_begin = 0;
            }
            if (!is_begin && !(p = memchr(p, '\n', (size_t)(end - p))))
                break;
            number += *p == '\n';
            is_begin |= *p == '\n';
        }
        at += got;
    }
    if (rc == 0 && got < 0)
        return err_errno(e, ASSAY_EIO, "the input file");
    if (rc == 0 && l->n > 0)
        l->places[l->n].at = at;
    return rc;
}

int batch_lines_open(struct batch_lines *l, int fd, size_t max_bytes, struct err *e)
{
    char *piece = xcalloc(PIECE_BYTES, 1);
    *l = (struct batch_lines){.fd = fd, .max_bytes = max_bytes};
    int rc = scan(l, piece, e);
    free(piece);
    if (rc != 0)
        batch_lines_release(l);
    return rc;
}

void batch_lines_release(struct batch_lines *l)
{
    if (l->fd >= 0)
        close(l->fd);
    free(l->places);
    *l = (struct batch_lines){.fd = -1};
}

/* ---- one line ---- */

static int read_text(const struct batch_lines *l, uint32_t k, char *text, size_t n, struct err *e)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(l->fd, text + done, n - done, l->places[k].at + (int64_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_errno(e, ASSAY_EIO, "the input file cannot be read");
        done += (size_t)got;
    }
    return 0;
}

int batch_lines_read(const struct batch_lines *l, uint32_t k, const char *url,
    struct batch_line *line, const char **code, struct err *e)
{
    size_t n = (size_t)(l->places[k + 1].at - l->places[k].at);
    *line = (struct batch_line){0};
    *code = "invalid_json_line";
    if (n > l->max_bytes)
        return err_set(
            e, ASSAY_ETOOLARGE, "expected a line of at most %zu bytes, found more", l->max_bytes);
    char *text = xcalloc(n + 1, 1);
    int rc = read_text(l, k, text, n, e);
    size_t mark = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    if (rc == 0 && (rc = body_parse(text + mark, n - mark, &line->whole, e)) != 0)
        e->code = rc = ASSAY_EBADREQ;
    free(text);
    return rc == 0 ? batch_line_read(line, url, code, e) : rc;
}

/* ---- ids ---- */

struct seen {
    uint32_t mask;
    unsigned char key[crypto_generichash_KEYBYTES]; /* so that nobody can make two ids alike */
    unsigned char (*all)[HASH_BYTES];
};

struct seen *seen_new(uint32_t n_most)
{
    struct seen *s = xcalloc(1, sizeof *s);
    uint32_t room = 16;
    while (room < 2 * n_most)
        room *= 2;
    s->mask = room - 1;
    s->all = xcalloc(room, sizeof *s->all);
    randombytes_buf(s->key, sizeof s->key);
    return s;
}

void seen_free(struct seen **s)
{
    if (*s)
        free((*s)->all);
    free(*s);
    *s = NULL;
}

int seen_add(struct seen *s, const char *id)
{
    static const unsigned char none[HASH_BYTES];
    unsigned char hash[HASH_BYTES];
    uint32_t at;
    crypto_generichash(
        hash, sizeof hash, (const unsigned char *)id, strlen(id), s->key, sizeof s->key);
    memcpy(&at, hash, sizeof at);
    for (at &= s->mask; memcmp(s->all[at], none, HASH_BYTES) != 0; at = (at + 1) & s->mask)
        if (memcmp(s->all[at], hash, HASH_BYTES) == 0)
            return 1;
    memcpy(s->all[at], hash, HASH_BYTES);
    return 0;
}
