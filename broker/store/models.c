/* models.c - the models that are served, and what a score of theirs belongs to.
 *
 * A result belongs to a mode (table mode): a checkpoint's digest, and how scores are computed. A
 * model has one, and one more for each adapter, whose text ends in " lora=" and the digest of the
 * adapter's files (store/adapters.c). So neither an equal row, nor a later start, takes a result
 * for that of another checkpoint or adapter under the same name. Modes are what counts: a job that
 * was begun under one goes on as long as some model that is served has it, whatever its name.
 *
 * A row of several models, an ensemble, has a mode too: its digest is "ensemble", and its text the
 * numbers of the modes of its members. It is present while all of them are.
 *
 * Table meta has for the views, and for who reads beside the broker:
 *     mode      of rows that name no model
 *     models    how many there are
 *     present   JSON: all modes that are served, those of ensembles too
 *     adapters  JSON: of each name that a row can have (store.h, routes) the mode
 *     lengths   JSON: of each model's mode the longest sequence */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"

#define ENSEMBLE "ensemble"

static const struct adapters *adapters_of(const struct store_served *v)
{
    static const struct adapters none;
    return v->is.limits.adapters ? v->is.limits.adapters : &none;
}

static void name_mode(const struct store_served *v, uint32_t k, char *text, size_t size)
{
    if (k == 0)
        snprintf(text, size, "%s", v->is.mode);
    else
        snprintf(text, size, "%s lora=%s", v->is.mode, adapters_of(v)->at[k - 1].digest);
}

/* ---- which are present ---- */

static void note_present(struct store *s, int64_t mode)
{
    if (mode <= 0 || store_mode_is_present(s, mode))
        return;
    if ((s->n_present & (s->n_present - 1)) == 0) { /* the array is full: 0, 1, 2, 4 .. */
        int64_t *more = xcalloc(s->n_present ? 2 * s->n_present : 1, sizeof *more);
        if (s->n_present > 0)
            memcpy(more, s->present, s->n_present * sizeof *more);
        free(s->present);
        s->present = more;
    }
    s->present[s->n_present++] = mode;
}

int store_mode_is_present(const struct store *s, int64_t mode)
{
    for (size_t i = 0; i < s->n_present; i++)
        if (s->present[i] == mode)
            return 1;
    return 0;
}

/* Reads the members of an ensemble's mode from its text. */
static int members_of_text(const char *text, struct store_members *m)
{
    char *end;
    *m = (struct store_members){0};
    for (const char *at = text; m->n < STORE_MEMBERS; at = end + 1) {
        m->modes[m->n++] = strtoll(at, &end, 10);
        if (*end != ',')
            return end > at && *end == '\0' ? 0 : -1;
    }
    return -1;
}

int store_members_of(struct store *s, int64_t mode, struct store_members *m, struct err *e)
{
    *m = (struct store_members){.n = 1, .modes = {mode}};
    sqlite3_stmt *q = store_prepare(
        s, "select text from mode where mode = ? and digest = '" ENSEMBLE "'", "i", mode);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    if (members_of_text((const char *)sqlite3_column_text(q, 0), m) != 0)
        *m = (struct store_members){0};
    sqlite3_reset(q);
    return 0;
}

static int read_ensembles(struct store *s, struct err *e)
{
    struct store_members m;
    int rc;
    sqlite3_stmt *q =
        store_prepare(s, "select mode, text from mode where digest = '" ENSEMBLE "'", "");
    while ((rc = store_step(s, q, e)) == 1) {
        int there = members_of_text((const char *)sqlite3_column_text(q, 1), &m) == 0;
        for (uint32_t i = 0; there && i < m.n; i++)
            there = store_mode_is_present(s, m.modes[i]);
        if (there)
            note_present(s, sqlite3_column_int64(q, 0));
    }
    return rc;
}

/* ---- reading and writing ---- */

