/* sessions.c - sessions by the digits of their names, and in the order of their last use
 * (sessions.h). */
#include "broker/api/sessions.h"

#include <assert.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/table.h"
#include "schema/alloc.h"

#define DIGITS 16
#define DIGEST_BYTES 16

struct session {
    int64_t key;
    uint32_t n_appends;
    uint8_t last[DIGEST_BYTES]; /* of what was appended last */
    struct slice row;           /* owned; raw msgpack map */
    long long used_ms;
    struct session *prev, *next; /* by used_ms */
};

struct sessions {
    struct table by_key;
    struct session *first, *last; /* least recently used first */
    uint64_t bytes, max_bytes;
    const struct request_limits *limits;
};

/* ---- one session ---- */

static void set_row(struct sessions *s, struct session *of, const void *bytes, size_t len)
{
    uint8_t *row = xcalloc(1, len);
    memcpy(row, bytes, len);
    s->bytes = s->bytes - of->row.len + len;
    free((void *)of->row.at);
    of->row = (struct slice){row, len};
}

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

static struct session *add(struct sessions *s, struct slice row, long long now_ms)
{
    struct session *of = xcalloc(1, sizeof *of);
    while (of->key == 0 || table_has(&s->by_key, of->key))
        randombytes_buf(&of->key, sizeof of->key);
    table_set(&s->by_key, of->key, of);
    s->bytes += SESSION_BYTES;
    set_row(s, of, row.at, row.len);
    use(s, of, now_ms);
    return of;
}

static void drop(struct sessions *s, struct session *of)
{
    unlink_session(s, of);
    table_remove(&s->by_key, of->key);
    s->bytes -= SESSION_BYTES + of->row.len;
    free((void *)of->row.at);
    free(of);
}

static void write_name(struct msg_writer *w, const struct session *of)
{
    char name[SESSION_NAME_BYTES];
    snprintf(name, sizeof name, "%016" PRIx64 ".%u", (uint64_t)of->key, of->n_appends);
    msg_str(w, name);
}

/* ---- names ---- */

/* Reads a name: 0, or -1 when it is none that was ever given. */
static int parse(struct slice name, int64_t *key, uint32_t *n_appends)
{
    char text[SESSION_NAME_BYTES] = "", again[SESSION_NAME_BYTES];
    uint64_t digits = 0;
    if (name.len < SESSION_NAME_BYTES)
        memcpy(text, name.at, name.len);
    if (sscanf(text, "%16" SCNx64 ".%" SCNu32, &digits, n_appends) != 2)
        return -1;
    snprintf(again, sizeof again, "%016" PRIx64 ".%u", digits, *n_appends);
    *key = (int64_t)digits;
    return digits != 0 && slice_is(name, again) ? 0 : -1;
}

/* Finds the session of that name; *n_appends is the name's. */
static int find(struct sessions *s, const char *field, struct slice name, struct session **of,
    uint32_t *n_appends, struct err *e)
{
    int64_t key = 0;
    *of = parse(name, &key, n_appends) == 0 ? table_find(&s->by_key, key) : NULL;
    if (*of && *n_appends <= (*of)->n_appends)
        return 0;
    return err_field(e, ASSAY_ENOSESSION, field,
        "no session has the name '%.*s': it was closed, or not used for %lld minutes, or the "
        "broker "
        "was started since; open it again with its whole row",
        name.len < SESSION_NAME_BYTES ? (int)name.len : (int)SESSION_NAME_BYTES,
        (const char *)name.at, SESSION_IDLE_MS / 60000);
}

static int is_earlier(const char *field, struct slice name, const struct session *of, struct err *e)
{
    return err_field(e, ASSAY_ESTATE, field,
        "expected the session's name after its %u appends, found '%.*s', its name before",
        of->n_appends, (int)name.len, (const char *)name.at);
}

/* Finds the session that has this name now. */
static int find_present(
    struct sessions *s, const char *field, struct slice name, struct session **of, struct err *e)
{
    uint32_t n_appends = 0;
    int rc = find(s, field, name, of, &n_appends, e);
    return rc == 0 && n_appends < (*of)->n_appends ? is_earlier(field, name, *of, e) : rc;
}

