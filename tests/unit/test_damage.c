/* test_damage.c - bits of a database flip: a result is the right one or an error, and no row is
 * lost in silence.
 *
 * A database with jobs in every state is copied, one of its bits flipped, and a store opened on the
 * copy. Its rows are then finished with scores that are a function of their content, and everything
 * is read. Against the same on a whole copy: each row has its result, or one that says that it is
 * damaged; or an error is returned (the broker would say it and stop, or refuse the request), or
 * its job is held and says why. ASSAY_FLIPS: how many bits, one after another. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "schema/log.h"
#include "schema/request.h"

enum { JOBS = 5, ROWS = 150, LOUD = 1, LOST = 2 };
static const char *const keys[JOBS] = {"half", "over", "lists", "again", "gap"};

/* ---- the database ---- */

/* Rows, one after another. */
struct maker {
    int64_t seed;
    uint32_t i, n;
    int32_t ids[64], positions[2];
    uint32_t ends[2];
    uint8_t id[3];
};

static int source(void *arg, struct store_row *row, struct err *e)
{
    struct maker *s = arg;
    (void)e;
    if (s->i == s->n)
        return 0;
    uint32_t i = s->i++, n_tokens = 8 + (i * 7 + (uint32_t)s->seed) % 40;
    for (uint32_t k = 0; k < n_tokens; k++)
        s->ids[k] = (int32_t)((s->seed * 1000003 + i * 7919 + k * 31) % 150000);
    s->id[0] = 0xcd; /* a 16 bit integer */
    s->id[1] = (uint8_t)(i >> 8 | 0x40);
    s->id[2] = (uint8_t)i;
    *row = (struct store_row){.client_id = {s->id, 3},
        .ids = s->ids,
        .n_tokens = n_tokens,
        .n_parts = 1,
        .pool = {i % 5 == 4 ? POOL_POSITIONS : POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = 1};
    if (i % 5 == 4) {
        s->positions[0] = (int32_t)(i % 8);
        s->positions[1] = 1;
        row->positions = s->positions;
        row->n_positions = row->n_values = 2;
    }
    if (s->seed == 2) {
        s->ends[0] = 3;
        s->ends[1] = n_tokens;
        s->positions[0] %= 3;
        row->pool.type = POOL_LAST;
        row->shape = ROW_RESPONSES;
        row->ends = s->ends;
        row->n_parts = row->n_values = 2;
    }
    if (i % 11 == 10) {
        row->error_code = ASSAY_EBADTOKEN;
        row->error_message = "as it came";
    }
    return 1;
}

static void fill(struct store *s, int64_t job, int64_t seed, uint32_t chunk, uint32_t n, int seal)
{
    struct err err;
    struct maker maker = {.seed = seed, .n = n};
    uint8_t bytes[] = {(uint8_t)seed, (uint8_t)chunk};
    struct store_chunk c = {job, chunk, {bytes, sizeof bytes}, n, seal, NULL, 0};
    must(store_begin(s, &err));
    assert_int_equal(store_add_chunk(s, &c, &err), CHUNK_IN_ORDER);
    must(add_from(s, job, source, &maker, &err));
    must(store_commit(s, &err));
}

/* ---- scores ---- */

static void score_of(const struct sequence *r, float *values)
{
    uint64_t h = XXH3_64bits(r->ids, r->n_tokens * sizeof *r->ids);
    h += XXH3_64bits(r->positions, r->n_positions * sizeof *r->positions) * 3;
    h += (uint64_t)r->pool.type * 5 + (uint64_t)r->pool.activation * 7;
    for (uint32_t k = 0; k < r->n_values; k++)
        values[k] = (float)((h >> 8 * (k % 4)) & 0xffff) / 16;
}

/* The row that starts at list[i]: all of its sequences. */
static int finish_one(
    struct store *s, struct sequence **list, uint32_t *i, int fails, struct err *e)
{
    struct sequence *r = list[*i];
    uint32_t n = r->of ? r->of->n_parts : 1;
    float values[64];
    struct store_result result = {.values = values, .n_values = r->of ? n : r->n_values};
    for (uint32_t k = 0; k < n; k++)
        if (!r->found_error)
            score_of(list[*i + k], values + k);
    *i += n;
    if (r->found_error || fails)
        result =
            (struct store_result){.error_code = r->found_error ? r->found_error : ASSAY_ENONFINITE,
                .error_message = "why"};
    return store_finish_row(s, r, &result, e);
}

static int finish_rows(struct store *s, int64_t job, uint32_t limit, int fails, struct err *e)
{
    struct row_list list = {.n = 0};
    int rc = store_queued_rows(s, &(struct store_page){job, 0, limit}, list_row, &list, e), n = 0;
    if (rc == 0)
        rc = store_begin(s, e);
    for (uint32_t i = 0; rc >= 0 && i < list.n; n++)
        rc = finish_one(s, list.at, &i, fails && n % 3 == 0, e);
    rc = rc >= 0 ? store_commit(s, e) : (store_rollback(s), rc);
    free_rows(&list);
    return rc < 0 ? rc : n;
}

static void make_database(struct fixture *f)
{
    struct err err;
    int64_t job[JOBS];
    for (int k = 0; k < JOBS; k++)
        job[k] = new_job(f->s, keys[k], k);
    for (int k = 0; k < 4; k++)
        fill(f->s, job[k], k, 0, ROWS, 1);
    assert_int_equal(put_chunk(f->s, job[4], 1, 70, 9, 1), CHUNK_KEPT);
    assert_true(must(finish_rows(f->s, job[0], 40, 0, &err)) > 0);
    must(finish_rows(f->s, job[1], ROWS, 0, &err));
    must(finish_rows(f->s, job[2], 50, 0, &err));
    must(finish_rows(f->s, job[3], ROWS, 1, &err));
    must(store_begin(f->s, &err));
    assert_true(retry_rows(f->s, job[3]) > 20);
    must(store_commit(f->s, &err));
    store_close(&f->s);
}

struct lengths {
    struct msg_reader reader;
    int32_t chunk;
    uint32_t i, n;
};

/* ---- what is read ---- */

/* Of each row of each job: a hash of its result; 0 none, 1 damaged. */
struct reading {
    uint64_t seen[JOBS][ROWS];
    int times[JOBS][ROWS]; /* that it was given, by the cursor */
    uint64_t cursor;
    int job;
    int is_wrong;
};

static int see_result(void *arg, const struct store_result_row *r)
{
    struct reading *reading = arg;
    if (r->i >= ROWS) {
        assert_true(r->error_code && strcmp(r->error_code, "damaged") == 0);
        return 0;
    }
    uint64_t *seen = &reading->seen[reading->job][r->i];
    if (r->error_code && strcmp(r->error_code, "damaged") == 0) {
        *seen = *seen ? *seen : 1;
        return 0;
    }
    uint64_t numbers[] = {r->n_tokens, (uint64_t)r->shape, (uint64_t)r->pool.type,
        (uint64_t)r->pool.activation, r->n_values, r->n_pooled};
    uint64_t h = XXH3_64bits(numbers, sizeof numbers);
    h = XXH3_64bits_withSeed(r->client_id.at, r->client_id.len, h);
    h = XXH3_64bits_withSeed(r->values, r->n_values * sizeof(float), h);
    h = XXH3_64bits_withSeed(r->pooled_at, r->n_pooled * 8, h);
    h = XXH3_64bits_withSeed(r->error_code, r->error_code ? strlen(r->error_code) : 0, h);
    *seen = h;
    return 0;
}

/* In order of completion: cursors ascend, and each row comes once. */
static int see_next_result(void *arg, const struct store_result_row *r)
{
    struct reading *reading = arg;
    reading->is_wrong |= r->cursor <= reading->cursor;
    reading->cursor = r->cursor;
    if (r->i < ROWS)
        reading->times[reading->job][r->i]++;
    else
        reading->is_wrong = 1;
    return see_result(arg, r);
}

/* As a client does, in pages. */
static int read_pages(struct store *s, int64_t job, struct reading *reading, struct err *e)
{
    int rc = 1;
    memset(reading->times[reading->job], 0, sizeof reading->times[0]);
    for (reading->cursor = 0; rc == 1;)
        rc = store_each_result(
            s, &(struct store_page){job, reading->cursor, 37}, see_next_result, reading, e);
    return rc;
}

/* Rows of an encoded chunk, which has their lengths. */
static int source_of_lengths(void *arg, struct store_row *row, struct err *e)
{
    static int32_t ids[64];
    struct lengths *l = arg;
    int64_t len;
    if (l->i == l->n)
        return 0;
    int rc = msg_read_int(&l->reader, "row", 1, 64, &len, e);
    for (int64_t k = 0; rc == 0 && k < len; k++)
        ids[k] = k == 0 ? l->chunk : k == 1 ? (int32_t)l->i : 7;
    l->i++;
    *row = (struct store_row){.ids = ids,
        .n_tokens = (uint32_t)len,
        .n_parts = 1,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = 1};
    return rc == 0 ? 1 : rc;
}

static int place_lengths(
    struct store *s, int64_t job, int32_t chunk, struct slice rows, struct err *e)
{
    struct lengths l = {.chunk = chunk};
    msg_reader_init(&l.reader, rows.at, rows.len);
    int rc = msg_read_array(&l.reader, "rows", &l.n, e);
    return rc == 0 ? add_from(s, job, source_of_lengths, &l, e) : rc;
}

static int place_one(struct store *s, struct store_pending *p, struct err *e)
{
    uint8_t *bytes = calloc(1, p->bytes + 1);
    struct store_written w = {0};
    struct store_rows *rows = NULL;
    int rc = store_read_pending(s, p, bytes, INT64_MAX, e);
    if (rc == 0 && store_pending_is_sound(p, bytes)) {
        rc = place_lengths(s, p->job, p->chunk, (struct slice){bytes, p->bytes}, e);
        rc = rc == 0 ? store_end_pending(s, p, e) : rc;
    } else if (rc == 0) {
        rows = store_damaged_rows(p->n_left);
        rc = store_place_pending(s, p, rows, &w, INT64_MAX, e);
    }
    if (rc == 0)
        rc = store_drop_pieces(s, p->job, p->chunk, INT64_MAX, e);
    store_rows_free(&rows);
    free(bytes);
    return rc;
}

/* Chunk 0 of the job whose chunk 1 waits for it. */
static int fill_gap(struct store *s, int64_t job, struct err *e)
{
    struct msg_writer w;
    struct store_pending p;
    encode_rows(&w, 80, 5);
    struct store_chunk c = {
        job, 0, {(const uint8_t *)w.buffer.data, w.buffer.size}, 80, 0, NULL, 0};
    int rc = store_add_chunk(s, &c, e);
    if (rc == CHUNK_IN_ORDER)
        rc = place_lengths(s, job, 0, c.rows, e);
    while (rc == 0 && (rc = store_next_pending(s, job, &p, e)) == 1)
        rc = place_one(s, &p, e);
    msg_writer_release(&w);
    return rc;
}

/* Finishes and reads one job: 0, LOUD when something said that it is damaged. */
static int read_job(struct store *s, int k, struct reading *reading)
{
    struct err err;
    int64_t job, mended;
    struct store_job j;
    int rc = store_find_job(s, slice_of(keys[k]), &job, &err);
    if (rc != 1 || store_get_job(s, job, &j, &err) != 1 || j.held)
        return LOUD; /* a client would hear unknown_job, or the reason */
    if (k == 4 && j.placed == 0) {
        rc = store_begin(s, &err);
        if (rc == 0)
            rc = fill_gap(s, job, &err);
        if (rc < 0 || store_commit(s, &err) != 0) {
            store_rollback(s);
            return LOUD;
        }
    }
    for (int turns = 0; turns < 3; turns++) {
        while ((rc = finish_rows(s, job, 64, 0, &err)) > 0)
            ;
        reading->job = k;
        if (rc == 0)
            rc = read_pages(s, job, reading, &err);
        if (rc == 0)
            rc = store_each_result_by_index(s, job, 0, see_result, reading, &err);
        if (store_mend_suspect(s, &mended, &err) != 1)
            break;
    }
    if (rc < 0)
        return assert_true(err.msg[0]), LOUD;
    if (store_get_job(s, job, &j, &err) != 1 || j.held)
        return LOUD;
    if (j.state != JOB_DONE)
        return LOST;
    return 0;
}

/* ---- flips ---- */

static void copy_file(const char *from, const char *to)
{
    char command[400];
    snprintf(command, sizeof command, "rm -f %s-* && cp %s %s", to, from, to);
    assert_int_equal(system(command), 0);
}

static void flip(const char *path, uint64_t bit)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
    byte ^= (uint8_t)(1u << bit % 8);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
    close(fd);
}

