/* test_sessions.c - sessions under their names: what each operation does and refuses, that a
 * refused one changes nothing, how many bytes there are, and when idle ones go. */
#include "broker/api/sessions.h"
#include "tests/unit/request_fixture.h"

#define MAX_BYTES (8 * SESSION_BYTES)

struct scene {
    struct sessions *s;
    long long now_ms;
    struct msg_writer out; /* of the last operation */
    struct err e;
    void (*meanwhile)(struct scene *c); /* what others do while rows are written */
    char name[40];                      /* to that session */
};

static int setup(void **state)
{
    struct scene *c = calloc(1, sizeof *c);
    c->s = sessions_new(MAX_BYTES, &limits, NULL);
    msg_writer_init(&c->out);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    struct scene *c = *state;
    sessions_free(&c->s);
    msg_writer_release(&c->out);
    free(c);
    return 0;
}

static int open_session(struct scene *c, const struct request *q)
{
    struct session_row *row = session_row_new(q->row);
    int rc = sessions_open(c->s, q, &row, c->now_ms, &c->out, &c->e);
    session_row_let_go(&row);
    return rc;
}

static int append(struct scene *c, const struct request *q)
{
    struct session_work *w = sessions_begin_append(c->s, q);
    session_work_extend(w, q, NULL);
    if (c->meanwhile)
        c->meanwhile(c);
    int rc = sessions_append(c->s, q, w, c->now_ms, &c->out, &c->e);
    session_work_free(&w);
    return rc;
}

static int score(struct scene *c, const struct request *q)
{
    struct session_work *w;
    int rc = sessions_begin_score(c->s, q, c->now_ms, &w, &c->e);
    if (rc != 0)
        return rc;
    if (c->meanwhile)
        c->meanwhile(c);
    session_work_write(w, q, &c->out);
    size_t head = w->n < 16 ? 1 : 3;
    assert_int_equal(c->out.buffer.size, head + w->bytes);
    session_work_free(&w);
    return 0;
}

static int close_sessions(struct scene *c, const struct request *q)
{
    uint32_t closed;
    struct session_work *w = sessions_close(c->s, q, &closed);
    session_work_free(&w);
    return (int)closed;
}

static int run(struct scene *c, const char *fields)
{
    char text[1200];
    struct request q;
    struct message m;
    snprintf(text, sizeof text, "{'v':1,'op':%s}", fields);
    good(text, &q, &m);
    msg_writer_clear(&c->out);
    c->e = (struct err){0};
    int rc = q.op == OP_OPEN     ? open_session(c, &q)
             : q.op == OP_APPEND ? append(c, &q)
             : q.op == OP_FORK   ? sessions_fork(c->s, &q, c->now_ms, &c->out, &c->e)
             : q.op == OP_SCORE  ? score(c, &q)
                                 : close_sessions(c, &q);
    free(m.bytes);
    return rc;
}

/* The k-th name that the last operation wrote. */
static void name_of(struct scene *c, int k, char name[40])
{
    struct msg_reader r;
    struct slice s = {0};
    msg_reader_init(&r, (const uint8_t *)c->out.buffer.data, c->out.buffer.size);
    for (int i = 0; i <= k; i++)
        assert_int_equal(msg_read_str(&r, "", &s, NULL), 0);
    snprintf(name, 40, "%.*s", (int)s.len, (const char *)s.at);
    assert_int_equal(strlen(name) >= 18 && name[16] == '.', 1);
}

static int with(struct scene *c, const char *format, const char *a, const char *b)
{
    char text[400];
    snprintf(text, sizeof text, format, a, b);
    return run(c, text);
}

static void open_row(struct scene *c, const char *row, char name[40])
{
    assert_int_equal(with(c, "'open','row':%s%s", row, ""), 0);
    name_of(c, 0, name);
}

static void refused_as(struct scene *c, int rc, int code, const char *field)
{
    if (rc != code || rc != c->e.code || strcmp(c->e.field, field) != 0)
        fail_msg("expected %s at '%s', found %s at '%s': %s", err_name(code), field, err_name(rc),
            c->e.field, c->e.msg);
}

/* The row that a score of it would have, its id aside, is this one. */
static void row_is(struct scene *c, const char *name, const char *row)
{
    char expected[400];
    assert_int_equal(with(c, "'score','sessions':['%s']%s", name, ""), 0);
    snprintf(expected, sizeof expected, "[{'id':'%s',%s]", name, row + 1);
    struct message m = build(expected);
    assert_int_equal(c->out.buffer.size, m.len);
    assert_memory_equal(c->out.buffer.data, m.bytes, m.len);
    free(m.bytes);
}

