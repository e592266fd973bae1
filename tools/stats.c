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

static json_t *phase_json(uint64_t tokens, uint64_t ns)
{
    return json_pack("{s:I, s:f, s:f}", "tokens", (json_int_t)tokens, "seconds", (double)ns / 1e9,
                     "tokens_per_s", tool_rate(tokens, ns));
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

    json_t *guesses = json_pack("{s:I, s:I}", "read", (json_int_t)stats->guesses_read, "right",
                                (json_int_t)stats->guesses_right);

    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:s}", "prefill",
                     phase_json(stats->prefill_tokens, stats->prefill_ns), "decode",
                     phase_json(stats->decode_tokens, stats->decode_ns), "io", io, "cache", cache,
                     "guesses", guesses, "memory", memory, "threads", stats->threads, "cpu",
                     stats->cpu);
}

static void phase_print(const char *name, uint64_t tokens, uint64_t ns)
{
    char count[32], time[32];
    fprintf(stderr, "  %-9s %s tokens in %s: %.2f tokens/s\n", name, tool_count_text(tokens, count),
            tool_time_text(ns, time), tool_rate(tokens, ns));
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
    if (run_ns > 0) {
        fprintf(stderr, "  %-9s %.0f %% of the time for reads\n", "waited",
                100.0 * (double)store->wait_ns / (double)run_ns);
    }
    if (store->errors > 0)
        fprintf(stderr, "  %-9s %llu reads failed, %llu were tried again\n", "faults",
                (unsigned long long)store->errors, (unsigned long long)store->retries);
}

void tool_stats_print(const struct ps_engine_stats *stats)
{
    const struct ps_store_stats *store = &stats->store;
    uint64_t transparent = transparent_bytes();
    char a[32], b[32], c[32], d[32];

    phase_print("prefill", stats->prefill_tokens, stats->prefill_ns);
    phase_print("decode", stats->decode_tokens, stats->decode_ns);
    io_print(stats);
    fprintf(stderr, "  %-9s %.1f %% hits (%s hits, %s misses, %s evictions, %s slots)\n", "cache",
            100.0 * hit_rate(store), tool_count_text(store->hits, a),
            tool_count_text(store->misses, b), tool_count_text(store->evictions, c),
            tool_count_text(store->slot_count, d));
    if (stats->guesses_read > 0)
        fprintf(stderr, "  %-9s %s experts read ahead, %.0f %% of them chosen afterwards\n",
                "guessed", tool_count_text(stats->guesses_read, a),
                100.0 * (double)stats->guesses_right / (double)stats->guesses_read);
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