/* 1 when the whole store refuses to open, which is loud. */
static int read_all(struct fixture *f, struct reading *reading, int *loud)
{
    struct err err = {0};
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    memset(reading, 0, sizeof *reading);
    if (store_open(&f->s, f->dir, &options, &err) != 0)
        return assert_true(err.msg[0]), 1;
    for (int k = 0; k < JOBS; k++)
        loud[k] = read_job(f->s, k, reading);
    store_close(&f->s);
    return 0;
}

/* What a process of its own found: one whose database has another schema ends with a word in its
 * log. */
struct finding {
    struct reading reading;
    int loud[JOBS];
};

static int read_apart(struct fixture *f, struct finding *found)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        alarm(120); /* a hang is no finding */
        _exit(read_all(f, &found->reading, found->loud));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) > 1 && WEXITSTATUS(status) != 70))
        fail_msg("the store ended with status %x", (unsigned)status);
    return WEXITSTATUS(status) != 0;
}

static int compare(const struct reading *now, const struct reading *whole, const int *loud)
{
    int bad = now->is_wrong;
    if (now->is_wrong)
        print_error("cursors that do not ascend, or a row that there is not\n");
    for (int k = 0; k < JOBS; k++)
        for (int i = 0; i < ROWS; i++) {
            if (now->times[k][i] != 1 && loud[k] != LOUD) {
                print_error(
                    "%d times by the cursor: job %s, row %d\n", now->times[k][i], keys[k], i);
                bad++;
            }
            uint64_t seen = now->seen[k][i];
            int wrong = seen > 1 && seen != whole->seen[k][i];
            int lost = seen == 0 && loud[k] != LOUD;
            if (wrong || lost)
                print_error("%s of job %s, row %d\n", wrong ? "changed" : "lost", keys[k], i);
            bad += wrong || lost;
        }
    return bad;
}

