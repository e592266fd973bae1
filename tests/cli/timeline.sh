#!/usr/bin/env bash
# --timeline: every drive and thread is there, events lie side by side or inside each other, what does
# not fit is counted; and the statistics of what was busy add up.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" a b
run=("$penstock" run a -p 'It was the whale' -n 6 --temp 0 --ctx 64 --threads 2)
timeline()
{
    jq -e "$2" "$1" >/dev/null || die "$2 does not hold for $1"
}

quiet "${run[@]}" --memory min
cp out.txt plain.txt
quiet "${run[@]}" --memory min --timeline t.json --stats s.json
same plain.txt out.txt "the text with a timeline and without"

timeline t.json '.otherData.dropped_events == 0 and .otherData.events > 1000'
timeline t.json '[.traceEvents[] | select(.name == "process_name") | .args.name] |
    length == 3 and .[0] == "compute" and (.[1] | test("^drive 0: .*a$")) and (.[2] | test("^drive 1: .*b$"))'
timeline t.json '[.traceEvents[] | select(.name == "thread_name" and .pid == 1) | .args.name] ==
    ["layers and waits", "thread 0", "thread 1", "reading thread"]'
# Events of one track nest; a nanosecond is 0.001.
# shellcheck disable=SC2016  # of jq
timeline t.json '[.traceEvents[] | select(.ph == "X")] | group_by([.pid, .tid]) | all(.[];
    sort_by(.ts, -.dur) | reduce .[] as $e ({ends: [], nest: true};
        .ends |= map(select(. > $e.ts + 0.0005)) |
        .nest = (.nest and all(.ends[]; $e.ts + $e.dur < . + 0.0005)) |
        .ends += [$e.ts + $e.dur]) | .nest)'
# Every token has its layers, each experts of its own; what missed was read from both drives.
timeline t.json '[.traceEvents[] | select(.cat == "main" and (.name | startswith("layer ")))] | length == 6 * 8'
timeline t.json '[.traceEvents[] | select(.cat == "compute") | .name] | unique ==
    ["experts down", "experts up", "head", "mixer", "router", "shared"]'
timeline t.json '[.traceEvents[] | select(.cat == "demand")] |
    (map(.pid) | unique) == [10, 11] and all(.[]; .args.bytes > 0 and .args.layer < 8 and
        .args.expert < 64 and .args.slice == 0 and .dur > 0)'
timeline t.json '([.traceEvents[] | select(.name == "miss") | .args] | unique) ==
    ([.traceEvents[] | select(.cat == "demand") | .args | {layer, expert}] | unique)'
timeline t.json '[.traceEvents[] | select(.cat == "wait")] |
    length > 0 and all(.[]; .name | test("^waits for .* of layer [0-7]$"))'

# A table that is too small.
quiet "${run[@]}" --memory min --timeline small.json --timeline-events 500
grep -q 'room for 500 events; the last [1-9][0-9]* were left out' err.txt || die "$(cat err.txt)"
timeline small.json '.otherData.events == 500 and .otherData.dropped_events > 500 and
    ([.traceEvents[] | select(.ph != "M")] | length) == 500'

# What was busy, and what was waited for: the causes are all of it.
timeline s.json '.sample_seconds > 0 and all(.prefill, .decode;
    (.drive_shares | length) == 2 and all(.drive_shares[]; . > 0 and . <= 1.001) and
    .compute_share > 0 and .compute_share <= 1.001 and
    (.limit == "drives" or .limit == "compute") and
    .wait_seconds > 0 and .wait_seconds < .seconds and
    ((.waits | add) - .wait_seconds | fabs) < 0.000001)'
quiet "${run[@]}" --memory 200M
[ "$(grep -cE '^  busy +drives [0-9]+ %, cores [0-9]+ %; waited [0-9]+ %.*; the (drives|cores) limit$' err.txt)" -eq 2 ] ||
    die "no shares: $(cat err.txt)"

# The last round of a bench.
json '.decode.tokens == 3' "$penstock" bench decode a --prompt 4 --tokens 3 --repeat 2 --memory min \
    --json --timeline bench.json
timeline bench.json '[.traceEvents[] | select(.name | startswith("tokens ")) | .args.position] | sort == [0, 4, 5, 6]'

fails 2 'needs --timeline' "${run[@]}" --timeline-events 500
fails 1 'no/such' "${run[@]}" --timeline no/such/file
fails 1 'member of a volume' "${run[@]}" --timeline a
