/* render_template.c - writes chat templates, for tests that compare with jinja2.
 *
 *     render_template < LINES
 *
 * A line is {"template": text, "variables": {..}, "date": "YYYY-MM-DD" or absent}; the answer's
 * line is {"text": ..}, or {"error": .., "parse": whether the template itself is refused}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/jinja.h"
#include "tests/unit/json_msgpack.h"

static int set_variables(struct jinja_run *r, const json_t *variables, struct err *e)
{
    const char *key;
    json_t *v;
    int rc = 0;
    json_object_foreach((json_t *)variables, key, v)
    {
        struct msg_writer w;
        msg_writer_init(&w);
        pack_json(&w, v);
        uint8_t *copy = malloc(w.buffer.size); /* lives as long as the evaluation: the process */
        if (!copy)
            abort();
        memcpy(copy, w.buffer.data, w.buffer.size);
        if (rc == 0)
            rc = jinja_set_msgpack(r, key, (struct slice){copy, w.buffer.size}, e);
        msg_writer_release(&w);
    }
    return rc;
}

static json_t *render(struct jinja_run *r, const json_t *line)
{
    const json_t *source = json_object_get(line, "template");
    struct slice text = {(const uint8_t *)json_string_value(source), json_string_length(source)};
    const char *date = json_string_value(json_object_get(line, "date"));
    struct jinja_text out = {0};
    struct jinja *t;
    struct err e = {0};
    if (jinja_parse(&t, text, &e) != 0)
        return json_pack("{s:s, s:b}", "error", e.msg, "parse", 1);
    jinja_begin(r, t);
    int rc = date ? jinja_set_date(r, date, &e) : 0;
    if (rc == 0)
        rc = set_variables(r, json_object_get(line, "variables"), &e);
    if (rc == 0)
        rc = jinja_write(r, &out, &e);
    const char *at = rc == 0 && out.len > 0 ? (const char *)out.at : "";
    json_t *answer = rc == 0 ? json_pack("{s:o}", "text", json_stringn(at, out.len))
                             : json_pack("{s:s, s:b}", "error", e.msg, "parse", 0);
    jinja_free(&t);
    return answer;
}

int main(void)
{
    char *text = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&text, &room, stdin)) > 0;) {
        json_error_t why;
        json_t *line = json_loadb(text, (size_t)n, JSON_ALLOW_NUL, &why);
        struct jinja_run *r = jinja_run_new();
        json_t *answer = render(r, line);
        jinja_run_free(&r);
        char *shown = json_dumps(answer, JSON_COMPACT);
        puts(shown);
        free(shown);
        json_decref(answer);
        json_decref(line);
    }
    free(text);
    return 0;
}