/* Two of three bits in pages of what has a key: results, chunks, indices (SQLite's leaves and nodes
 * of those). */
static uint64_t choose_bit(const char *kept, uint64_t k, uint64_t n_bytes)
{
    enum { PAGE = 8192 };
    int fd = open(kept, O_RDONLY);
    uint64_t bit = XXH3_64bits(&k, sizeof k) % (n_bytes * 8);
    for (uint64_t page = bit / 8 / PAGE, tries = 0; k % 3 != 0 && tries < n_bytes / PAGE; tries++) {
        uint8_t kind;
        assert_int_equal(pread(fd, &kind, 1, (off_t)(page * PAGE)), 1);
        if (kind == 10 || kind == 2) {
            bit = page * PAGE * 8 + bit % (PAGE * 8);
            break;
        }
        page = (page + 1) % (n_bytes / PAGE);
    }
    close(fd);
    return bit;
}

static void a_flipped_bit_changes_nothing_in_silence(void **state)
{
    struct fixture *f = *state;
    static struct reading whole;
    struct finding *now =
        mmap(NULL, sizeof *now, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char path[100], kept[100];
    struct stat st;
    int loud[JOBS], n_loud = 0, refused = 0, bad = 0;
    const char *wanted = getenv("ASSAY_FLIPS"), *first = getenv("ASSAY_SEED");
    uint64_t n = wanted ? strtoull(wanted, NULL, 10) : 150;
    uint64_t seed = first ? strtoull(first, NULL, 10) : 1;
    assert_true(now != MAP_FAILED);
    log_init("test", -1, LOG_LEVEL_ERROR);
    make_database(f);
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    snprintf(kept, sizeof kept, "%s/kept", f->dir);
    copy_file(path, kept);
    assert_int_equal(stat(kept, &st), 0);
    assert_int_equal(read_all(f, &whole, loud), 0);
    for (int k = 0; k < JOBS; k++) {
        assert_int_equal(loud[k], 0);
        for (int i = 0; i < ROWS; i++)
            assert_true(whole.seen[k][i] > 1);
    }
    for (uint64_t k = seed; k < seed + n; k++) {
        uint64_t bit = choose_bit(kept, k, (uint64_t)st.st_size);
        copy_file(kept, path);
        flip(path, bit);
        if (read_apart(f, now)) {
            refused++;
            continue;
        }
        int is_bad = compare(&now->reading, &whole, now->loud) > 0;
        if (is_bad)
            print_error("seed %llu: bit %llu of page %llu\n", (unsigned long long)k,
                (unsigned long long)(bit % 65536), (unsigned long long)(bit / 65536 + 1));
        bad += is_bad;
        for (int j = 0; j < JOBS; j++)
            n_loud += now->loud[j] != 0;
    }
    print_message("%llu flips: %d stores refused, %d jobs loud, %d bad\n", (unsigned long long)n,
        refused, n_loud, bad);
    munmap(now, sizeof *now);
    copy_file(kept, path);
    open_mode(f, MODE);
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_flipped_bit_changes_nothing_in_silence, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
