/* sessions.c - sessions by the digits of their names, and in the order of their last use
 * (sessions.h). */
#include "broker/api/sessions.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/table.h"
#include "schema/alloc.h"

#define DIGITS 16
#define MOST_CLOSED_BYTES (4u << 20) /* of idle sessions at a time; they take some 1 ms */

struct session {
    int64_t key;
    uint32_t n_appends;
    uint8_t last[SESSION_DIGEST_BYTES]; /* of what was appended last */
    struct session_row *row;
    long long used_ms;
    uint64_t request;            /* the last append that named it */
    struct session *prev, *next; /* by used_ms */
};

struct sessions {
    struct table by_key;
    struct session *first, *last; /* least recently used first */
    uint64_t bytes, max_bytes;
    uint64_t n_appends; /* requests */
    int64_t random[64]; /* of which the first n_random are not used yet: a call gives many */
    int n_random;
    const struct request_limits *limits;
    struct homes *homes; /* NULL: not kept */
};

/* ---- one session ---- */

static void unlink_session(struct sessions *s, struct session *of)
{
    *(of->prev ? &of->prev->next : &s->first) = of->next;
    *(of->next ? &of->next->prev : &s->last) = of->prev;
}

static void use(struct sessions *s, struct session *of, long long now_ms)
{
    of->used_ms = now_ms;
    of->prev = s->last;
    of->next = NULL;
    *(s->last ? &s->last->next : &s->first) = of;
    s->last = of;
}

static void use_again(struct sessions *s, struct session *of, long long now_ms)
{
    unlink_session(s, of);
    use(s, of, now_ms);
}

static int64_t new_key(struct sessions *s)
{
    int64_t key = 0;
    while (key == 0 || table_has(&s->by_key, key)) {
        if (s->n_random == 0) {
            randombytes_buf(s->random, sizeof s->random);
            s->n_random = sizeof s->random / sizeof *s->random;
        }
        key = s->random[--s->n_random];
    }
    return key;
}

/* Takes one use of the row. */
static struct session *add(struct sessions *s, struct session_row *row, long long now_ms)
{
    struct session *of = xcalloc(1, sizeof *of);
    of->key = new_key(s);
    table_set(&s->by_key, of->key, of);
    of->row = row;
    s->bytes += SESSION_BYTES + row->bytes.len;
    use(s, of, now_ms);
    return of;
}

/* Returns its use of the row. */
static struct session_row *drop(struct sessions *s, struct session *of)
{
    struct session_row *row = of->row;
    unlink_session(s, of);
    homes_close(s->homes, of->key);
    table_remove(&s->by_key, of->key);
    s->bytes -= SESSION_BYTES + row->bytes.len;
    free(of);
    return row;
}

/* Thousands may be written at once, for which snprintf takes too long. */
static void write_name(struct msg_writer *w, const struct session *of)
{
    char name[SESSION_NAME_BYTES], *end = name + sizeof name, *at = end;
    uint32_t n = of->n_appends;
    uint64_t key = (uint64_t)of->key;
    do
        *--at = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    *--at = '.';
    for (int i = 0; i < DIGITS; i++, key >>= 4)
        *--at = "0123456789abcdef"[key & 15];
    msg_str_len(w, at, (size_t)(end - at));
}

/* ---- names ---- */

static int hex_digit(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads digits without needless zeros, up to UINT32_MAX: 0, or -1. */
static int parse_number(const uint8_t *at, size_t len, uint32_t *out)
{
    uint64_t n = 0;
    if (len == 0 || len > 10 || (at[0] == '0' && len > 1))
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (at[i] < '0' || at[i] > '9')
            return -1;
        n = 10 * n + at[i] - '0';
    }
    *out = (uint32_t)n;
    return n <= UINT32_MAX ? 0 : -1;
}

/* Reads a name: 0, or -1 when it is none that was ever given. */
static int parse(struct slice name, int64_t *key, uint32_t *n_appends)
{
    uint64_t n = 0;
    if (name.len < DIGITS + 2 || name.at[DIGITS] != '.')
        return -1;
    for (int i = 0; i < DIGITS; i++) {
        int digit = hex_digit(name.at[i]);
        if (digit < 0)
            return -1;
        n = n << 4 | (uint64_t)digit;
    }
    *key = (int64_t)n;
    return n != 0 ? parse_number(name.at + DIGITS + 1, name.len - DIGITS - 1, n_appends) : -1;
}

/* Finds the session of that name, or NULL; *n_appends is the name's. */
static struct session *find_any(const struct sessions *s, struct slice name, uint32_t *n_appends)
{
    int64_t key = 0;
    struct session *of = parse(name, &key, n_appends) == 0 ? table_find(&s->by_key, key) : NULL;
    return of && *n_appends <= of->n_appends ? of : NULL;
}