/* The names of a request, in turn. */
struct names {
    struct msg_reader r;
    uint32_t n, i;
    struct slice name;
    char field[32];
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
    if (all->i == all->n || msg_read_str(&all->r, "", &all->name, NULL) != 0)
        return 0;
    snprintf(all->field, sizeof all->field, "sessions[%u]", all->i++);
    return 1;
}

/* ---- bounds ---- */

static int check_room(
    const struct sessions *s, const char *field, uint64_t more_bytes, struct err *e)
{
    if (s->bytes + more_bytes <= s->max_bytes)
        return 0;
    return err_field(e, ASSAY_ETOOLARGE, field,
        "expected at most %" PRIu64 " bytes of all sessions, found %" PRIu64 " and %" PRIu64
        " more: close some, or start assayd with a larger --session-bytes",
        s->max_bytes, s->bytes, more_bytes);
}

/* A session's row can be scored by itself: it fits into a message, with what stands around it. */
static int check_row(const struct sessions *s, const char *field, size_t bytes, struct err *e)
{
    if (bytes + 2 * SESSION_BYTES <= s->limits->max_message_bytes)
        return 0;
    return err_field(e, ASSAY_ETOOLARGE, field,
        "expected a row that fits into a message of %" PRIu64 " bytes, %d of them around it, "
        "found one of %zu",
        s->limits->max_message_bytes, 2 * SESSION_BYTES, bytes);
}

/* ---- operations ---- */

int sessions_open(struct sessions *s, const struct request *q, long long now_ms,
    struct msg_writer *names, struct err *e)
{
    int rc = check_row(s, "row", q->row.len, e);
    if (rc == 0)
        rc = check_room(s, "row", SESSION_BYTES + q->row.len, e);
    if (rc == 0)
        write_name(names, add(s, q->row, now_ms));
    return rc;
}

int sessions_fork(struct sessions *s, const struct request *q, long long now_ms,
    struct msg_writer *names, struct err *e)
{
    struct session *of;
    int rc = find_present(s, "session", q->session, &of, e);
    if (rc == 0)
        rc = check_room(s, "n", (uint64_t)q->n * (SESSION_BYTES + of->row.len), e);
    if (rc != 0)
        return rc;
    use_again(s, of, now_ms);
    for (uint32_t i = 0; i < q->n; i++)
        write_name(names, add(s, of->row, now_ms));
    return 0;
}

/* A session of an append, and the row that it is to have. */
struct appended {
    struct session *of;
    size_t from, len;           /* in `rows`; len 0: it was done before */
    uint8_t last[DIGEST_BYTES]; /* of what is appended */
};

/* Writes the row of one session of an append. *added: bytes that its sessions grow by. */
static int extend(struct sessions *s, struct names *all, struct slice more, struct appended *a,
    struct msg_writer *rows, uint64_t *added, struct err *e)
{
    char where[32];
    uint32_t n_appends = 0;
    int rc = find(s, all->field, all->name, &a->of, &n_appends, e);
    if (rc != 0)
        return rc;
    crypto_generichash(a->last, sizeof a->last, more.at, more.len, NULL, 0);
    if (n_appends + 1 == a->of->n_appends && memcmp(a->last, a->of->last, sizeof a->last) == 0)
        return 0;
    if (n_appends < a->of->n_appends)
        return is_earlier(all->field, all->name, a->of, e);
    snprintf(where, sizeof where, "more[%u]", all->i - 1);
    rc = check_row(s, where, a->of->row.len + more.len, e);
    if (rc == 0)
        rc = check_room(s, where, *added + more.len, e);
    if (rc != 0)
        return rc;
    a->from = rows->buffer.size;
    rc = request_extend_row(rows, a->of->row, more, e);
    a->len = rows->buffer.size - a->from;
    *added += a->len - a->of->row.len;
    return rc == 0 ? 0 : err_within(e, rc, where);
}

static int by_session(const void *a, const void *b)
{
    int64_t x = (*(struct session *const *)a)->key, y = (*(struct session *const *)b)->key;
    return (x > y) - (x < y);
}

/* Each session once: two appends to one would have no order. */
static int check_once(const struct appended *all, uint32_t n, struct err *e)
{
    struct session **sorted = xcalloc(n, sizeof(struct session *));
    int rc = 0;
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = all[i].of;
    qsort(sorted, n, sizeof *sorted, by_session);
    for (uint32_t i = 1; rc == 0 && i < n; i++)
        if (sorted[i] == sorted[i - 1])
            rc = err_field(e, ASSAY_EBADREQ, "sessions",
                "expected each session once, found %016" PRIx64 ".%u twice",
                (uint64_t)sorted[i]->key, sorted[i]->n_appends);
    free(sorted);
    return rc;
}