static void a_row_grows(void **state)
{
    struct scene *c = *state;
    char a[40], b[40], d[40];
    open_row(c, "{'ids':[1]}", a);
    row_is(c, a, "{'ids':[1]}");
    assert_int_equal(with(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]%s", a, ""), 0);
    name_of(c, 0, b);
    assert_memory_equal(a, b, 16);
    assert_string_equal(b + 16, ".1");
    row_is(c, b, "{'ids':[1,2]}");
    assert_int_equal(with(c, "'fork','session':'%s','n':2%s", b, ""), 0);
    name_of(c, 1, d);
    assert_string_equal(d + 16, ".0");
    assert_memory_not_equal(d, b, 16);
    assert_int_equal(
        with(c, "'append','sessions':['%s','%s'],'more':[{'ids':[3]},{'ids':[4]}]", d, b), 0);
    name_of(c, 0, d);
    name_of(c, 1, b);
    row_is(c, d, "{'ids':[1,2,3]}");
    row_is(c, b, "{'ids':[1,2,4]}");
    assert_int_equal(sessions_count(c->s), 3);
}

static void an_append_may_come_twice(void **state)
{
    struct scene *c = *state;
    char a[40], b[40], again[40];
    open_row(c, "{'ids':[1]}", a);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(with(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]%s", a, ""), 0);
        name_of(c, 0, again);
        if (i > 0)
            assert_string_equal(again, b);
        strcpy(b, again);
    }
    row_is(c, b, "{'ids':[1,2]}");
    refused_as(c, with(c, "'append','sessions':['%s'],'more':[{'ids':[3]}]%s", a, ""), ASSAY_ESTATE,
        "sessions[0]");
    assert_int_equal(with(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]%s", b, ""), 0);
    name_of(c, 0, again);
    row_is(c, again, "{'ids':[1,2,2]}"); /* the same once more is another append */
    refused_as(c, with(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]%s", a, ""), ASSAY_ESTATE,
        "sessions[0]");
}

static void earlier_names(void **state)
{
    struct scene *c = *state;
    char a[40], b[40];
    open_row(c, "{'ids':[1]}", a);
    assert_int_equal(with(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]%s", a, ""), 0);
    name_of(c, 0, b);
    refused_as(c, with(c, "'score','sessions':['%s','%s']", b, a), ASSAY_ESTATE, "sessions[1]");
    refused_as(c, with(c, "'fork','session':'%s','n':1%s", a, ""), ASSAY_ESTATE, "session");
    assert_int_equal(with(c, "'close','sessions':['%s']%s", a, ""), 1); /* any of its names */
    assert_int_equal(sessions_count(c->s), 0);
}

static void names_that_nobody_has(void **state)
{
    struct scene *c = *state;
    char a[40], other[60];
    open_row(c, "{'ids':[1]}", a);
    static const char *const formats[] = {"", "x", "%.16s", "%.16s.", "%.16s.1", "%.16s.00",
        " %.16s.0", "%.16s.0 ", "0x%.14s.0", "%.15s.0", "%.16s.4294967296", "%.16s.-0",
        "0000000000000000.0"};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        snprintf(other, sizeof other, formats[i], a);
        refused_as(c, with(c, "'score','sessions':['%s','%s']", a, other), ASSAY_ENOSESSION,
            "sessions[1]");
        refused_as(c, with(c, "'append','sessions':['%s'],'more':[{'ids':[1]}]%s", other, ""),
            ASSAY_ENOSESSION, "sessions[0]");
        refused_as(
            c, with(c, "'fork','session':'%s','n':1%s", other, ""), ASSAY_ENOSESSION, "session");
        assert_int_equal(with(c, "'close','sessions':['%s']%s", other, ""), 0);
    }
    assert_int_equal(with(c, "'close','sessions':['%s','%s']", a, a), 1);
    refused_as(c, with(c, "'score','sessions':['%s']%s", a, ""), ASSAY_ENOSESSION, "sessions[0]");
    assert_non_null(strstr(c->e.msg, "open it again"));
}

static void an_append_is_whole_or_nothing(void **state)
{
    struct scene *c = *state;
    char a[40], b[40];
    static const char *const bad[] = {"'%s','%s'],'more':[{'ids':[2]},{'text':'x'}]",
        "'%s','x'],'more':[{'ids':[2]},{'ids':[2]}]%.0s",
        "'%s','%s'],'more':[{'ids':[2]},{'ids':['x']}]"};
    open_row(c, "{'ids':[1]}", a);
    open_row(c, "{'ids':[5]}", b);
    for (size_t i = 0; i < 3; i++) {
        char format[120];
        snprintf(format, sizeof format, "'append','sessions':[%s", bad[i]);
        assert_true(with(c, format, a, b) < 0);
    }
    refused_as(c, with(c, "'append','sessions':['%s','%s'],'more':[{'ids':[2]},{'ids':[3]}]", a, a),
        ASSAY_EBADREQ, "sessions");
    row_is(c, a, "{'ids':[1]}");
    row_is(c, b, "{'ids':[5]}");
}

/* Another client's request, while the rows of one are written. */
static void do_meanwhile(struct scene *c, const char *fields)
{
    struct scene other = {.s = c->s, .now_ms = c->now_ms};
    char text[1200];
    c->meanwhile = NULL;
    msg_writer_init(&other.out);
    snprintf(text, sizeof text, fields, c->name);
    assert_true(run(&other, text) >= 0);
    msg_writer_release(&other.out);
}

static void close_it(struct scene *c)
{
    do_meanwhile(c, "'close','sessions':['%s']");
}
static void append_2(struct scene *c)
{
    do_meanwhile(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]");
}
static void append_3(struct scene *c)
{
    do_meanwhile(c, "'append','sessions':['%s'],'more':[{'ids':[3]}]");
}
static void open_another(struct scene *c)
{
    char text[1101], fields[1200];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    snprintf(fields, sizeof fields, "'open','row':{'text':'%s'}%%.0s", text);
    do_meanwhile(c, fields);
}

/* An append ends as if all of it was done at its end. */
static void what_changes_while_rows_are_written(void **state)
{
    struct scene *c = *state;
    static const char *const two =
        "'append','sessions':['%s','%s'],'more':[{'ids':[1]},{'ids':[2]}]";
    char a[40], more[600], row[500];
    open_row(c, "{'ids':[1]}", a);
    for (int i = 0; i < 3; i++) {
        open_row(c, "{'ids':[1]}", c->name);
        c->meanwhile = i == 0 ? close_it : i == 1 ? append_3 : append_2;
        uint64_t before = sessions_bytes(c->s);
        int rc = with(c, two, a, c->name);
        refused_as(c, rc,
            i == 0   ? ASSAY_ENOSESSION
            : i == 1 ? ASSAY_ESTATE
                     : 0,
            i < 2 ? "sessions[1]" : "");
        assert_int_equal(sessions_bytes(c->s), before + (i == 0 ? -SESSION_BYTES - 7 : i));
        c->name[17] = '1';
        if (i > 0)
            row_is(c, c->name, i == 1 ? "{'ids':[1,3]}" : "{'ids':[1,2]}");
        a[17] = i == 2 ? '1' : '0';
        row_is(c, a, i == 2 ? "{'ids':[1,1]}" : "{'ids':[1]}");
        assert_true(i == 0 || with(c, "'close','sessions':['%s']%s", c->name, "") == 1);
    }
    strcpy(c->name, a);
    c->meanwhile = close_it; /* a score has the rows it began with */
    assert_int_equal(with(c, "'score','sessions':['%s']%s", a, ""), 0);
    open_row(c, "{'text':''}", c->name);
    memset(row, 'a', sizeof row - 1);
    row[sizeof row - 1] = '\0';
    snprintf(more, sizeof more, "'append','sessions':['%s'],'more':[{'text':'%s'}]", c->name, row);
    c->meanwhile = open_another; /* and an append needs the room that there is then */
    refused_as(c, run(c, more), ASSAY_ETOOLARGE, "more[0]");
}

static void bytes_have_a_bound(void **state)
{
    struct scene *c = *state;
    char a[40], b[40];
    open_row(c, "{'ids':[1]}", a);
    uint64_t one = sessions_bytes(c->s);
    assert_int_equal(one, SESSION_BYTES + 7);
    refused_as(c, with(c, "'fork','session':'%s','n':4%s", a, ""), 0, "");
    assert_int_equal(sessions_bytes(c->s), 5 * one);
    refused_as(c, with(c, "'fork','session':'%s','n':3%s", a, ""), ASSAY_ETOOLARGE, "n");
    assert_non_null(strstr(c->e.msg, "--session-bytes"));
    assert_int_equal(sessions_bytes(c->s), 5 * one);
    char row[MAX_BYTES / 2], text[1200];
    memset(row, 'a', 3 * SESSION_BYTES);
    row[3 * SESSION_BYTES] = '\0';
    snprintf(text, sizeof text, "'open','row':{'text':'%s'}", row);
    refused_as(c, run(c, text), ASSAY_ETOOLARGE, "row");
    snprintf(text, sizeof text, "'open','row':{'text':'a'}");
    assert_int_equal(run(c, text), 0);
    name_of(c, 0, b);
    snprintf(text, sizeof text, "'append','sessions':['%s'],'more':[{'text':'%s'}]", b, row);
    refused_as(c, run(c, text), ASSAY_ETOOLARGE, "more[0]");
    assert_int_equal(with(c, "'append','sessions':['%s'],'more':[{'text':'aaa'}]%s", b, ""), 0);
    assert_int_equal(sessions_bytes(c->s), 5 * one + SESSION_BYTES + 8 + 3);
    assert_int_equal(with(c, "'close','sessions':['%s','%s']", a, b), 2);
    assert_int_equal(sessions_bytes(c->s), 4 * one);
}

/* A row that could not be sent, or rows that could not be sent together (4096 bytes in all). */
static void messages_have_a_bound(void **state)
{
    struct scene *c = *state;
    char name[40], text[1200], more[801];
    sessions_free(&c->s);
    c->s = sessions_new(1 << 20, &limits, NULL);
    memset(more, 'a', 800);
    more[800] = '\0';
    open_row(c, "{'text':''}", name);
    for (int i = 0; i < 4; i++) {
        snprintf(
            text, sizeof text, "'append','sessions':['%s'],'more':[{'text':'%s'}]", name, more);
        assert_int_equal(run(c, text), 0);
        name_of(c, 0, name);
    }
    assert_int_equal(with(c, "'score','sessions':['%s']%s", name, ""), 0);
    refused_as(
        c, with(c, "'score','sessions':['%s','%s']", name, name), ASSAY_ETOOLARGE, "sessions");
    snprintf(text, sizeof text, "'append','sessions':['%s'],'more':[{'text':'%s'}]", name, more);
    refused_as(c, run(c, text), ASSAY_ETOOLARGE, "more[0]");
}

static void idle_ones_are_closed(void **state)
{
    struct scene *c = *state;
    char a[40], b[40], d[40];
    open_row(c, "{'ids':[1]}", a);
    c->now_ms = 10;
    open_row(c, "{'ids':[1]}", b);
    c->now_ms = 20;
    open_row(c, "{'ids':[1]}", d);
    c->now_ms = 30;
    assert_int_equal(with(c, "'score','sessions':['%s']%s", a, ""), 0);
    sessions_tick(c->s, SESSION_IDLE_MS + 9);
    assert_int_equal(sessions_count(c->s), 3);
    sessions_tick(c->s, SESSION_IDLE_MS + 10);
    assert_int_equal(sessions_count(c->s), 2);
    refused_as(c, with(c, "'score','sessions':['%s']%s", b, ""), ASSAY_ENOSESSION, "sessions[0]");
    assert_int_equal(with(c, "'append','sessions':['%s'],'more':[{'ids':[2]}]%s", d, ""), 0);
    sessions_tick(c->s, SESSION_IDLE_MS + 29);
    assert_int_equal(sessions_count(c->s), 2);
    assert_int_equal(with(c, "'fork','session':'%s','n':1%s", a, ""), 0);
    sessions_tick(c->s, SESSION_IDLE_MS + 30);
    assert_int_equal(sessions_count(c->s), 0); /* all were used at 30 for the last time */
    assert_int_equal(sessions_bytes(c->s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_row_grows, setup, teardown),
        cmocka_unit_test_setup_teardown(an_append_may_come_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(earlier_names, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_nobody_has, setup, teardown),
        cmocka_unit_test_setup_teardown(an_append_is_whole_or_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(what_changes_while_rows_are_written, setup, teardown),
        cmocka_unit_test_setup_teardown(bytes_have_a_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_have_a_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(idle_ones_are_closed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
