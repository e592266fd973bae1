#include "nvme/cut.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t divisor)
{
    return (uint64_t)((unsigned __int128)a * b / divisor);
}

int ps_cutter_init(struct ps_cutter *cutter, const struct ps_plan_options *options)
{
    uint32_t count = options->member_count;
    *cutter = (struct ps_cutter){.options = options};
    for (uint32_t m = 0; m < count; m++) {
        cutter->weights[m] = options->weights[m] != 0 ? options->weights[m] : 1;
        cutter->is_weighted |= cutter->weights[m] != cutter->weights[0];
        uint32_t at = m;
        for (; at > 0 && options->nodes[cutter->order[at - 1]] > options->nodes[m]; at--)
            cutter->order[at] = cutter->order[at - 1];
        cutter->order[at] = m;
    }
    if (options->copies < 2)
        return 0;
    cutter->spread = calloc((size_t)count * count, sizeof(*cutter->spread));
    return cutter->spread != NULL ? 0 : -ENOMEM;
}

void ps_cutter_fini(struct ps_cutter *cutter)
{
    free(cutter->spread);
    cutter->spread = NULL;
}

/* True when a holds more than b, relative to their weights; of equal ones the higher number does.
 */
static bool is_fuller(const struct ps_cutter *c, const uint64_t *row, uint32_t a, uint32_t b)
{
    unsigned __int128 x = (unsigned __int128)row[a] * c->weights[b];
    unsigned __int128 y = (unsigned __int128)row[b] * c->weights[a];
    return x != y ? x > y : a > b;
}

/*
 * The members that share `bytes`, in the cutter's order: all but `of`, or as many of the emptiest
 * as can have piece_bytes_min each.
 */
static uint32_t choose(const struct ps_cutter *c, const uint64_t *row, uint64_t bytes, uint32_t of,
                       uint32_t *chosen)
{
    uint32_t sorted[PS_MEMBER_COUNT_MAX] = {0}, candidates = 0, count = 0;
    uint64_t sums[PS_MEMBER_COUNT_MAX], least[PS_MEMBER_COUNT_MAX];
    bool taken[PS_MEMBER_COUNT_MAX] = {false};
    for (uint32_t m = 0; m < c->options->member_count; m++) {
        uint32_t at = candidates;
        if (m == of)
            continue;
        for (; at > 0 && is_fuller(c, row, sorted[at - 1], m); at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = m;
        candidates++;
    }
    for (uint32_t i = 0; i < candidates; i++) {
        uint64_t weight = c->weights[sorted[i]];
        sums[i] = (i > 0 ? sums[i - 1] : 0) + weight;
        least[i] = i > 0 ? ps_min_u64(least[i - 1], weight) : weight;
    }
    uint32_t last = candidates - 1;
    while (last > 0 && mul_div(bytes, least[last], sums[last]) < c->options->piece_bytes_min)
        last--;
    for (uint32_t i = 0; i <= last; i++)
        taken[sorted[i]] = true;
    for (uint32_t i = 0; i < c->options->member_count; i++) {
        if (taken[c->order[i]])
            chosen[count++] = c->order[i];
    }
    return count;
}

/*
 * How far a cut may move to meet a slice's end. Equal drives read the same from pieces of whole
 * slices, so an eighth of a share is given for them, and no small piece arises. Where the weights
 * were measured they are kept to: a share that grows by some percent is waited for by all others.
 */
static uint64_t reach_of(uint64_t share, bool exact)
{
    uint64_t small = ps_min_u64(PS_PIECE_BYTES_MIN, share / 4);
    return exact ? ps_max_u64(share / 64, small / 8) : ps_max_u64(share / 8, small);
}

/* Cuts [begin, end) into `count` parts by weight: part j is [cuts[j], cuts[j + 1]). */
static void cut_range(const struct ps_cutter *c, const struct ps_disk_slice *slices, bool exact,
                      const uint64_t *weights, uint32_t count, uint64_t *cuts)
{
    uint64_t begin = cuts[0], end = cuts[count], units = (end - begin) / c->options->align;
    uint64_t sum = 0, before = 0;
    uint32_t slice = 0;
    for (uint32_t j = 0; j < count; j++)
        sum += weights[j];
    for (uint32_t j = 1; j < count; j++) {
        before += weights[j - 1];
        uint64_t unit = (uint64_t)(((unsigned __int128)units * before + sum / 2) / sum);
        uint64_t cut = begin + unit * c->options->align;
        cuts[j] = cut;
        if (cut >= end)
            continue;
        while (slices[slice].offset_bytes + slices[slice].bytes <= cut)
            slice++;
        uint64_t share = mul_div(end - begin, ps_min_u64(weights[j - 1], weights[j]), sum);
        uint64_t left = slices[slice].offset_bytes, right = left + slices[slice].bytes;
        uint64_t border = cut - left <= right - cut ? left : right;
        uint64_t distance = border > cut ? border - cut : cut - border;
        if (distance <= reach_of(share, exact) && border > cuts[j - 1] && border < end)
            cuts[j] = border;
    }
}

/* The chosen members of one node: chosen[first] to chosen[first + count - 1]. */
struct node_run {
    uint32_t first, count;
};

static uint32_t list_nodes(const struct ps_cutter *c, const uint32_t *chosen, uint32_t count,
                           struct node_run *runs, uint64_t *weights)
{
    const uint8_t *nodes = c->options->nodes;
    uint32_t run = 0;
    runs[0] = (struct node_run){0};
    weights[0] = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0 && nodes[chosen[i]] != nodes[chosen[i - 1]]) {
            runs[++run] = (struct node_run){.first = i};
            weights[run] = 0;
        }
        runs[run].count++;
        weights[run] += c->weights[chosen[i]];
    }
    return run + 1;
}

uint32_t ps_cut(struct ps_cutter *cutter, const struct ps_disk_slice *slices, uint64_t begin,
                uint64_t end, uint32_t of, struct ps_part *parts)
{
    uint64_t *row = of == PS_CUT_FIRST
                        ? cutter->filled
                        : cutter->spread + (size_t)of * cutter->options->member_count;
    uint64_t weights[PS_MEMBER_COUNT_MAX], node_weights[PS_MEMBER_COUNT_MAX];
    uint64_t node_cuts[PS_MEMBER_COUNT_MAX + 1], cuts[PS_MEMBER_COUNT_MAX + 1] = {0};
    struct node_run runs[PS_MEMBER_COUNT_MAX];
    uint32_t chosen[PS_MEMBER_COUNT_MAX];
    uint32_t count = choose(cutter, row, end - begin, of, chosen);
    uint32_t run_count = list_nodes(cutter, chosen, count, runs, node_weights);

    for (uint32_t i = 0; i < count; i++)
        weights[i] = cutter->weights[chosen[i]];
    node_cuts[0] = begin;
    node_cuts[run_count] = end;
    cut_range(cutter, slices, false, node_weights, run_count, node_cuts);
    for (uint32_t r = 0; r < run_count; r++) {
        const struct node_run *run = &runs[r];
        cuts[run->first] = node_cuts[r];
        cuts[run->first + run->count] = node_cuts[r + 1];
        cut_range(cutter, slices, cutter->is_weighted, &weights[run->first], run->count,
                  &cuts[run->first]);
    }
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = (struct ps_part){.begin = cuts[i], .end = cuts[i + 1], .member = chosen[i]};
        row[chosen[i]] += cuts[i + 1] - cuts[i];
    }
    return count;
}
