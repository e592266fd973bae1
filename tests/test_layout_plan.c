/* How objects are cut over members. */
#include "core/util.h"
#include "nvme/map.h"
#include "nvme/plan.h"
#include "nvme/weigh.h"
#include "util.h"
#include "volume_fixture.h"

static void make(struct ps_plan *plan, struct fixture *f, uint32_t members, uint32_t align)
{
    struct ps_error err = {0};
    struct ps_plan_options options = {.member_count = members,
                                      .align = align,
                                      .copies = 1,
                                      .piece_bytes_min = PS_PIECE_BYTES_MIN};
    int rc = ps_plan_make(plan, &f->spec, &options, &err);
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
            double share = (double)filled(&plan, m) * members / (double)plan.object_bytes;
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
        assert_true(filled(&plan, m) * 3 > plan.object_bytes - 3 * 40960);
        assert_true(filled(&plan, m) * 3 < plan.object_bytes + 3 * 40960);
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

/* ---- what was laid out before there were weights --------------------------------------------- */

/* Equal weights, one node and one copy: the very plans of volumes that exist. */
static void plans_of_before(void **state)
{
    static const struct fixture_shape shapes[] = {
        {5, 3, 4, 4, 100000, true},
        {1, 3, 16, 4, 1769472, false},
        {0, 4, 30, 1, 40000, false},
        {2, 2, 5, 7, 90000, false},
    };
    static const uint64_t hashes[4][4] = {
        {0xd8ab1da4b0fec104, 0x5646cb78c99f01a9, 0x422aee37a5f6c192, 0xa541dfb7ed94e257},
        {0x4f98b0c296a836c8, 0x62e05f8eaa51da5b, 0x30057e7411c2f0ce, 0xdfc9038d387be5e9},
        {0x8ea5de7078775b0d, 0x6fbb19b1d4c5f711, 0x8256e2f89b6a2ec1, 0xae5b6faa4afbedb7},
        {0x33c323332009c886, 0x1c9cfea59ac41e4b, 0x5b4f206a30efb103, 0x1a3082b5b2be15b4},
    };
    (void)state;
    for (size_t s = 0; s < 4; s++) {
        for (uint32_t i = 0; i < 4; i++) {
            struct fixture f;
            struct ps_plan plan;
            fixture_init(&f, 1, &shapes[s]);
            make(&plan, &f, 1 + 2 * i, i == 2 ? 65536 : 4096);
            assert_true(plan.plan_hash[0] == hashes[s][i]);
            ps_plan_fini(&plan);
            fixture_fini(&f);
        }
    }
}

/* ---- weights, nodes, copies ------------------------------------------------------------------ */

static const struct fixture_shape experts = {.resident_count = 3,
                                             .group_count = 4,
                                             .index_count = 16,
                                             .slice_count = 4,
                                             .slice_bytes = 1769472};

static void make_with(struct ps_plan *plan, struct fixture *f, const uint32_t *weights,
                      const uint8_t *nodes, uint32_t members, uint32_t copies)
{
    struct ps_error err = {0};
    struct ps_plan_options options = {.member_count = members,
                                      .align = 4096,
                                      .copies = copies,
                                      .piece_bytes_min = PS_PIECE_BYTES_MIN};
    for (uint32_t m = 0; m < members; m++) {
        options.weights[m] = weights != NULL ? weights[m] : 0;
        options.nodes[m] = nodes != NULL ? nodes[m] : PS_NODE_NONE;
    }
    int rc = ps_plan_make(plan, &f->spec, &options, &err);
    if (rc != 0)
        fail_msg("%s: %s", err.where, err.text);
}

/* Bytes of an object's copy on each member. */
static void object_shares(const struct ps_plan *plan, uint32_t object, uint32_t copy,
                          uint64_t shares[PS_MEMBER_COUNT_MAX])
{
    const struct ps_disk_object *o = &plan->objects[object];
    memset(shares, 0, PS_MEMBER_COUNT_MAX * sizeof(*shares));
    for (uint64_t s = o->first_slice; s < o->first_slice + o->slice_count; s++) {
        const struct ps_disk_piece *pieces = ps_plan_pieces(plan, s, copy);
        for (uint32_t p = 0; p < plan->slices[s].piece_count; p++)
            shares[pieces[p].member] += pieces[p].bytes;
    }
}

/* All members finish every large object within a few percent of the time that is possible. */
static void finish_together(void **state)
{
    static const uint32_t sets[][6] = {
        {1000, 500, 500, 250, 0, 0}, {1000, 970, 330, 0, 0, 0},
        {1000, 90, 0, 0, 0, 0},      {100, 1000, 0, 0, 0, 0},
        {700, 1000, 800, 900, 0, 0}, {1000, 1000, 1000, 1000, 500, 250},
    };
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(sets); i++) {
        struct fixture f;
        struct ps_plan plan;
        uint32_t members = 0, sum = 0;
        for (; members < 6 && sets[i][members] != 0; members++)
            sum += sets[i][members];
        fixture_init(&f, 1, &experts);
        make_with(&plan, &f, sets[i], NULL, members, 1);
        for (uint32_t o = 3; o < plan.header->object_count; o++) {
            uint64_t shares[PS_MEMBER_COUNT_MAX];
            object_shares(&plan, o, 0, shares);
            for (uint32_t m = 0; m < members; m++) {
                double ideal = (double)plan.objects[o].bytes * sets[i][m] / sum;
                assert_true((double)shares[m] <= ideal * 1.035 + 4096);
                assert_true((double)shares[m] >= ideal * 0.965 - 4096);
            }
        }
        ps_plan_fini(&plan);
        fixture_fini(&f);
    }
}

