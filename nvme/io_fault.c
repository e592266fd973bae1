/*
 * The fault engine: another engine whose reads fail as drives do, at numbers that are given, so
 * that a test can let the first, second, third ... read fail until none is left.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/cond.h"
#include "core/log.h"
#include "core/util.h"
#include "nvme/io.h"

#define RULE_COUNT_MAX 16u
#define VALUE_MAX 86400000u  /* a day of milliseconds */
#define MS UINT64_C(1000000) /* ns */
#define NEVER UINT64_MAX

enum kind { NOTHING, READ_ERROR, SHORT, EMPTY, GONE, HANG, CORRUPT, SLOW, RATE };

static const struct {
    const char *name;
    enum kind kind;
    bool takes_value, needs_value;
} kinds[] = {
    {"error", READ_ERROR, false, false}, {"short", SHORT, false, false},
    {"empty", EMPTY, false, false},      {"gone", GONE, false, false},
    {"hang", HANG, true, false},         {"corrupt", CORRUPT, false, false},
    {"slow", SLOW, true, true},          {"rate", RATE, true, true},
};

struct rule {
    enum kind kind;
    uint64_t value; /* milliseconds, or for RATE MB per second; 0: none given */
    uint64_t at;    /* the number of the request, from 1 */
    bool goes_on;
    int64_t member; /* -1: any */
    uint64_t seen;  /* requests that it counts */
};

/* A request that has been taken: with the other engine, or held here. */
struct slot {
    struct ps_io_request request;
    enum kind kind;
    uint64_t due_ns; /* held until then; NEVER */
    uint64_t number; /* of the fault that struck it */
    uint64_t value;  /* of its rule */
    int32_t result;
    bool is_held;
};

struct fault {
    struct ps_io io;
    struct ps_io *inner;
    pthread_mutex_t lock; /* over what other threads may change: from here ... */
    pthread_cond_t wake;
    bool is_woken;
    struct rule rules[RULE_COUNT_MAX];
    uint32_t rule_count;
    int member_count;
    bool *is_gone;     /* [member_count] */
    uint64_t struck;   /* ... to here */
    uint64_t *free_ns; /* [member_count] when the last of its reads at some rate is through */
    uint32_t in_flight, with_inner;
    struct slot *slots;   /* [capacity]; what follows, too */
    uint32_t *free_slots; /* stack */
    uint32_t free_count;
    struct ps_io_request *batch;
    struct ps_io_completion *reaped;
};

/* ---- the specification ----------------------------------------------------------------------- */

/* Text that is not terminated. */
struct text {
    const char *at, *end;
};

static bool take(struct text *t, const char *word)
{
    size_t length = strlen(word);

    if ((size_t)(t->end - t->at) < length || memcmp(t->at, word, length) != 0)
        return false;
    t->at += length;
    return true;
}

static bool take_number(struct text *t, uint64_t min, uint64_t max, uint64_t *number)
{
    const char *begin = t->at;
    uint64_t value = 0;

    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9' && t->at - begin < 18; t->at++)
        value = value * 10 + (uint64_t)(*t->at - '0');
    *number = value;
    return t->at > begin && value >= min && value <= max;
}

/* KIND[=VALUE]@N[+][/M] */
static bool take_rule(struct text *t, struct rule *rule)
{
    uint64_t member;
    size_t i = 0;

    while (i < PS_ARRAY_LEN(kinds) && !take(t, kinds[i].name))
        i++;
    if (i == PS_ARRAY_LEN(kinds))
        return false;
    *rule = (struct rule){.kind = kinds[i].kind, .member = -1};
    if (kinds[i].takes_value && take(t, "=")) {
        if (!take_number(t, 1, VALUE_MAX, &rule->value))
            return false;
    }
    if ((kinds[i].needs_value && rule->value == 0) || !take(t, "@") ||
        !take_number(t, 1, UINT64_MAX, &rule->at))
        return false;
    rule->goes_on = take(t, "+");
    if (take(t, "/")) {
        if (!take_number(t, 0, INT32_MAX, &member))
            return false;
        rule->member = (int64_t)member;
    }
    return true;
}

