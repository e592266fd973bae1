/* How objects are cut over members. */
#include "core/util.h"
#include "nvme/map.h"
#include "nvme/plan.h"
#include "util.h"
#include "volume_fixture.h"

static void make(struct ps_plan *plan, struct fixture *f, uint32_t members, uint32_t align)
{
    struct ps_error err = {0};
    int rc = ps_plan_make(plan, &f->spec, members, align, &err);
    if (rc != 0)
        fail_msg("%s: %s", err.where, err.text);
}

static uint64_t filled(const struct ps_plan *plan, uint32_t m)
{
    return plan->extents[m].data_end - plan->extents[m].data_begin;
}

/* Large experts: even shares, each member's part of a layer one range, cuts on slice ends. */
static void even_cuts(void **state)
{
    (void)state;
    for (uint32_t members = 1; members <= 8; members++) {
        struct fixture f;
        struct ps_plan plan;
        struct fixture_shape shape = {.resident_count = 1,
                                      .group_count = 3,
                                      .index_count = 16,
                                      .slice_count = 4,
                                      .slice_bytes = 1769472};
        fixture_init(&f, 1, &shape);
        make(&plan, &f, members, 4096);
        for (uint32_t m = 0; m < members; m++) {
            double share = (double)filled(&plan, m) * members / (double)plan.data_bytes;
            assert_true(share > 0.87 && share < 1.13);
        }
        for (uint64_t p = 0; p < plan.header->piece_count; p++)
            assert_true(plan.pieces[p].bytes >= 65536 || plan.pieces[p].bytes == 4096);
        /* Within an object members ascend, so that each holds one range of it. */
        for (uint32_t i = 0; i < plan.header->object_count; i++) {
            const struct ps_disk_object *o = &plan.objects[i];
            const struct ps_disk_slice *last = &plan.slices[o->first_slice + o->slice_count - 1];
            uint64_t p = plan.slices[o->first_slice].first_piece;
            for (; p + 1 < last->first_piece + last->piece_count; p++) {
                const struct ps_disk_piece *a = &plan.pieces[p], *b = a + 1;
                assert_true(a->member <= b->member);
                assert_true(a->member != b->member ||
                            a->offset_bytes + a->bytes == b->offset_bytes);
            }
        }
        ps_plan_fini(&plan);
        fixture_fini(&f);
    }
}

/* Eight slices (the last one half as long) over two members: the cut is on a slice's end. */
static void cut_on_slice_end(void **state)
{
    struct fixture f;
    struct ps_plan plan;
    struct fixture_shape shape = {.resident_count = 0,
                                  .group_count = 1,
                                  .index_count = 4,
                                  .slice_count = 8,
                                  .slice_bytes = 1048576};
    (void)state;
    fixture_init(&f, 1, &shape);
    make(&plan, &f, 2, 4096);
    for (uint64_t i = 0; i < plan.header->slice_count; i++)
        assert_int_equal(plan.slices[i].piece_count, 1);
    ps_plan_fini(&plan);
    fixture_fini(&f);
}

/* Small objects are not torn: they go to one member each, and the members fill evenly. */
static void small_objects_rotate(void **state)
{
    struct fixture f;
    struct ps_plan plan;
    struct fixture_shape shape = {.resident_count = 0,
                                  .group_count = 4,
                                  .index_count = 30,
                                  .slice_count = 1,
                                  .slice_bytes = 40000};
    (void)state;
    fixture_init(&f, 1, &shape);
    make(&plan, &f, 3, 4096);
    assert_int_equal(plan.header->piece_count, plan.header->slice_count);
    for (uint32_t m = 0; m < 3; m++) {
        assert_true(filled(&plan, m) * 3 > plan.data_bytes - 3 * 40960);
        assert_true(filled(&plan, m) * 3 < plan.data_bytes + 3 * 40960);
    }
    ps_plan_fini(&plan);
    fixture_fini(&f);
}

static void large_alignment(void **state)
{
    struct fixture f;
    struct ps_plan plan;
    struct fixture_shape shape = {.resident_count = 3,
                                  .group_count = 2,
                                  .index_count = 3,
                                  .slice_count = 3,
                                  .slice_bytes = 300000};
    (void)state;
    fixture_init(&f, 1, &shape);
    make(&plan, &f, 3, 65536);
    for (uint64_t p = 0; p < plan.header->piece_count; p++) {
        assert_int_equal(plan.pieces[p].bytes % 65536, 0);
        assert_int_equal(plan.pieces[p].offset_bytes % 65536, 0);
    }
    assert_int_equal(plan.table_offset % 65536, 0);
    assert_int_equal(plan.map_bytes % 65536, 0);
    assert_int_equal(plan.data_begin % 65536, 0);
    ps_plan_fini(&plan);
    fixture_fini(&f);
}

/* The same description gives the same bytes; any difference in it another UUID. */
static void identity(void **state)
{
    struct fixture f;
    struct ps_plan a, b;
    struct fixture_shape shape = {.resident_count = 2,
                                  .group_count = 1,
                                  .index_count = 2,
                                  .slice_count = 2,
                                  .slice_bytes = 30000};
    (void)state;
    fixture_init(&f, 1, &shape);
    make(&a, &f, 2, 4096);
    make(&b, &f, 2, 4096);
    assert_int_equal(a.map_bytes, b.map_bytes);
    assert_memory_equal(a.map_data, b.map_data, a.map_bytes);
    assert_int_equal(a.uuid[6] >> 4, 8);
    assert_int_equal(a.uuid[8] >> 6, 2);
    ps_plan_fini(&b);
    f.spec.source_fingerprint[0] ^= 1;
    make(&b, &f, 2, 4096);
    assert_memory_not_equal(a.uuid, b.uuid, 16);
    assert_memory_equal(a.plan_hash, b.plan_hash, 16);
    ps_plan_fini(&b);
    f.spec.source_fingerprint[0] ^= 1;
    make(&b, &f, 1, 4096);
    assert_memory_not_equal(a.uuid, b.uuid, 16);
    ps_plan_fini(&b);
    ps_plan_fini(&a);
    fixture_fini(&f);
}

/* Work is handed out in map order; streamed objects whole, resident ones in bounded runs. */
static void jobs(void **state)
{
    struct fixture f;
    struct ps_plan plan;
    struct fixture_shape shape = {.resident_count = 4,
                                  .group_count = 2,
                                  .index_count = 2,
                                  .slice_count = 5,
                                  .slice_bytes = 4000000,
                                  .large = true};
    (void)state;
    fixture_init(&f, 1, &shape);
    make(&plan, &f, 2, 4096);
    uint64_t next = 0;
    for (uint32_t i = 0; i < plan.job_count; i++) {
        const struct ps_plan_job *job = &plan.jobs[i];
        const struct ps_disk_object *o = &plan.objects[job->object];
        assert_int_equal(job->first_slice, next);
        next += job->slice_end - job->slice_begin;
        if (o->kind == PS_OBJECT_STREAMED)
            assert_int_equal(job->slice_end - job->slice_begin, o->slice_count);
        else
            assert_true(job->bytes <= 8u << 20 || job->slice_end - job->slice_begin == 1);
        assert_true(job->bytes <= plan.job_bytes_max);
    }
    assert_int_equal(next, plan.header->slice_count);
    ps_plan_fini(&plan);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(even_cuts),
        cmocka_unit_test(cut_on_slice_end),
        cmocka_unit_test(small_objects_rotate),
        cmocka_unit_test(large_alignment),
        cmocka_unit_test(identity),
        cmocka_unit_test(jobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
