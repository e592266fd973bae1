#!/usr/bin/env bash
# Measurements of files: what is counted adds up, what cannot be measured is refused.
. "$(dirname "$0")/common.sh"
need_jq

dd if=/dev/urandom of=a bs=1M count=16 status=none
cp a b
json '.bytes > 0 and .requests * .request_bytes == .bytes and .bytes_per_s > 0 and
    .requests_per_s > 0 and .cpu_s_per_gb >= 0 and .latency_us.p50 > 0 and
    .latency_us.p50 <= .latency_us.p99 and .latency_us.p99 <= .latency_us.max and
    .order == "random" and .request_bytes == 2097152 and .depth == 8 and (.blank | not) and
    ([.members[].bytes] | add) == .bytes and [.members[].path] == ["a", "b"]' \
    "$penstock" bench io a b --seconds 0.2 --json
for engine in uring pread pagecache mmap; do
    json ".engine == \"$engine\" or .engine == \"pread\"" "$penstock" bench io a --engine $engine \
        --size 64K --depth 4 --seconds 0.1 --random --json
    json '.order == "sequential"' "$penstock" bench io a --engine $engine --size 1M --depth 2 \
        --seconds 0.1 --sequential --json
done
quiet "$penstock" bench io a b --seconds 0.1 --size 1769472
grep -q '^read .* GB/s, .* in flight on each' out.txt || die "$(cat out.txt)"
grep -q 'GB/s from b$' out.txt || die "not each by itself: $(cat out.txt)"

dd if=/dev/zero of=blank bs=1M count=4 status=none
quiet "$penstock" bench io blank --seconds 0.1
grep -q 'only zeroes' err.txt || die "nothing said of a file of zeroes"
truncate -s 16M sparse
fails 1 'ever been written' "$penstock" bench io sparse --seconds 0.1
fails 1 'shorter' "$penstock" bench io a --size 32M --seconds 0.1
fails 1 'nowhere' "$penstock" bench io nowhere
fails 2 'dma.*uring' "$penstock" bench io a --engine dma
fails 1 'file' "$penstock" bench io "$work"

status=0
timeout --signal=INT --kill-after=20 --preserve-status 0.5 "$penstock" bench io a --seconds 1000 \
    >out.txt 2>err.txt || status=$?
[ $status -eq 130 ] || die "status $status after Ctrl-C: $(cat err.txt)"
[ ! -s out.txt ] || die "a stopped measurement says: $(cat out.txt)"
[ ! -s err.txt ] || die "a stopped measurement complains: $(cat err.txt)"