/* rules: [RULE_COUNT_MAX]. Returns their number, 0 if that is no specification. */
static uint32_t parse(const char *faults, size_t bytes, struct rule *rules)
{
    struct text t = {faults, faults + bytes};
    uint32_t n = 0;

    do {
        if (n == RULE_COUNT_MAX || !take_rule(&t, &rules[n++]))
            return 0;
    } while (take(&t, ","));
    return t.at == t.end ? n : 0;
}

bool ps_io_faults_known(const char *faults, size_t bytes)
{
    struct rule rules[RULE_COUNT_MAX];
    return parse(faults, bytes, rules) > 0;
}

/* ---- submitting ------------------------------------------------------------------------------ */

/* Counts the request and tells what strikes it: the first rule whose turn it is. */
static const struct rule *judge(struct fault *f, uint32_t member)
{
    const struct rule *found = NULL;

    for (uint32_t i = 0; i < f->rule_count; i++) {
        struct rule *rule = &f->rules[i];
        if (rule->member >= 0 && rule->member != (int64_t)member)
            continue;
        rule->seen++;
        if (!found && (rule->seen == rule->at || (rule->goes_on && rule->seen > rule->at)))
            found = rule;
    }
    return found;
}

static void hold(struct slot *slot, int32_t result, uint64_t due_ns)
{
    slot->is_held = true;
    slot->result = result;
    slot->due_ns = due_ns;
}

static void find_fault(struct fault *f, struct slot *slot)
{
    uint32_t member = slot->request.member;

    pthread_mutex_lock(&f->lock);
    const struct rule *rule = judge(f, member);
    slot->kind = f->is_gone[member] ? GONE : rule ? rule->kind : NOTHING;
    slot->value = rule ? rule->value : 0;
    f->struck += slot->kind != NOTHING;
    f->is_gone[member] = slot->kind == GONE;
    slot->number = f->struck;
    pthread_mutex_unlock(&f->lock);
}

/* Decides a request's fate. Returns how many of its bytes are to be read; 0: it is held here. */
static uint32_t begin(struct fault *f, struct slot *slot)
{
    uint32_t bytes = slot->request.bytes, member = slot->request.member;

    find_fault(f, slot);
    switch (slot->kind) {
    case READ_ERROR:
        hold(slot, -EIO, 0);
        return 0;
    case GONE:
        hold(slot, -ENODEV, 0);
        return 0;
    case EMPTY:
        hold(slot, 0, 0);
        return 0;
    case HANG:
        hold(slot, (int32_t)bytes, slot->value ? ps_now_ns() + slot->value * MS : NEVER);
        return 0;
    case SHORT:
        bytes = bytes / 2 & ~(PS_IO_ALIGN_BYTES - 1);
        if (bytes == 0)
            hold(slot, 0, 0);
        return bytes;
    case RATE:
        f->free_ns[member] =
            ps_max_u64(f->free_ns[member], ps_now_ns()) + UINT64_C(1000) * bytes / slot->value;
        slot->due_ns = f->free_ns[member];
        break;
    case NOTHING:
    case CORRUPT:
    case SLOW:
        break;
    }
    return bytes;
}

static uint32_t fault_submit(struct ps_io *io, const struct ps_io_request *requests, uint32_t count)
{
    struct fault *f = (struct fault *)io;
    uint32_t n = 0, batch_count = 0;

    while (n < count && f->free_count > 0) {
        uint32_t slot_idx = f->free_slots[--f->free_count];
        struct slot *slot = &f->slots[slot_idx];
        assert(requests[n].member < (uint32_t)f->member_count);
        *slot = (struct slot){.request = requests[n++]};
        uint32_t bytes = begin(f, slot);
        if (bytes == 0)
            continue;
        f->batch[batch_count] = slot->request;
        f->batch[batch_count].tag = slot_idx;
        f->batch[batch_count++].bytes = bytes;
    }
    f->in_flight += n;
    if (batch_count > 0) {
        uint32_t taken = f->inner->ops->submit(f->inner, f->batch, batch_count);
        /* Its tables are as large as ours. */
        assert(taken == batch_count);
        f->with_inner += taken;
    }
    return n;
}

/* ---- reaping --------------------------------------------------------------------------------- */

