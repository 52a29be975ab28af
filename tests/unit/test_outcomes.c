/* test_outcomes.c - results and a slow disk: the loop goes on while they are synced, and who waits
 * for them hears nothing before. Syncs of the broker go through here. */
#include "tests/unit/waiters_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "broker/api/progress.h"
#include "broker/outcomes.h"

static atomic_int disk_waits, n_waiting;
static atomic_int n_syncs_here; /* of the test's own thread, which is the loop here */
static pthread_t loop_thread;

int fdatasync(int fd)
{
    int is_loop = pthread_equal(loop_thread, pthread_self());
    n_syncs_here += is_loop;
    for (; disk_waits && !is_loop; usleep(1000))
        n_waiting = 1;
    return (int)syscall(SYS_fdatasync, fd);
}

static void open_broker(struct scene *s)
{
    struct planner_limits limits = {4096, 1024, 4096, 4096, 4096, 0, 0};
    struct err err;
    loop_thread = pthread_self();
    must(planner_new(&s->b.planner, s->b.store, &limits, &err));
    s->b.progress = progress_new(s->b.zmq, "inproc://events", &err);
    assert_non_null(s->b.progress);
}

static void close_broker(struct scene *s)
{
    planner_free(&s->b.planner);
    progress_free(&s->b.progress);
}

/* A job of three rows, and a batch of them that no group takes: its outcome is written at once. */
static int64_t write_outcome(struct scene *s)
{
    struct err err, why;
    struct batch *batch = NULL;
    int64_t job = put_job(s->b.store, "job", 0, 3, 4);
    must(planner_job_changed(s->b.planner, job, &err));
    assert_int_equal(planner_next(s->b.planner, 0, 1, &batch, &err), 1);
    assert_int_equal(batch->n_rows, 3);
    must(store_wait_synced(s->b.store, &err));
    wait_for(s, WAIT_RESULTS, job, 7, FAR);
    disk_waits = 1;
    n_syncs_here = 0;
    err_set(&why, ASSAY_ETOOLARGE, "no group takes it");
    must(outcomes_refuse(&s->b, &batch, &why, &err));
    return job;
}

static void results_wait_for_the_disk_not_the_loop(void **state)
{
    struct scene *s = *state;
    struct err err;
    uint64_t synced;
    open_broker(s);
    int64_t job = write_outcome(s);
    assert_int_equal(n_syncs_here, 0);
    assert_int_equal(job_now(s->b.store, job).failed, 3); /* written, and it can go on */
    for (int i = 0; !n_waiting && i < 20000; i++)
        usleep(1000);
    assert_int_equal(n_waiting, 1); /* the thread syncs though nobody has asked for a reply */
    waiters_tick(&s->b, 1);
    must(store_synced(s->b.store, &synced, &err));
    assert_true(synced < store_written(s->b.store));
    assert_silence(s);
    disk_waits = 0;
    must(store_wait_synced(s->b.store, &err));
    send_replies(&s->b);
    assert_heard(s, 7, "", 3);
    close_broker(s);
}

static int let_disk_go(void **state)
{
    disk_waits = 0;
    return close_scene(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            results_wait_for_the_disk_not_the_loop, open_scene, let_disk_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
