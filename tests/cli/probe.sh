#!/usr/bin/env bash
# Probing files: the table, the profile file, what is refused, and a clean stop.
. "$(dirname "$0")/common.sh"
need_jq

dd if=/dev/urandom of=a bs=1M count=16 status=none
cp a b
good='.penstock_profile == 1 and (.members | length) == 2 and all(.members[];
    .knee.bytes_per_s > 0 and .knee.latency_ns > 0 and .knee.depth >= 1 and
    .knee.piece_bytes_min >= 65536 and .knee.piece_bytes_min <= .knee.request_bytes and
    .rounds >= 1 and (.points | length) > 10 and
    all(.points[]; .bytes_per_s > 0 and .latency_us.p50 > 0 and .latency_us.p50 <= .latency_us.p99 and
        .request_bytes * .depth <= 67108864)) and
    [.members[].path] == ["'"$work"'/a", "'"$work"'/b"]'
json "$good" "$penstock" probe a b --seconds 2 --json --out profile.json
jq -e "$good" profile.json >/dev/null || die "the profile file: $(cat profile.json)"
cmp -s out.txt profile.json || die "--out and --json differ"

quiet "$penstock" probe a --seconds 1 --engine pread
grep -q '^a: \|^a$' out.txt || die "not named: $(cat out.txt)"
grep -q '^pread' out.txt || die "no engine: $(cat out.txt)"
grep -q '^knee\*: reads of .* in flight: .*; pieces of' out.txt || die "no knee: $(cat out.txt)"
[ "$(grep -cE '^ *[0-9]+ KiB ' out.txt)" -eq 16 ] || die "not 8 rows twice: $(cat out.txt)"
[ "$(grep -oE '\*[0-9.]+' out.txt | wc -l)" -eq 2 ] || die "the knee is not marked: $(cat out.txt)"

truncate -s 16M sparse
printf 'x' >short
fails 1 'ever been written' "$penstock" probe sparse
fails 1 'shorter' "$penstock" probe short
fails 1 'nowhere' "$penstock" probe a nowhere --seconds 0.1
fails 2 'dma.*uring' "$penstock" probe a --engine dma
fails 1 'folder' "$penstock" probe a --out folder/profile.json

status=0
timeout --signal=INT --kill-after=20 --preserve-status 0.7 "$penstock" probe a --seconds 1000 \
    --out stopped.json >out.txt 2>err.txt || status=$?
[ $status -eq 130 ] || die "status $status after Ctrl-C: $(cat err.txt)"
compgen -G 'stopped.json*' >/dev/null && die "a part of the profile was left behind"
[ ! -s out.txt ] || die "a stopped probe says: $(cat out.txt)"