/* Bytes that nobody wrote, different from what was there. */
static void fill_with_garbage(struct slot *slot)
{
    uint8_t *data = slot->request.buf;

    for (uint32_t i = 0; i < slot->request.bytes; i++)
        data[i] = (uint8_t)(data[i] ^ (0x5A + i % 61));
}

static void flip_bit(struct slot *slot)
{
    uint8_t *data = slot->request.buf;

    if (slot->result > 0)
        data[slot->number * 40503u % (uint32_t)slot->result] ^= (uint8_t)(1u << slot->number % 8);
}

/* Takes what the other engine has finished: it is due now, unless it is to be slow, or before its
 * turn at some rate. */
static int take_inner(struct fault *f, uint64_t wait_ns)
{
    int count = f->inner->ops->reap(f->inner, f->reaped, f->io.capacity, wait_ns);

    for (int i = 0; i < count; i++) {
        struct slot *slot = &f->slots[f->reaped[i].tag];
        hold(slot, f->reaped[i].result,
             slot->kind == SLOW ? ps_now_ns() + slot->value * MS : slot->due_ns);
        if (slot->kind == CORRUPT)
            flip_bit(slot);
        f->with_inner--;
    }
    return count;
}

/* Hands back what is due; *next_ns is when the next of what is held will be. */
static uint32_t hand_back(struct fault *f, struct ps_io_completion *out, uint32_t capacity,
                          uint64_t *next_ns)
{
    uint64_t now_ns = ps_now_ns();
    uint32_t n = 0;

    *next_ns = NEVER;
    for (uint32_t i = 0; i < f->io.capacity; i++) {
        struct slot *slot = &f->slots[i];
        if (!slot->is_held)
            continue;
        if (slot->due_ns > now_ns || n == capacity) {
            *next_ns = ps_min_u64(*next_ns, slot->due_ns);
            continue;
        }
        if (slot->kind == HANG)
            fill_with_garbage(slot);
        out[n++] = (struct ps_io_completion){slot->request.tag, slot->result};
        slot->is_held = false;
        f->free_slots[f->free_count++] = i;
        f->in_flight--;
    }
    return n;
}

/* Waits until the deadline, or for a wake, which is used up; true: there was one. */
static bool sleep_until(struct fault *f, uint64_t end_ns)
{
    pthread_mutex_lock(&f->lock);
    while (!f->is_woken && ps_cond_wait(&f->wake, &f->lock, end_ns))
        ;
    bool is_woken = f->is_woken;
    f->is_woken = false;
    pthread_mutex_unlock(&f->lock);
    return is_woken;
}

static void fault_wake(struct ps_io *io)
{
    struct fault *f = (struct fault *)io;

    pthread_mutex_lock(&f->lock);
    f->is_woken = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    f->inner->ops->wake(f->inner);
}

static int fault_reap(struct ps_io *io, struct ps_io_completion *out, uint32_t capacity,
                      uint64_t wait_ns)
{
    struct fault *f = (struct fault *)io;
    uint64_t end_ns = ps_deadline_ns(wait_ns), next_ns, limit_ns = 0;

    for (;;) {
        int rc = f->with_inner > 0 ? take_inner(f, limit_ns) : 0;
        uint32_t n = hand_back(f, out, capacity, &next_ns);
        uint64_t left_ns = n == 0 && f->in_flight > 0 ? ps_left_ns(end_ns) : 0;
        if (rc < 0 && n == 0)
            return rc;
        if (left_ns == 0 || sleep_until(f, 0))
            return (int)n;
        /* At least a nanosecond, as 0 would not be a wait. */
        uint64_t due_ns = next_ns == NEVER ? NEVER : ps_max_u64(ps_left_ns(next_ns), 1);
        limit_ns = ps_min_u64(left_ns, due_ns);
        if (f->with_inner == 0 && sleep_until(f, ps_deadline_ns(limit_ns)))
            return 0;
    }
}

/* ---- opening and closing --------------------------------------------------------------------- */

static uint32_t fault_close(struct ps_io *io)
{
    struct fault *f = (struct fault *)io;
    uint32_t left = ps_io_close(&f->inner);

    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->wake);
    free(f->is_gone);
    free(f->free_ns);
    free(f->slots);
    free(f->free_slots);
    free(f->batch);
    free(f->reaped);
    free(f);
    return left;
}