static int read_modes(struct store *s, struct store_served *v, struct err *e)
{
    char text[STORE_REASON_BYTES];
    int rc = 0;
    memset(v->modes, 0, sizeof v->modes);
    for (uint32_t k = 0; rc == 0 && k <= adapters_of(v)->n; k++) {
        name_mode(v, k, text, sizeof text);
        rc = store_integer(s, 0, &v->modes[k], e,
            "select mode from mode where digest = ? and text = ?", "ss", v->is.digest, text);
        note_present(s, v->modes[k]);
    }
    return rc;
}

static void add_name(sqlite3_str *all, const char *model, const char *adapter, int64_t mode)
{
    if (mode > 0)
        sqlite3_str_appendf(all, "%s\"%s%s%s\":%lld", sqlite3_str_length(all) > 1 ? "," : "", model,
            model[0] ? "/" : "", adapter, (long long)mode);
}

/* Writes the names of what is there now; an adapter whose mode has no number yet is not there. */
static void list_names(struct store *s)
{
    sqlite3_str *all = sqlite3_str_new(NULL);
    sqlite3_str_appendall(all, "{");
    for (int k = 0; k < STORE_MODELS; k++) {
        const struct store_served *v = &s->served[k];
        const char *name =
            v->is.name && adapters_is_name(v->is.name, strlen(v->is.name)) ? v->is.name : NULL;
        if (!v->is_there || !v->is.is_current)
            continue;
        if (name)
            add_name(all, name, "", v->modes[0]);
        for (uint32_t i = 0; i < adapters_of(v)->n; i++) {
            if (v == store_first(s))
                add_name(all, "", adapters_of(v)->at[i].name, v->modes[i + 1]);
            if (name)
                add_name(all, name, adapters_of(v)->at[i].name, v->modes[i + 1]);
        }
    }
    sqlite3_str_appendall(all, "}");
    sqlite3_free(s->names);
    s->names = sqlite3_str_finish(all);
}

static void list_numbers(struct store *s)
{
    sqlite3_str *present = sqlite3_str_new(NULL), *lengths = sqlite3_str_new(NULL);
    for (size_t i = 0; i < s->n_present; i++)
        sqlite3_str_appendf(present, "%s%lld", i ? "," : "[", (long long)s->present[i]);
    sqlite3_str_appendall(present, s->n_present ? "]" : "[]");
    sqlite3_str_appendall(lengths, "{");
    for (int k = 0; k < STORE_MODELS; k++)
        if (s->served[k].is_there && s->served[k].is.limits.max_len && s->served[k].modes[0] > 0)
            sqlite3_str_appendf(lengths, "%s\"%lld\":%u",
                sqlite3_str_length(lengths) > 1 ? "," : "", (long long)s->served[k].modes[0],
                s->served[k].is.limits.max_len);
    sqlite3_str_appendall(lengths, "}");
    sqlite3_free(s->present_json);
    sqlite3_free(s->lengths);
    s->present_json = sqlite3_str_finish(present);
    s->lengths = sqlite3_str_finish(lengths);
}

int store_read_models(struct store *s, struct err *e)
{
    int rc = 0;
    s->n_present = 0;
    free(s->present);
    s->present = NULL;
    s->made_mode = 0;
    for (int k = 0; rc == 0 && k < STORE_MODELS; k++)
        if (s->served[k].is_there)
            rc = read_modes(s, &s->served[k], e);
    if (rc == 0)
        rc = read_ensembles(s, e);
    list_names(s);
    list_numbers(s);
    return rc;
}

int store_read_present(struct store *s, struct err *e)
{
    int rc;
    sqlite3_stmt *q = store_prepare(s,
        "select each.value from meta, json_each(meta.value) each where name = 'adapters' union "
        "select value from meta where name = 'mode'",
        "");
    while ((rc = store_step(s, q, e)) == 1)
        note_present(s, sqlite3_column_int64(q, 0));
    if (rc == 0)
        rc = store_integer(
            s, 1, &s->n_models, e, "select value from meta where name = 'models'", "");
    return rc == 0 ? read_ensembles(s, e) : rc;
}

