#!/usr/bin/env bash
# The ceiling holds, seen from outside, and direct reads leave nothing in the page cache.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
floor=$("$penstock" plan v --ctx 512 --json --memory 1G | jq .floor_bytes)
# held IO CEILING: a run's resident set plus hugepages, looked at from outside, stay under the ceiling.
held()
{
    local io=$1 ceiling=$2 pid kib peak_kib=0 budget peak
    "$penstock" run v --io "$io" --ctx 512 --memory "$ceiling" -p 'Once upon a time' -n 250 \
        --temp 0.8 --seed 1 --stats stats.json >/dev/null 2>err.txt &
    pid=$!
    while kib=$(awk '/^(VmHWM|HugetlbPages):/ {n += $2} END {print n + 0}' /proc/$pid/status \
        2>/dev/null) && [ "$kib" -gt 0 ]; do
        ((kib <= peak_kib)) || peak_kib=$kib
        sleep 0.02
    done
    wait $pid || die "status $?: $(cat err.txt)"
    budget=$(jq .memory.budget_bytes stats.json)
    peak=$(jq .memory.peak_bytes stats.json)
    ((peak_kib > 0)) || die "the run ended before it could be looked at"
    printf '%s, ceiling %s: seen %s KiB of %s\n' "$io" "$ceiling" "$peak_kib" $((budget / 1024))
    ((peak_kib * 1024 <= budget)) || die "$io: $peak_kib KiB seen, ceiling $budget bytes"
    ((peak <= budget)) || die "$io: peak $peak over the ceiling $budget"
}

# What `plan` calls the least does for a run, too, whose own measure is never quite the same.
for ceiling in min $floor $floor $((floor + 2097152)) $((floor + 8388608)) 200M; do
    held uring "$ceiling"
done
for io in pread pagecache mmap; do
    held $io min
    held $io $((floor + 8388608))
done

command -v fincore >/dev/null || test_skip "fincore is not installed"
sync v
dd of=v oflag=nocache conv=notrunc,fdatasync count=0 status=none
quiet "$penstock" run v --memory min -p 'Once upon a time' -n 64 --temp 0 --io uring \
    --stats stats.json
if [ "$(jq .io.direct stats.json)" = true ]; then
    cached=$(fincore --bytes --noheadings --output RES v)
    ((cached * 100 <= $(stat -c %s v))) || die "$cached bytes of the volume are in the page cache"
else
    part_skip "the file system of $work has no O_DIRECT"
fi
