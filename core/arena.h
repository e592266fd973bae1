/* Several arrays in one block of memory, placed by the function that also counts them beforehand.
 */
#ifndef PENSTOCK_CORE_ARENA_H
#define PENSTOCK_CORE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "core/util.h"

#define PS_ARENA_ALIGN 64u /* a cache line, and the widest vector */

/* base NULL: nothing is placed, `used` counts. The block is the caller's, aligned to
 * PS_ARENA_ALIGN. */
struct ps_arena {
    uint8_t *base;
    uint64_t used; /* bytes */
};

/* Room for an array; NULL while only counting. The caller has excluded overflow. */
static inline void *ps_arena_take(struct ps_arena *arena, uint64_t count, uint64_t item_bytes)
{
    uint64_t offset = arena->used;

    arena->used = ps_align_up(offset + count * item_bytes, PS_ARENA_ALIGN);
    return arena->base ? arena->base + offset : NULL;
}

#endif