static uint64_t fault_memory_bytes(int member_count, uint32_t depth)
{
    return sizeof(struct fault) + (uint64_t)member_count * (sizeof(bool) + sizeof(uint64_t)) +
           (uint64_t)member_count * depth *
               (sizeof(struct slot) + sizeof(uint32_t) + sizeof(struct ps_io_request) +
                sizeof(struct ps_io_completion));
}

static int allocate(struct fault *f, const struct ps_io_config *config, struct ps_error *err)
{
    uint32_t capacity = (uint32_t)config->member_count * config->depth;

    f->member_count = config->member_count;
    f->is_gone = calloc((size_t)config->member_count, sizeof(*f->is_gone));
    f->free_ns = calloc((size_t)config->member_count, sizeof(*f->free_ns));
    f->slots = calloc(capacity, sizeof(*f->slots));
    f->free_slots = calloc(capacity, sizeof(*f->free_slots));
    f->batch = calloc(capacity, sizeof(*f->batch));
    f->reaped = calloc(capacity, sizeof(*f->reaped));
    if (!f->is_gone || !f->free_ns || !f->slots || !f->free_slots || !f->batch || !f->reaped)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    for (uint32_t i = 0; i < capacity; i++)
        f->free_slots[f->free_count++] = i;
    f->io.capacity = capacity;
    return 0;
}

static int fault_open(struct ps_io **out, const struct ps_io_config *config,
                      const struct ps_io_engine *engine, struct ps_error *err)
{
    struct fault *f = calloc(1, sizeof(*f));

    if (!f)
        return ps_error_set(err, -ENOMEM, NULL, "out of memory while opening the I/O engine");
    f->io.ops = &ps_io_fault;
    pthread_mutex_init(&f->lock, NULL);
    ps_cond_init(&f->wake);
    f->rule_count = parse(engine->faults, engine->faults_bytes, f->rules);
    int rc = 0;
    for (uint32_t i = 0; i < f->rule_count && rc == 0; i++) {
        if (f->rules[i].member >= config->member_count)
            rc = ps_error_set(err, -PS_ERR_ARGUMENT, "io",
                              "a fault is to strike member %d, and the last one is %d",
                              (int)f->rules[i].member, config->member_count - 1);
    }
    if (rc == 0)
        rc = allocate(f, config, err);
    if (rc == 0)
        rc = ps_io_engine_open(&f->inner, config, engine, err);
    if (rc < 0) {
        fault_close(&f->io);
        return rc;
    }
    ps_log(PS_LOG_INFO, "reads fail on purpose: %.*s", (int)engine->faults_bytes, engine->faults);
    f->io.direct = f->inner->direct;
    f->io.registered = f->inner->registered;
    f->io.iopoll = f->inner->iopoll;
    f->io.sqpoll = f->inner->sqpoll;
    f->io.memory_bytes =
        f->inner->memory_bytes + fault_memory_bytes(config->member_count, config->depth);
    *out = &f->io;
    return 0;
}

void ps_io_faults_set(struct ps_io *io, const char *faults)
{
    struct fault *f = (struct fault *)io;

    assert(io->ops == &ps_io_fault);
    pthread_mutex_lock(&f->lock);
    f->rule_count = parse(faults, strlen(faults), f->rules);
    assert(f->rule_count > 0);
    memset(f->is_gone, 0, (size_t)f->member_count * sizeof(*f->is_gone));
    f->struck = 0;
    pthread_mutex_unlock(&f->lock);
}

uint64_t ps_io_fault_count(struct ps_io *io)
{
    struct fault *f = (struct fault *)io;
    uint64_t count;

    if (io->ops != &ps_io_fault)
        return 0;
    pthread_mutex_lock(&f->lock);
    count = f->struck;
    pthread_mutex_unlock(&f->lock);
    return count;
}

const struct ps_io_ops ps_io_fault = {
    .id = "fault",
    .memory_bytes = fault_memory_bytes,
    .open = fault_open,
    .submit = fault_submit,
    .reap = fault_reap,
    .wake = fault_wake,
    .close = fault_close,
};