void store_release_models(struct store *s)
{
    free(s->present);
    sqlite3_free(s->present_json);
    sqlite3_free(s->names);
    sqlite3_free(s->lengths);
}

/* What views and readers see of it. */
static int write_meta(struct store *s, struct err *e)
{
    const struct store_served *first = store_first(s);
    int64_t n = 0;
    for (int k = 0; k < STORE_MODELS; k++)
        n += s->served[k].is_there && s->served[k].is.is_current;
    return store_run(s, e,
        "insert or replace into meta values ('adapters', ?1), ('present', ?2), ('lengths', ?3), "
        "('mode', ?4), ('models', ?5)",
        "sssii", s->names, s->present_json, s->lengths, first ? first->modes[0] : 0, n);
}

static int write_modes(struct store *s, struct store_served *v, struct err *e)
{
    char text[STORE_REASON_BYTES];
    int rc = 0;
    for (uint32_t k = 0; rc == 0 && k <= adapters_of(v)->n; k++) {
        name_mode(v, k, text, sizeof text);
        rc = store_run(s, e, "insert or ignore into mode(digest, text) values (?, ?)", "ss",
            v->is.digest, text);
    }
    return rc;
}

int store_write_models(struct store *s, struct err *e)
{
    int rc = 0;
    for (int k = 0; rc == 0 && k < STORE_MODELS; k++)
        if (s->served[k].is_there)
            rc = write_modes(s, &s->served[k], e);
    if (rc == 0)
        rc = store_read_models(s, e);
    return rc == 0 ? write_meta(s, e) : rc;
}

/* ---- the list ---- */

/* Writes the list as it is now, in a transaction of its own; 0 too where nothing can be written
 * yet: the first transaction does it. */
static int write_list(struct store *s, struct err *e)
{
    if (s->late)
        return store_read_models(s, e);
    int rc = store_begin(s, e);
    if (rc == 0)
        rc = store_write_models(s, e);
    if (rc == 0)
        return store_commit(s, e);
    store_rollback(s);
    return rc;
}

/* Writes the list after a change of it, or takes that back. */
static int write_or_restore(
    struct store *s, const struct store_served before[STORE_MODELS], struct err *e)
{
    int rc = write_list(s, e);
    if (rc == 0)
        return 0;
    memcpy(s->served, before, STORE_MODELS * sizeof *before);
    return store_read_models(s, NULL) < 0 ? ASSAY_EIO : rc;
}

int store_serve(struct store *s, int place, const struct store_model *m, struct err *e)
{
    struct store_served before[STORE_MODELS];
    memcpy(before, s->served, sizeof before);
    s->served[place] = (struct store_served){.is_there = m != NULL};
    if (m)
        s->served[place].is = *m;
    return write_or_restore(s, before, e);
}

int store_exchange(struct store *s, int place, const struct store_model *m, int old, struct err *e)
{
    struct store_served before[STORE_MODELS];
    memcpy(before, s->served, sizeof before);
    s->served[old].is.is_current = 0;
    s->served[place] = (struct store_served){.is_there = 1, .is = *m};
    return write_or_restore(s, before, e);
}

const struct store_served *store_first(const struct store *s)
{
    const struct store_served *first = NULL;
    for (int k = 0; k < STORE_MODELS; k++) {
        const struct store_served *v = &s->served[k];
        if (v->is_there && v->is.is_current && (!first || v->is.rank < first->is.rank))
            first = v;
    }
    return first;
}

int store_first_place(const struct store *s)
{
    const struct store_served *first = store_first(s);
    return first ? (int)(first - s->served) : 0;
}

const struct store_served *store_served_of(const struct store *s, int64_t mode, uint32_t *adapter)
{
    for (int p = 0; mode > 0 && p < STORE_MODELS; p++)
        for (uint32_t k = 0; s->served[p].is_there && k <= ADAPTERS_MOST; k++)
            if (s->served[p].modes[k] == mode) {
                *adapter = k;
                return &s->served[p];
            }
    return NULL;
}

