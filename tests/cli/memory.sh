#!/usr/bin/env bash
# The ceiling holds, seen from outside, and direct reads leave nothing in the page cache.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
floor=$("$penstock" plan v --ctx 512 --json --memory 1G | jq .floor_bytes)
for ceiling in min $((floor + 2097152)) $((floor + 8388608)) 200M; do
    "$penstock" run v --ctx 512 --memory $ceiling -p 'Once upon a time' -n 400 --temp 0.8 --seed 1 \
        --stats stats.json >/dev/null 2>err.txt &
    pid=$!
    peak_kib=0
    while kib=$(awk '/^(VmHWM|HugetlbPages):/ {n += $2} END {print n + 0}' /proc/$pid/status \
        2>/dev/null) && [ "$kib" -gt 0 ]; do
        ((kib <= peak_kib)) || peak_kib=$kib
        sleep 0.02
    done
    wait $pid || die "status $?: $(cat err.txt)"
    budget=$(jq .memory.budget_bytes stats.json)
    peak=$(jq .memory.peak_bytes stats.json)
    ((peak_kib > 0)) || die "the run ended before it could be looked at"
    ((peak_kib * 1024 <= budget)) || die "$ceiling: $peak_kib KiB seen, ceiling $budget bytes"
    ((peak <= budget)) || die "$ceiling: peak $peak over the ceiling $budget"
    printf 'ceiling %s: seen %s KiB of %s\n' $ceiling "$peak_kib" $((budget / 1024))
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
