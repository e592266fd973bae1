#include "tools/tool.h"

#include <inttypes.h>
#include <string.h>

#include "core/budget.h"

/* Bytes of this process in transparent huge pages, from the kernel; 0 where it does not tell. */
static uint64_t transparent_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    uint64_t kib = 0;

    if (file == NULL)
        return 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
            break;
    }
    fclose(file);
    return kib * 1024;
}

/* What a phase took, and what was busy meanwhile. */
struct phase {
    const char *name;
    uint64_t tokens, ns;
    const struct ps_usage *usage;
    int thread_count, member_count;
};

static struct phase prefill_of(const struct ps_engine_stats *s)
{
    return (struct phase){"prefill",         s->prefill_tokens, s->prefill_ns,
                          &s->prefill_usage, s->threads,        s->member_count};
}

static struct phase decode_of(const struct ps_engine_stats *s)
{
    return (struct phase){"decode",         s->decode_tokens, s->decode_ns,
                          &s->decode_usage, s->threads,       s->member_count};
}

static double share(uint64_t part_ns, uint64_t ns)
{
    return ns == 0 ? 0 : (double)part_ns / (double)ns;
}

/* Of the time of all threads. */
static double compute_share(const struct phase *p)
{
    return share(p->usage->compute_ns, p->ns * (uint64_t)p->thread_count);
}

/* Of the busiest drive. */
static double drive_share(const struct phase *p)
{
    uint64_t most_ns = 0;

    for (int m = 0; m < p->member_count; m++)
        most_ns = most_ns < p->usage->drive_ns[m] ? p->usage->drive_ns[m] : most_ns;
    return share(most_ns, p->ns);
}

/* What would have to be faster first: whatever has less idle time. */
static bool drives_limit(const struct phase *p)
{
    return drive_share(p) > compute_share(p);
}

static json_t *phase_json(const struct phase *p)
{
    const uint64_t *wait_ns = p->usage->wait_cause_ns;
    json_t *drives = json_array();

    for (int m = 0; m < p->member_count; m++)
        json_array_append_new(drives, json_real(share(p->usage->drive_ns[m], p->ns)));
    return json_pack(
        "{s:I, s:f, s:f, s:o, s:f, s:s, s:f, s:{s:f, s:f, s:f, s:f, s:f}}", "tokens",
        (json_int_t)p->tokens, "seconds", (double)p->ns / 1e9, "tokens_per_s",
        tool_rate(p->tokens, p->ns), "drive_shares", drives, "compute_share", compute_share(p),
        "limit", drives_limit(p) ? "drives" : "compute", "wait_seconds",
        (double)p->usage->wait_ns / 1e9, "waits", "reads", (double)wait_ns[PS_WAIT_READS] / 1e9,
        "slowest_drive", (double)wait_ns[PS_WAIT_SLOWEST] / 1e9, "checks",
        (double)wait_ns[PS_WAIT_CHECK] / 1e9, "issue", (double)wait_ns[PS_WAIT_ISSUE] / 1e9,
        "slots", (double)wait_ns[PS_WAIT_SLOT] / 1e9);
}

static double hit_rate(const struct ps_store_stats *store)
{
    uint64_t asked = store->hits + store->misses;
    return asked == 0 ? 0 : (double)store->hits / (double)asked;
}

static json_t *members_json(const struct ps_engine_stats *stats)
{
    json_t *members = json_array();

    for (int i = 0; i < stats->member_count; i++) {
        const struct ps_store_member_stats *m = &stats->members[i];
        json_array_append_new(
            members, json_pack("{s:I, s:I, s:I, s:I, s:b, s:b}", "read_bytes",
                               (json_int_t)m->read_bytes, "read_count", (json_int_t)m->read_count,
                               "retries", (json_int_t)m->retries, "errors", (json_int_t)m->errors,
                               "slow", (int)m->is_slow, "off", (int)m->is_off));
    }
    return members;
}

json_t *tool_stats_json(const struct ps_engine_stats *stats)
{
    const struct ps_store_stats *store = &stats->store;
    struct phase prefill = prefill_of(stats), decode = decode_of(stats);
    uint64_t run_ns = stats->prefill_ns + stats->decode_ns;
    json_t *io = json_pack(
        "{s:s, s:b, s:b, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:o}", "engine", store->engine,
        "direct", (int)store->direct, "registered_buffers", (int)store->registered_buffers,
        "read_bytes", (json_int_t)store->read_bytes, "read_count", (json_int_t)store->read_count,
        "streamed_bytes", (json_int_t)store->streamed_bytes, "streamed_bytes_per_s",
        tool_rate(store->streamed_bytes, run_ns), "wait_seconds", (double)store->wait_ns / 1e9,
        "check_seconds", (double)store->check_ns / 1e9, "retries", (json_int_t)store->retries,
        "errors", (json_int_t)store->errors, "members", members_json(stats));
    json_t *cache = json_pack(
        "{s:I, s:I, s:f, s:I, s:I, s:I, s:I}", "hits", (json_int_t)store->hits, "misses",
        (json_int_t)store->misses, "hit_rate", hit_rate(store), "evictions",
        (json_int_t)store->evictions, "slots", (json_int_t)store->slot_count, "bytes",
        (json_int_t)store->cache_bytes, "waste_bytes", (json_int_t)store->cache_waste_bytes);
    json_t *memory =
        json_pack("{s:I, s:I, s:I, s:I}", "peak_bytes", (json_int_t)stats->memory_peak_bytes,
                  "hugepage_bytes", (json_int_t)stats->hugepage_bytes, "transparent_hugepage_bytes",
                  (json_int_t)transparent_bytes(), "budget_bytes", (json_int_t)stats->budget_bytes);

    json_t *guesses = json_pack("{s:I, s:I, s:I, s:I}", "read", (json_int_t)stats->guesses_read,
                                "right", (json_int_t)stats->guesses_right, "right_bytes",
                                (json_int_t)stats->guesses_right_bytes, "vain_bytes",
                                (json_int_t)stats->guesses_vain_bytes);

    return json_pack("{s:o, s:o, s:f, s:o, s:o, s:o, s:o, s:i, s:s}", "prefill",
                     phase_json(&prefill), "decode", phase_json(&decode), "sample_seconds",
                     (double)stats->sample_ns / 1e9, "io", io, "cache", cache, "guesses", guesses,
                     "memory", memory, "threads", stats->threads, "cpu", stats->cpu);
}