/* No share is under the minimum, and over many objects everyone gets its proportion all the same.
 */
static void piece_minimum(void **state)
{
    static const uint32_t weights[] = {1000, 500, 250, 125};
    static const uint32_t slice_bytes[] = {30000, 90000, 150000, 400000};
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(slice_bytes); i++) {
        struct fixture f;
        struct ps_plan plan;
        struct fixture_shape shape = {
            .group_count = 10, .index_count = 40, .slice_count = 2, .slice_bytes = slice_bytes[i]};
        uint64_t shares[PS_MEMBER_COUNT_MAX];
        fixture_init(&f, 1, &shape);
        make_with(&plan, &f, weights, NULL, 4, 1);
        for (uint32_t o = 0; o < plan.header->object_count; o++) {
            object_shares(&plan, o, 0, shares);
            for (uint32_t m = 0; m < 4; m++)
                assert_true(shares[m] == 0 || shares[m] == plan.objects[o].bytes ||
                            shares[m] >= PS_PIECE_BYTES_MIN - 8192);
        }
        for (uint32_t m = 0; m < 4; m++) {
            double ideal = (double)plan.object_bytes * weights[m] / 1875;
            assert_true((double)filled(&plan, m) > ideal * 0.97 - (double)plan.objects[0].bytes);
            assert_true((double)filled(&plan, m) < ideal * 1.03 + (double)plan.objects[0].bytes);
        }
        ps_plan_fini(&plan);
        fixture_fini(&f);
    }
}

/* Members of one node side by side, and no slice on two nodes where its end is near enough. */
static void nodes_on_slice_ends(void **state)
{
    static const uint8_t nodes[] = {1, 0, 1, 0};
    static const uint32_t weights[] = {900, 1000, 860, 1000};
    (void)state;
    for (int weighted = 0; weighted < 2; weighted++) {
        struct fixture f;
        struct ps_plan plan;
        struct fixture_shape shape = experts;
        shape.resident_count = 0;
        shape.slice_count = 8;
        fixture_init(&f, 1, &shape);
        make_with(&plan, &f, weighted ? weights : NULL, nodes, 4, 1);
        for (uint64_t s = 0; s < plan.header->slice_count; s++) {
            const struct ps_disk_piece *pieces = ps_plan_pieces(&plan, s, 0);
            for (uint32_t p = 1; p < plan.slices[s].piece_count; p++)
                assert_int_equal(nodes[pieces[p].member], nodes[pieces[0].member]);
        }
        assert_int_equal(nodes[plan.pieces[0].member], 0);
        ps_plan_fini(&plan);
        /* All on one node is as good as none told. */
        struct ps_plan same;
        static const uint8_t one[] = {3, 3, 3, 3};
        make_with(&plan, &f, NULL, NULL, 4, 1);
        make_with(&same, &f, NULL, one, 4, 1);
        assert_memory_equal(plan.plan_hash, same.plan_hash, 16);
        ps_plan_fini(&same);
        ps_plan_fini(&plan);
        fixture_fini(&f);
    }
}

