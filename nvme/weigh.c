#include "nvme/weigh.h"

#include <string.h>

#include "core/util.h"

#define WEIGHT_FASTEST 1000u
#define ROUNDS_MAX 10000

/* What a member can count on of its drive's bandwidth. */
static uint64_t rate_of(const struct ps_plan_options *options,
                        const struct ps_member_profile *profiles, const uint64_t *drives,
                        uint32_t member)
{
    uint64_t sharing = 1;
    for (uint32_t m = 0; m < options->member_count; m++)
        sharing += m != member && drives[member] != 0 && drives[m] == drives[member];
    return profiles[member].bytes_per_s / sharing;
}

void ps_weigh_profiles(struct ps_plan_options *options, const struct ps_member_profile *profiles,
                       const uint64_t *drives)
{
    uint64_t fastest = 0, slowest = UINT64_MAX, piece = PS_PIECE_BYTES_MIN;
    uint64_t rates[PS_MEMBER_COUNT_MAX];
    memset(options->weights, 0, sizeof(options->weights));
    for (uint32_t m = 0; profiles != NULL && m < options->member_count; m++) {
        rates[m] = rate_of(options, profiles, drives, m);
        fastest = ps_max_u64(fastest, rates[m]);
        slowest = ps_min_u64(slowest, rates[m]);
        piece = ps_max_u64(piece, profiles[m].piece_bytes_min);
    }
    options->piece_bytes_min = (uint32_t)ps_min_u64(piece, PS_PIECE_BYTES_MAX);
    if (profiles == NULL || slowest == 0 || slowest >= fastest - fastest / 10)
        return;
    for (uint32_t m = 0; m < options->member_count; m++) {
        double weight = (double)rates[m] / (double)fastest * WEIGHT_FASTEST;
        options->weights[m] = (uint32_t)ps_max_u64((uint64_t)(weight + 0.5), 1);
    }
}

/*
 * What part of the objects' bytes each member gets, over all copies. Of the first copy w / W, W
 * being the sum of the weights w. The second copy of what member k has is shared by the others:
 * w / (W - w_k) of it each.
 */
static void get_shares(const double *weights, uint32_t count, bool two_copies, double *shares)
{
    double sum = 0, all = 0;
    for (uint32_t m = 0; m < count; m++)
        sum += weights[m];
    for (uint32_t m = 0; m < count && two_copies; m++)
        all += weights[m] / sum / (sum - weights[m]);
    for (uint32_t m = 0; m < count; m++) {
        shares[m] = weights[m] / sum;
        if (two_copies)
            shares[m] += weights[m] * (all - weights[m] / sum / (sum - weights[m]));
    }
}

static double share_of(const struct ps_room *room, const double *shares, uint32_t count)
{
    double share = 0;
    for (uint32_t m = 0; m < count; m++)
        share += room->members >> m & 1 ? shares[m] : 0;
    return share;
}

/* Multiplies the weights of the room that is overfull the most; false when none is. */
static bool lower_one(double *weights, uint32_t count, bool two_copies, const struct ps_room *rooms,
                      int room_count, double object_bytes)
{
    double shares[PS_MEMBER_COUNT_MAX], worst = 1 + 1e-9, factor = 0;
    uint64_t members = 0;
    get_shares(weights, count, two_copies, shares);
    for (int r = 0; r < room_count; r++) {
        double share = share_of(&rooms[r], shares, count);
        double held = (double)rooms[r].bytes / object_bytes;
        if (share <= held * worst)
            continue;
        worst = share / held;
        members = rooms[r].members;
        /* For one copy w / (w + rest) = held is solved for w. The shares of two grow more slowly
         * than the weights, so this comes nearer from above. */
        factor = two_copies ? held / share : held / (1 - held) * (1 - share) / share;
    }
    for (uint32_t m = 0; m < count; m++)
        weights[m] *= members >> m & 1 ? factor : 1;
    return members != 0;
}

bool ps_weigh_rooms(struct ps_plan_options *options, const struct ps_room *rooms, int room_count,
                    uint64_t object_bytes)
{
    double weights[PS_MEMBER_COUNT_MAX], most = 0, room = 0;
    uint32_t count = options->member_count;
    bool two_copies = options->copies > 1;
    for (uint32_t m = 0; m < count; m++)
        weights[m] = options->weights[m] != 0 ? options->weights[m] : 1;
    for (int r = 0; r < room_count; r++) {
        if (rooms[r].bytes == 0)
            return false;
        room += (double)rooms[r].bytes;
    }
    if (room < (double)object_bytes * options->copies)
        return false;
    int round = 0;
    while (lower_one(weights, count, two_copies, rooms, room_count, (double)object_bytes)) {
        if (++round == ROUNDS_MAX)
            return false;
    }
    for (uint32_t m = 0; m < count; m++)
        most = weights[m] > most ? weights[m] : most;
    for (uint32_t m = 0; m < count; m++) {
        uint64_t weight = (uint64_t)(weights[m] / most * PS_WEIGHT_MAX + 0.5);
        options->weights[m] = (uint32_t)ps_max_u64(weight, 1);
    }
    return true;
}