/* "; waited 84 % of the time (81 % for reads, 3 % for checksums)" */
static void waits_print(const struct phase *p)
{
    static const char *const names[PS_WAIT_CAUSE_COUNT] = {
        "reads", "the slowest drive", "checksums", "reads to begin", "memory to read to"};
    const char *before = " (";

    fprintf(stderr, "; waited %.0f %% of the time", 100 * share(p->usage->wait_ns, p->ns));
    for (int c = 0; c < PS_WAIT_CAUSE_COUNT; c++) {
        double percent = 100 * share(p->usage->wait_cause_ns[c], p->ns);
        if (percent < 0.5)
            continue;
        fprintf(stderr, "%s%.0f %% for %s", before, percent, names[c]);
        before = ", ";
    }
    fputs(before[0] == ',' ? ")" : "", stderr);
}

static void phase_print(const struct phase *p)
{
    char count[32], time[32];

    fprintf(stderr, "  %-9s %s tokens in %s: %.2f tokens/s\n", p->name,
            tool_count_text(p->tokens, count), tool_time_text(p->ns, time),
            tool_rate(p->tokens, p->ns));
    if (p->ns == 0)
        return;
    fprintf(stderr, "  %-9s drives %.0f %%, cores %.0f %%", "busy", 100 * drive_share(p),
            100 * compute_share(p));
    waits_print(p);
    fprintf(stderr, "; %s\n", drives_limit(p) ? "the drives limit" : "the cores limit");
}

static void io_print(const struct ps_engine_stats *stats)
{
    const struct ps_store_stats *store = &stats->store;
    uint64_t run_ns = stats->prefill_ns + stats->decode_ns;
    char size[32], resident[32];

    fprintf(stderr, "  %-9s %s of experts at %.2f GB/s, %s of resident weights (%s, %s)\n", "read",
            ps_size_text(store->streamed_bytes, size, sizeof(size)),
            tool_rate(store->streamed_bytes, run_ns) / 1e9,
            ps_size_text(store->read_bytes - store->streamed_bytes, resident, sizeof(resident)),
            store->engine, store->direct ? "O_DIRECT" : "through the page cache");
    if (store->errors > 0)
        fprintf(stderr, "  %-9s %llu reads failed, %llu were tried again\n", "faults",
                (unsigned long long)store->errors, (unsigned long long)store->retries);
}

void tool_stats_print(const struct ps_engine_stats *stats)
{
    const struct ps_store_stats *store = &stats->store;
    struct phase prefill = prefill_of(stats), decode = decode_of(stats);
    uint64_t transparent = transparent_bytes();
    char a[32], b[32], c[32], d[32];

    phase_print(&prefill);
    phase_print(&decode);
    io_print(stats);
    fprintf(stderr, "  %-9s %.1f %% hits (%s hits, %s misses, %s evictions, %s slots)\n", "cache",
            100.0 * hit_rate(store), tool_count_text(store->hits, a),
            tool_count_text(store->misses, b), tool_count_text(store->evictions, c),
            tool_count_text(store->slot_count, d));
    if (stats->guesses_read > 0)
        fprintf(stderr,
                "  %-9s %s experts read ahead, %.0f %% of them chosen afterwards; %s in vain\n",
                "guessed", tool_count_text(stats->guesses_read, a),
                100.0 * (double)stats->guesses_right / (double)stats->guesses_read,
                ps_size_text(stats->guesses_vain_bytes, b, sizeof(b)));
    fprintf(stderr, "  %-9s peak %s of %s", "memory",
            ps_size_text_binary(stats->memory_peak_bytes, a, sizeof(a)),
            ps_size_text_binary(stats->budget_bytes, b, sizeof(b)));
    if (stats->hugepage_bytes > 0)
        fprintf(stderr, ", %s in hugepages",
                ps_size_text_binary(stats->hugepage_bytes, c, sizeof(c)));
    if (transparent > 0)
        fprintf(stderr, ", %s in transparent huge pages",
                ps_size_text_binary(transparent, d, sizeof(d)));
    if (stats->hugepage_bytes == 0 && transparent == 0)
        fputs(", in plain pages", stderr);
    fprintf(stderr, "\n  %-9s %d threads, %s\n", "compute", stats->threads, stats->cpu);
}
