/* test_route.c - which model, or models, a row goes through: by its name, its message's or its job's,
 * and by what these names meant when the job was begun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "broker/api/route.h"

#define OLD 5 /* a model that was called y before */

static const struct text_model no_text;
static const struct model_info infos[] = {
    {.name = "x", .vocab_size = 100, .max_len = 8, .n_labels = 1, .pool.type = POOL_LAST},
    {.name = "y", .vocab_size = 200, .max_len = 8, .n_labels = 1, .pool.type = POOL_LAST},
    {.name = "y", .vocab_size = 50, .max_len = 8, .n_labels = 1, .pool.type = POOL_LAST},
    {.name = "three", .vocab_size = 50, .max_len = 8, .n_labels = 3, .pool.type = POOL_LAST}};

struct fixture {
    struct catalog *catalog;
    struct admit admit;
    struct catalog_pins pins;
    int32_t ids[4];
    struct store_row row;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const struct catalog_model models[] = {{0, 1, &infos[0], &no_text}, {1, 1, &infos[1], &no_text},
        {3, 1, &infos[3], &no_text}, {OLD, 0, &infos[2], &no_text}};
    f->catalog = catalog_new(1);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        catalog_add(f->catalog, &models[i]);
    f->pins = (struct catalog_pins){{OLD}, 1};
    admit_use(&f->admit, f->catalog, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    admit_release(&f->admit);
    catalog_let_go(&f->catalog);
    free(f);
    return 0;
}

/* names: separated by commas; NULL: none. */
static struct request_models names_of(const char *names, int is_list)
{
    struct request_models m = {.is_list = is_list};
    for (const char *at = names; at && *at; at += at[strcspn(at, ",")] == ',' ? 1 : 0) {
        size_t n = strcspn(at, ",");
        m.of[m.n++] = (struct slice){(const uint8_t *)at, n};
        at += n;
    }
    return m;
}

static uint32_t base_of(struct fixture *f, const char *name, uint32_t given)
{
    struct err e = {0};
    struct request_models of = names_of(name, 0);
    uint32_t id = 77;
    int rc = route_base(&f->admit, &of, given, &id, &e);
    assert_int_equal(rc, 0);
    return id;
}

static const struct store_row *route(
    struct fixture *f, uint32_t base, const char *names, int is_list, int32_t id)
{
    struct row_request q = {
        .shape = ROW_IDS, .ids_is_bin = 1, .n_ids = 1, .models = names_of(names, is_list)};
    f->ids[0] = id;
    q.ids = (struct slice){(const uint8_t *)f->ids, sizeof f->ids[0]};
    route_row(&f->admit, base, &q, &f->row);
    return &f->row;
}

static void names_find_the_base(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(base_of(f, NULL, CATALOG_NONE), 0); /* the first */
    assert_int_equal(base_of(f, "y", CATALOG_NONE), 1);
    assert_int_equal(base_of(f, NULL, OLD), OLD); /* a job's */
    assert_int_equal(base_of(f, "y", OLD), 1);
    admit_use(&f->admit, f->catalog, &f->pins);
    assert_int_equal(base_of(f, "y", OLD), OLD); /* what the name means in the job */
    assert_int_equal(base_of(f, "x", OLD), 0);
}

static void what_is_not_there_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct request_models of = names_of("z", 0), none = {0};
    uint32_t id;
    assert_int_equal(route_base(&f->admit, &of, CATALOG_NONE, &id, &e), ASSAY_EMODEL);
    assert_non_null(strstr(e.msg, "x, y, three, found 'z'")); /* the old one is no name */
    assert_int_equal(route_base(&f->admit, &none, 9, &id, &e), ASSAY_ESTATE);
    const struct store_row *row = route(f, 0, "z", 0, 1);
    assert_int_equal(row->error_code, ASSAY_EMODEL);
}

static void a_row_has_the_limits_of_its_model(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(route(f, 0, NULL, 0, 99)->error_code, 0);
    assert_int_equal(f->row.models[0], 0);
    assert_null(f->row.adapter.at); /* its job's model: no route */
    assert_int_equal(route(f, 0, NULL, 0, 150)->error_code, ASSAY_EBADTOKEN);
    assert_int_equal(route(f, 0, "y", 0, 150)->error_code, 0);
    assert_int_equal(f->row.models[0], 1);
    assert_true(slice_is(f->row.adapter, "y/"));
    assert_int_equal(route(f, OLD, NULL, 0, 60)->error_code, ASSAY_EBADTOKEN);
    admit_use(&f->admit, f->catalog, &f->pins);
    assert_int_equal(route(f, 0, "y", 0, 150)->error_code, ASSAY_EBADTOKEN);
    assert_int_equal(f->row.models[0], OLD);
    assert_int_equal(route(f, OLD, "y", 0, 40)->error_code, 0);
    assert_null(f->row.adapter.at); /* its job's own */
}

static void a_row_of_several(void **state)
{
    struct fixture *f = *state;
    /* ids would be other texts, as no tokenizer is known; of one text model they are the same */
    const struct store_row *row = route(f, 0, "x,y", 1, 40);
    assert_int_equal(row->error_code, 0);
    assert_int_equal(row->n_parts, 2);
    assert_int_equal(row->models[0], 0);
    assert_int_equal(row->models[1], 1);
    assert_true(slice_is(row->adapter, "x/,y/"));
    row = route(f, 0, "x,three", 1, 40);
    assert_int_equal(row->error_code, ASSAY_EBADREQ);
    assert_non_null(strstr(row->error_message, "one score"));
    admit_use(&f->admit, f->catalog, &f->pins);
    row = route(f, 0, "x,y", 1, 40);
    assert_int_equal(row->models[1], OLD);
    row = route(f, 0, "x,y", 1, 60);
    assert_int_equal(row->error_code, ASSAY_EBADTOKEN);
}

static void a_catalog_goes_with_its_last_user(void **state)
{
    struct fixture *f = *state;
    struct catalog *used = catalog_use(f->catalog), *none = NULL;
    catalog_let_go(&used);
    assert_null(used);
    assert_int_equal(atomic_load(&f->catalog->n_users), 1);
    assert_null(catalog_use(none));
    catalog_let_go(&none);
    assert_int_equal(catalog_first(f->catalog)->id, 0);
    assert_non_null(catalog_of_id(f->catalog, OLD));
    assert_null(catalog_of_id(f->catalog, 2));
}

/* Composers of an earlier list are not used under another one. */
static void another_list(void **state)
{
    struct fixture *f = *state;
    struct catalog *next = catalog_new(2);
    route(f, 0, "y", 0, 40);
    assert_non_null(f->admit.composers[1]);
    admit_leave(&f->admit);
    assert_null(f->admit.composer);
    catalog_add(next, &(struct catalog_model){OLD, 1, &infos[2], &no_text});
    admit_use(&f->admit, next, NULL);
    assert_null(f->admit.composers[1]);
    assert_int_equal(base_of(f, NULL, CATALOG_NONE), OLD);
    assert_int_equal(route(f, OLD, "y", 0, 40)->error_code, 0);
    assert_null(f->row.adapter.at);
    admit_leave(&f->admit);
    catalog_let_go(&next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_find_the_base, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_there_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_has_the_limits_of_its_model, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_of_several, setup, teardown),
        cmocka_unit_test_setup_teardown(a_catalog_goes_with_its_last_user, setup, teardown),
        cmocka_unit_test_setup_teardown(another_list, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