/* Second copies: never on the same member, and each member's load spread by the others' weights. */
static void two_copies(void **state)
{
    static const uint32_t sets[][5] = {
        {0, 0, 0, 0, 0}, {1000, 500, 500, 250, 0}, {1000, 400, 0, 0, 0}, {600, 1000, 800, 0, 0}};
    static const uint32_t counts[] = {5, 4, 2, 3};
    (void)state;
    for (size_t i = 0; i < PS_ARRAY_LEN(sets); i++) {
        uint64_t moved[5][5] = {{0}};
        struct fixture f;
        struct ps_plan plan;
        uint32_t members = counts[i];
        fixture_init(&f, 1, &experts);
        make_with(&plan, &f, sets[i], NULL, members, 2);
        assert_int_equal(plan.header->further_copies, 1);
        for (uint64_t p = 0; p < plan.header->piece_count; p++) {
            const struct ps_disk_piece *a = &plan.pieces[p];
            const struct ps_disk_piece *b = &plan.pieces[plan.header->piece_count + p];
            assert_int_not_equal(a->member, b->member);
            assert_int_equal(a->bytes, b->bytes);
            moved[a->member][b->member] += b->bytes;
        }
        for (uint32_t of = 0; of < members; of++) {
            double sum = 0, weights = 0;
            for (uint32_t on = 0; on < members; on++) {
                sum += (double)moved[of][on];
                weights += on == of ? 0 : sets[i][on] + (sets[i][0] == 0);
            }
            for (uint32_t on = 0; on < members; on++) {
                double ideal = sum * (sets[i][on] + (sets[i][0] == 0)) / weights;
                if (on != of)
                    assert_true((double)moved[of][on] > ideal * 0.85 &&
                                (double)moved[of][on] < ideal * 1.15);
            }
        }
        ps_plan_fini(&plan);
        fixture_fini(&f);
    }
}

static void copies_need_members(void **state)
{
    struct fixture f;
    struct ps_plan plan;
    struct ps_error err = {0};
    struct ps_plan_options options = {
        .member_count = 1, .align = 4096, .copies = 2, .piece_bytes_min = PS_PIECE_BYTES_MIN};
    (void)state;
    fixture_init(&f, 1, &fixture_small);
    assert_int_equal(ps_plan_make(&plan, &f.spec, &options, &err), -PS_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "two members"));
    fixture_fini(&f);
}

static void options_are_recorded(void **state)
{
    struct ps_plan_options options = {
        .member_count = 3, .align = 8192, .copies = 2, .piece_bytes_min = 131072};
    struct ps_plan_options got;
    struct ps_disk_superblock sb = {.member_count = 3, .align = 8192};
    (void)state;
    for (uint32_t m = 0; m < 3; m++) {
        options.weights[m] = 1000 - m;
        options.nodes[m] = m == 2 ? PS_NODE_NONE : (uint8_t)m;
    }
    ps_plan_options_put(&options, &sb);
    ps_plan_options_get(&got, &sb);
    assert_memory_equal(&got, &options, sizeof(got));
    /* What says nothing leaves no trace. */
    struct ps_disk_superblock zero = {.member_count = 3, .align = 8192};
    options = (struct ps_plan_options){
        .member_count = 3, .align = 8192, .copies = 1, .piece_bytes_min = PS_PIECE_BYTES_MIN};
    memset(options.nodes, 1, 3);
    sb = zero;
    ps_plan_options_put(&options, &sb);
    assert_memory_equal(&sb, &zero, sizeof(sb));
}

/* ---- weights --------------------------------------------------------------------------------- */

static void weights_of_profiles(void **state)
{
    struct ps_plan_options options = {.member_count = 3};
    struct ps_member_profile profiles[3] = {
        {.bytes_per_s = 3000000000, .piece_bytes_min = 4096},
        {.bytes_per_s = 1500000000, .piece_bytes_min = 300000},
        {.bytes_per_s = 1000, .piece_bytes_min = 0},
    };
    static const uint64_t apart[3] = {7, 8, 0}, together[3] = {7, 8, 7};
    (void)state;
    ps_weigh_profiles(&options, profiles, apart);
    assert_int_equal(options.weights[0], 1000);
    assert_int_equal(options.weights[1], 500);
    assert_int_equal(options.weights[2], 1);
    assert_int_equal(options.piece_bytes_min, 300000);
    profiles[2].bytes_per_s = 0; /* unknown */
    ps_weigh_profiles(&options, profiles, apart);
    assert_int_equal(options.weights[0] | options.weights[1] | options.weights[2], 0);
    profiles[1].bytes_per_s = 2800000000;
    profiles[2].bytes_per_s = 2700000000;
    profiles[0].piece_bytes_min = 64 << 20;
    ps_weigh_profiles(&options, profiles, apart);
    assert_int_equal(options.weights[0] | options.weights[1] | options.weights[2], 0);
    assert_int_equal(options.piece_bytes_min, PS_PIECE_BYTES_MAX);
    ps_weigh_profiles(&options, NULL, apart);
    assert_int_equal(options.piece_bytes_min, PS_PIECE_BYTES_MIN);
    /* Two members of one drive have half of it each. */
    profiles[2].bytes_per_s = 3000000000;
    profiles[1].bytes_per_s = 3000000000;
    ps_weigh_profiles(&options, profiles, together);
    assert_int_equal(options.weights[0], 500);
    assert_int_equal(options.weights[1], 1000);
    assert_int_equal(options.weights[2], 500);
}