static int no_session(struct slice name, struct err *e)
{
    return err_set(e, ASSAY_ENOSESSION,
        "no session has the name '%.*s': it was closed, or not used for %lld minutes, or the "
        "broker was started since; open it again with its whole row",
        name.len < SESSION_NAME_BYTES ? (int)name.len : (int)SESSION_NAME_BYTES,
        (const char *)name.at, SESSION_IDLE_MS / 60000);
}

static int is_earlier(struct slice name, const struct session *of, struct err *e)
{
    return err_set(e, ASSAY_ESTATE,
        "expected the session's name after its %u appends, found '%.*s', its name before",
        of->n_appends, (int)name.len, (const char *)name.at);
}

/* Finds the session that has this name now. The caller says where the name is. */
static int find_present(
    const struct sessions *s, struct slice name, struct session **of, struct err *e)
{
    uint32_t n_appends = 0;
    *of = find_any(s, name, &n_appends);
    if (!*of)
        return no_session(name, e);
    return n_appends < (*of)->n_appends ? is_earlier(name, *of, e) : 0;
}

/* The names of a request, in turn. */
struct names {
    struct msg_reader r;
    uint32_t n;
    struct slice name;
};

static struct names names_of(const struct request *q)
{
    struct names all = {0};
    msg_reader_init(&all.r, q->sessions.at, q->sessions.len);
    (void)msg_read_array(&all.r, "", &all.n, NULL);
    return all;
}

static int next_name(struct names *all)
{
    return msg_peek(&all->r) != MSG_END && msg_read_str(&all->r, "", &all->name, NULL) == 0;
}

/* Where the error is. */
static int at_item(const char *field, uint32_t i, int rc, struct err *e)
{
    char where[32];
    snprintf(where, sizeof where, "%s[%u]", field, i);
    return err_within(e, rc, where);
}

/* ---- open, fork, close ---- */

int sessions_open(struct sessions *s, const struct request *q, struct session_row **row,
    long long now_ms, struct msg_writer *names, struct err *e)
{
    int rc = session_check_row("row", q->row.len, s->limits->max_message_bytes, e);
    if (rc == 0)
        rc = session_check_room("row", s->bytes, SESSION_BYTES + q->row.len, s->max_bytes, e);
    if (rc != 0)
        return rc;
    const struct session *of = add(s, *row, now_ms);
    *row = NULL;
    homes_open(s->homes, of->key);
    write_name(names, of);
    return 0;
}

int sessions_fork(struct sessions *s, const struct request *q, long long now_ms,
    struct msg_writer *names, struct err *e)
{
    struct session *of;
    int rc = find_present(s, q->session, &of, e);
    if (rc != 0)
        return err_within(e, rc, "session");
    rc = session_check_room(
        "n", s->bytes, (uint64_t)q->n * (SESSION_BYTES + of->row->bytes.len), s->max_bytes, e);
    if (rc != 0)
        return rc;
    use_again(s, of, now_ms);
    for (uint32_t i = 0; i < q->n; i++) {
        const struct session *fork = add(s, session_row_use(of->row), now_ms);
        homes_fork(s->homes, of->key, fork->key);
        write_name(names, fork);
    }
    return 0;
}

struct session_work *sessions_close(struct sessions *s, const struct request *q, uint32_t *closed)
{
    struct session_work *w = session_work_new(q->n_sessions);
    struct session *of;
    uint32_t n_appends;
    *closed = 0;
    for (struct names all = names_of(q); next_name(&all);)
        if ((of = find_any(s, all.name, &n_appends))) {
            w->bytes += of->row->bytes.len;
            w->items[(*closed)++].row = drop(s, of);
        }
    return w;
}

/* ---- append ---- */

static struct session_work *new_work(const struct sessions *s, const struct request *q)
{
    struct session_work *w = session_work_new(q->n_sessions);
    w->used_bytes = s->bytes;
    w->max_bytes = s->max_bytes;
    w->max_message_bytes = s->limits->max_message_bytes;
    return w;
}

static void take_row(struct session_work *w, uint32_t i, struct session_row *row)
{
    w->items[i].row = session_row_use(row);
    w->bytes += row->bytes.len;
}

struct session_work *sessions_begin_append(const struct sessions *s, const struct request *q)
{
    struct session_work *w = new_work(s, q);
    struct session *of;
    struct names all = names_of(q);
    for (uint32_t i = 0; next_name(&all); i++)
        if (find_present(s, all.name, &of, NULL) == 0)
            take_row(w, i, of->row);
    return w;
}

/* Checks one session of an append: 0, and item->longer says whether it gets a longer row; or why
 * the append is refused. *added: bytes that its sessions grow by. */