uint32_t store_adapter_of(const struct store *s, int64_t mode)
{
    uint32_t k;
    return store_served_of(s, mode, &k) ? k : ADAPTERS_UNKNOWN;
}

int store_place_of(const struct store *s, int64_t mode)
{
    uint32_t k;
    const struct store_served *v = store_served_of(s, mode, &k);
    return v ? (int)(v - s->served) : -1;
}

int store_read_mode(struct store *s, int64_t mode, struct store_mode *out, struct err *e)
{
    *out = (struct store_mode){0};
    sqlite3_stmt *q = store_prepare(s, "select digest, text from mode where mode = ?", "i", mode);
    int rc = store_step(s, q, e);
    if (rc == 1) {
        snprintf(out->digest, sizeof out->digest, "%s", (const char *)sqlite3_column_text(q, 0));
        snprintf(out->text, sizeof out->text, "%s", (const char *)sqlite3_column_text(q, 1));
    }
    sqlite3_reset(q);
    return rc < 0 ? rc : 0;
}

static const struct store_served *served_of_id(const struct store *s, uint32_t id)
{
    for (int k = 0; k < STORE_MODELS; k++)
        if (s->served[k].is_there && s->served[k].is.id == id)
            return &s->served[k];
    return NULL;
}

int64_t store_mode_of_model(const struct store *s, uint32_t id)
{
    const struct store_served *v = served_of_id(s, id);
    return v ? v->modes[0] : 0;
}

const struct store_served *store_current_of(const struct store *s, struct slice name)
{
    for (int k = 0; k < STORE_MODELS; k++)
        if (s->served[k].is_there && s->served[k].is.is_current && s->served[k].is.name &&
            slice_is(name, s->served[k].is.name))
            return &s->served[k];
    return NULL;
}

/* ---- routes ---- */

/* Takes the next member off a route's text. */
static struct slice next_member(struct slice *route)
{
    const uint8_t *comma = route->len ? memchr(route->at, ',', route->len) : NULL;
    struct slice member = {route->at, comma ? (size_t)(comma - route->at) : route->len};
    size_t used = member.len + (comma != NULL);
    *route = (struct slice){route->at + used, route->len - used};
    return member;
}

/* Splits "MODEL/ADAPTER"; the model is absent where there is no slash. */
static void split_member(struct slice member, struct slice *model, struct slice *adapter)
{
    const uint8_t *slash = member.len ? memchr(member.at, '/', member.len) : NULL;
    size_t n = slash ? (size_t)(slash - member.at) : 0;
    *model = (struct slice){slash ? member.at : NULL, n};
    *adapter = slash ? (struct slice){slash + 1, member.len - n - 1} : member;
}

static int64_t mode_of_adapter(const struct store_served *v, struct slice adapter)
{
    if (!v || adapter.len == 0)
        return v ? v->modes[0] : 0;
    uint32_t k = adapters_find(adapters_of(v), (const char *)adapter.at, adapter.len);
    return k == ADAPTERS_UNKNOWN ? 0 : v->modes[k];
}

/* The number of the mode of an ensemble, which is made if it is not there. */
static int mode_of_ensemble(
    struct store *s, const struct store_members *m, int64_t *mode, struct err *e)
{
    char text[STORE_MEMBERS * 24];
    size_t n = 0;
    for (uint32_t i = 0; i < m->n; i++)
        n += (size_t)snprintf(
            text + n, sizeof text - n, "%s%lld", i ? "," : "", (long long)m->modes[i]);
    int rc = store_integer(s, 0, mode, e,
        "select mode from mode where digest = '" ENSEMBLE "' and text = ?", "s", text);
    if (rc != 0 || *mode > 0)
        return rc;
    rc = store_run(s, e, "insert into mode(digest, text) values ('" ENSEMBLE "', ?)", "s", text);
    if (rc != 0)
        return rc;
    *mode = sqlite3_last_insert_rowid(s->db);
    note_present(s, *mode);
    list_numbers(s);
    s->made_mode = 1;
    return write_meta(s, e);
}