/* What the weights give each member of so many bytes, in all copies. */
static void expected_shares(const struct ps_plan_options *options, double bytes, double *shares)
{
    double sum = 0;
    for (uint32_t m = 0; m < options->member_count; m++)
        sum += options->weights[m];
    for (uint32_t m = 0; m < options->member_count; m++) {
        double w = options->weights[m];
        shares[m] = bytes * w / sum;
        for (uint32_t k = 0; k < options->member_count && options->copies > 1; k++) {
            double of = options->weights[k];
            shares[m] += k != m ? bytes * of / sum * w / (sum - of) : 0;
        }
    }
}

static void unequal_rooms(void **state)
{
    double shares[4];
    const uint64_t giga = 1000000000;
    (void)state;
    /* 100 GB over a small fast one, and two others as 2 to 1. */
    struct ps_plan_options options = {.member_count = 3, .copies = 1, .weights = {1000, 500, 250}};
    struct ps_room rooms[4] = {{1, 20 * giga}, {2, 90 * giga}, {4, 90 * giga}};
    assert_true(ps_weigh_rooms(&options, rooms, 3, 100 * giga));
    expected_shares(&options, 100e9, shares);
    assert_true(shares[0] > 19.9e9 && shares[0] < 20.01e9);
    assert_true(shares[1] / shares[2] > 1.999 && shares[1] / shares[2] < 2.001);
    /* Two small ones on one file system. */
    options = (struct ps_plan_options){.member_count = 4, .copies = 1};
    rooms[0] = (struct ps_room){3, 10 * giga};
    rooms[1] = (struct ps_room){4, 15 * giga};
    rooms[2] = (struct ps_room){8, 400 * giga};
    assert_true(ps_weigh_rooms(&options, rooms, 3, 100 * giga));
    expected_shares(&options, 100e9, shares);
    assert_true(shares[0] + shares[1] > 9.9e9 && shares[0] + shares[1] < 10.01e9);
    assert_true(shares[0] == shares[1]);
    assert_true(shares[2] > 14.9e9 && shares[2] < 15.01e9);
    /* Two copies. */
    options = (struct ps_plan_options){.member_count = 4, .copies = 2};
    for (int m = 0; m < 4; m++)
        rooms[m] = (struct ps_room){1u << m, (m == 0 ? 30 : 70) * giga};
    assert_true(ps_weigh_rooms(&options, rooms, 4, 100 * giga));
    expected_shares(&options, 100e9, shares);
    assert_true(shares[0] > 29.9e9 && shares[0] < 30.01e9);
    /* As large as it goes, and too small by a little. */
    options = (struct ps_plan_options){.member_count = 2, .copies = 1};
    rooms[0].bytes = 30 * giga;
    rooms[1].bytes = 70 * giga + giga / 100;
    assert_true(ps_weigh_rooms(&options, rooms, 2, 100 * giga));
    rooms[1].bytes = 69 * giga;
    struct ps_plan_options before = options;
    assert_false(ps_weigh_rooms(&options, rooms, 2, 100 * giga));
    assert_memory_equal(&options, &before, sizeof(options));
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
        cmocka_unit_test(plans_of_before),
        cmocka_unit_test(finish_together),
        cmocka_unit_test(piece_minimum),
        cmocka_unit_test(nodes_on_slice_ends),
        cmocka_unit_test(two_copies),
        cmocka_unit_test(copies_need_members),
        cmocka_unit_test(options_are_recorded),
        cmocka_unit_test(weights_of_profiles),
        cmocka_unit_test(unequal_rooms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