static int check_item(struct sessions *s, struct session_work *w, uint32_t i, struct slice name,
    uint64_t *added, struct err *e)
{
    struct session_item *item = &w->items[i];
    uint32_t n_appends = 0;
    item->of = find_any(s, name, &n_appends);
    if (!item->of)
        return at_item("sessions", i, no_session(name, e), e);
    if (n_appends < item->of->n_appends) {
        int is_again = n_appends + 1 == item->of->n_appends && i < w->n_tried &&
                       memcmp(item->digest, item->of->last, sizeof item->digest) == 0;
        session_row_let_go(&item->longer);
        return is_again ? 0 : at_item("sessions", i, is_earlier(name, item->of, e), e);
    }
    if (i + 1 >= w->n_tried && w->rc != 0) {
        *e = w->err;
        return w->rc;
    }
    if (item->row != item->of->row) /* it has come since, with a name that was another's */
        return at_item("sessions", i, no_session(name, e), e);
    int rc = session_check_room("", s->bytes, *added + item->more_bytes, s->max_bytes, e);
    *added += item->longer->bytes.len - item->row->bytes.len;
    return rc == 0 ? 0 : at_item("more", i, rc, e);
}

/* Each session once: two appends to one would have no order. */
static int check_once(struct sessions *s, const struct session_work *w, struct err *e)
{
    s->n_appends++;
    for (uint32_t i = 0; i < w->n; i++) {
        struct session *of = w->items[i].of;
        if (of->request == s->n_appends)
            return err_field(e, ASSAY_EBADREQ, "sessions",
                "expected each session once, found %016" PRIx64 ".%u twice", (uint64_t)of->key,
                of->n_appends);
        of->request = s->n_appends;
    }
    return 0;
}

/* The row that it had remains the item's. */
static void take_append(struct sessions *s, struct session_item *item, long long now_ms)
{
    struct session *of = item->of;
    use_again(s, of, now_ms);
    if (!item->longer)
        return;
    s->bytes += item->longer->bytes.len - of->row->bytes.len;
    session_row_let_go(&of->row);
    of->row = item->longer;
    item->longer = NULL;
    memcpy(of->last, item->digest, sizeof of->last);
    of->n_appends++;
}

int sessions_append(struct sessions *s, const struct request *q, struct session_work *w,
    long long now_ms, struct msg_writer *names, struct err *e)
{
    struct names all = names_of(q);
    uint64_t added = 0;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && next_name(&all); i++)
        rc = check_item(s, w, i, all.name, &added, e);
    if (rc == 0)
        rc = check_once(s, w, e);
    for (uint32_t i = 0; rc == 0 && i < w->n; i++) {
        take_append(s, &w->items[i], now_ms);
        write_name(names, w->items[i].of);
    }
    return rc;
}

/* ---- score ---- */

static int take_scored(struct sessions *s, struct session_work *w, uint32_t i, struct slice name,
    long long now_ms, struct err *e)
{
    struct session *of;
    int rc = find_present(s, name, &of, e);
    if (rc != 0)
        return at_item("sessions", i, rc, e);
    use_again(s, of, now_ms);
    w->items[i].row = session_row_use(of->row);
    w->items[i].key = of->key;
    w->bytes += session_work_written(of->row, name.len);
    if (w->bytes + SESSION_BYTES <= s->limits->max_message_bytes)
        return 0;
    return err_field(e, ASSAY_ETOOLARGE, "sessions",
        "expected rows of at most %" PRIu64
        " bytes together, as of one message, found more: score fewer at once",
        s->limits->max_message_bytes);
}

int sessions_begin_score(struct sessions *s, const struct request *q, long long now_ms,
    struct session_work **out, struct err *e)
{
    struct session_work *w = *out = new_work(s, q);
    struct names all = names_of(q);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && next_name(&all); i++)
        rc = take_scored(s, w, i, all.name, now_ms, e);
    if (rc != 0)
        session_work_free(out);
    return rc;
}

/* ---- all ---- */

struct sessions *sessions_new(
    uint64_t max_bytes, const struct request_limits *limits, struct homes *homes)
{
    struct sessions *s = xcalloc(1, sizeof *s);
    s->max_bytes = max_bytes;
    s->limits = limits;
    s->homes = homes;
    return s;
}

void sessions_free(struct sessions **out)
{
    struct sessions *s = *out;
    if (!s)
        return;
    while (s->first) {
        struct session_row *row = drop(s, s->first);
        session_row_let_go(&row);
    }
    table_release(&s->by_key);
    free(s);
    *out = NULL;
}

int sessions_tick(struct sessions *s, long long now_ms)
{
    uint64_t bytes = 0;
    while (s->first && now_ms - s->first->used_ms >= SESSION_IDLE_MS) {
        if (bytes >= MOST_CLOSED_BYTES)
            return 1;
        struct session_row *row = drop(s, s->first);
        bytes += SESSION_BYTES + row->bytes.len;
        session_row_let_go(&row);
    }
    return 0;
}

uint32_t sessions_count(const struct sessions *s)
{
    return (uint32_t)s->by_key.n;
}

uint64_t sessions_bytes(const struct sessions *s)
{
    return s->bytes;
}