/* The modes that the route's names have now. */
static struct store_members find_members(const struct store *s, const struct store_route *r)
{
    struct store_members m = {0};
    struct slice rest = r->text, model, adapter;
    while (rest.len > 0 && m.n < STORE_MEMBERS) {
        split_member(next_member(&rest), &model, &adapter);
        const struct store_served *v = r->is_by_name && model.at ? store_current_of(s, model)
                                       : r->is_by_name           ? store_first(s)
                                                                 : served_of_id(s, r->ids[m.n]);
        m.modes[m.n] = mode_of_adapter(v, adapter);
        if (m.modes[m.n++] == 0)
            m.has_none = 1;
    }
    return m;
}

int store_route_is(struct store *s, const struct store_route *r, int64_t mode, struct err *e)
{
    struct store_members now = find_members(s, r), then;
    int rc = store_members_of(s, mode, &then, e);
    if (rc != 0)
        return rc;
    return now.n == then.n && memcmp(now.modes, then.modes, now.n * sizeof *now.modes) == 0;
}

int store_mode_of_route(struct store *s, const struct store_route *r, int64_t *mode, struct err *e)
{
    *mode = store_mode_of_model(s, r->ids[0]);
    if (!r->text.at)
        return 0;
    struct store_members m = find_members(s, r);
    *mode = m.has_none ? 0 : m.modes[0];
    return m.has_none || m.n < 2 ? 0 : mode_of_ensemble(s, &m, mode, e);
}

/* ---- for who reads beside the broker ---- */

static void set_names(
    const struct store *s, struct store_names *names, struct slice model, struct slice adapter)
{
    if (s->n_models > 1)
        snprintf(names->model, sizeof names->model, "%.*s", (int)model.len, (const char *)model.at);
    snprintf(
        names->adapter, sizeof names->adapter, "%.*s", (int)adapter.len, (const char *)adapter.at);
}

/* The names by which the row asked for this member's model and adapter. */
static int read_route(
    struct store *s, int64_t row, uint32_t k, struct store_names *names, struct err *e)
{
    struct slice route, model, adapter;
    sqlite3_stmt *q = store_prepare(s,
        "select ifnull(job.model, ''), ifnull(adapter, '') from row join job on job.job = row.row "
        ">> 32 where row = ?",
        "i", row);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    route = store_text((const char *)sqlite3_column_text(q, 1));
    for (struct slice member = next_member(&route);; member = next_member(&route)) {
        split_member(member, &model, &adapter);
        if (k == 0 || route.len == 0)
            break;
        k--;
    }
    if (!model.at)
        model = store_text((const char *)sqlite3_column_text(q, 0));
    set_names(s, names, model, adapter);
    sqlite3_reset(q);
    return 0;
}

int store_read_names(
    struct store *s, const struct sequence *r, struct store_names *names, struct err *e)
{
    struct store_members m;
    struct slice model, adapter;
    int64_t mode = 0, row = r->row_id;
    *names = (struct store_names){0};
    int rc = store_integer(s, 0, &mode, e, "select mode from result where row = ?", "i", row);
    if (rc == 0)
        rc = store_members_of(s, mode, &m, e);
    if (rc != 0)
        return rc;
    uint32_t each = r->of && m.n > 1 ? r->of->n_parts / m.n : 0, k = each ? r->part / each : 0;
    sqlite3_stmt *q = store_prepare(s,
        "select each.key from meta, json_each(meta.value) each where name = 'adapters' and "
        "each.value = ? order by instr(each.key, '/') = 0 limit 1",
        "i", m.modes[k < m.n ? k : 0]);
    rc = store_step(s, q, e);
    if (rc == 0) /* not served, or it has no name */
        return read_route(s, row, k, names, e);
    if (rc < 0)
        return rc;
    split_member(store_text((const char *)sqlite3_column_text(q, 0)), &model, &adapter);
    set_names(s, names, model, adapter);
    sqlite3_reset(q);
    return 0;
}
