/* stage_fixture.h - a staging area and its view by a rank, and two rows to hand over. */
#ifndef ASSAY_STAGE_FIXTURE_H
#define ASSAY_STAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/stage.h"

static const struct stage_config config = {2, 4, 100, 10, 50};

static const int32_t ids_a[] = {1, 2, 3}, ids_b[] = {4, 5}, positions_b[] = {1, 0};
static const int32_t *const ids[] = {ids_a, ids_b}, *const positions[] = {NULL, positions_b};
static const struct stage_row rows[] = {{3, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0, 0},
    {2, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 2, 2, 0, 0}};
static const struct stage_fill fill = {2, rows, ids, positions};

struct pair {
    struct stage *stage;
    struct stage_view *view;
};

static inline void open_pair(struct pair *p)
{
    struct err e = {0};
    assert_int_equal(stage_new(&p->stage, &config, &e), 0);
    assert_int_equal(
        stage_attach(&p->view, stage_input_fd(p->stage), stage_output_fd(p->stage), 0, &e), 0);
}

static inline void close_pair(struct pair *p)
{
    stage_detach(&p->view);
    stage_free(&p->stage);
    assert_null(p->stage);
}

/* Offsets of the format (stage.c). */
enum {
    INPUT_SLOT_0 = 4096,
    OUTPUT_SLOT_0 = 8192,
    IN_ROWS = 32,
    IN_TOKENS = 36,
    IN_POSITIONS = 40,
    IN_VALUES = 44,
    IN_SEQUENCE = 48,
    ROW_0 = 64,
    ROW_1 = 64 + 32,
    ROW_TOKENS = 0,
    ROW_POOL = 4,
    ROW_ACTIVATION = 8,
    ROW_POSITIONS = 16,
    ROW_VALUES = 20,
    ROW_SHARED = 24,
    ROW_ADAPTER = 28,
    POSITIONS_AT = 64 + 128 + 448, /* rows [4] and ids [100], rounded up to 64 */
    OUT_VALUES = 32,
    OUT_SEQUENCE = 40,
};

/* The input segment as the broker sees it: its own mapping, the only one that can be written
 * through. */
static inline uint8_t *find_writable(struct pair *p)
{
    struct stat st;
    char line[512], mode[8];
    unsigned long from, inode;
    uint8_t *at = NULL;
    FILE *f = fopen("/proc/self/maps", "re");
    assert_int_equal(fstat(stage_input_fd(p->stage), &st), 0);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%lx-%*x %7s %*x %*s %lu", &from, mode, &inode) == 3 &&
            inode == st.st_ino && mode[1] == 'w')
            at = (uint8_t *)from;
    fclose(f);
    assert_non_null(at);
    return at;
}

#endif