static void take_append(
    struct sessions *s, const struct appended *a, const struct msg_writer *rows, long long now_ms)
{
    use_again(s, a->of, now_ms);
    if (a->len == 0)
        return;
    set_row(s, a->of, rows->buffer.data + a->from, a->len);
    memcpy(a->of->last, a->last, sizeof a->last);
    a->of->n_appends++;
}

int sessions_append(struct sessions *s, const struct request *q, long long now_ms,
    struct msg_writer *names, struct err *e)
{
    struct appended *appended = xcalloc(q->n_sessions, sizeof *appended);
    struct names all = names_of(q);
    struct msg_reader more;
    struct msg_writer rows;
    uint64_t added = 0;
    uint32_t n = 0;
    int rc = 0;
    msg_writer_init(&rows);
    msg_reader_init(&more, q->more.at, q->more.len);
    (void)msg_read_array(&more, "", &n, NULL);
    assert(n == q->n_sessions);
    for (uint32_t i = 0; rc == 0 && next_name(&all); i++) {
        struct slice one;
        rc = request_skip_bytes(&more, "more", &one, e);
        if (rc == 0)
            rc = extend(s, &all, one, &appended[i], &rows, &added, e);
    }
    if (rc == 0)
        rc = check_once(appended, n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        take_append(s, &appended[i], &rows, now_ms);
        write_name(names, appended[i].of);
    }
    msg_writer_release(&rows);
    free(appended);
    return rc;
}

int sessions_close(struct sessions *s, const struct request *q, uint32_t *closed, struct err *e)
{
    struct session *of;
    uint32_t n_appends;
    *closed = 0;
    for (struct names all = names_of(q); next_name(&all);)
        if (find(s, all.field, all.name, &of, &n_appends, e) == 0) {
            drop(s, of);
            ++*closed;
        }
    return 0;
}

/* Writes the row, with its session's name as its id. */
static void write_row(struct msg_writer *rows, const struct session *of)
{
    struct msg_reader r;
    uint32_t n = 0;
    msg_reader_init(&r, of->row.at, of->row.len);
    (void)msg_read_map(&r, "", &n, NULL);
    msg_map(rows, n + 1);
    msg_str(rows, "id");
    write_name(rows, of);
    msg_raw(rows, (struct slice){r.at, (size_t)(r.end - r.at)});
}

int sessions_rows(struct sessions *s, const struct request *q, long long now_ms,
    struct msg_writer *rows, struct err *e)
{
    struct session *of;
    int rc = 0;
    struct names all = names_of(q);
    msg_array(rows, all.n);
    while (rc == 0 && next_name(&all)) {
        rc = find_present(s, all.field, all.name, &of, e);
        if (rc != 0)
            break;
        use_again(s, of, now_ms);
        write_row(rows, of);
        if (rows->buffer.size + SESSION_BYTES > s->limits->max_message_bytes)
            rc = err_field(e, ASSAY_ETOOLARGE, "sessions",
                "expected rows of at most %" PRIu64
                " bytes together, as of one message, found more: score fewer at once",
                s->limits->max_message_bytes);
    }
    return rc;
}

/* ---- all ---- */

struct sessions *sessions_new(uint64_t max_bytes, const struct request_limits *limits)
{
    struct sessions *s = xcalloc(1, sizeof *s);
    s->max_bytes = max_bytes;
    s->limits = limits;
    return s;
}

void sessions_free(struct sessions **out)
{
    struct sessions *s = *out;
    if (!s)
        return;
    while (s->first)
        drop(s, s->first);
    table_release(&s->by_key);
    free(s);
    *out = NULL;
}

void sessions_tick(struct sessions *s, long long now_ms)
{
    while (s->first && now_ms - s->first->used_ms >= SESSION_IDLE_MS)
        drop(s, s->first);
}

uint32_t sessions_count(const struct sessions *s)
{
    return (uint32_t)s->by_key.n;
}

uint64_t sessions_bytes(const struct sessions *s)
{
    return s->bytes;
}
