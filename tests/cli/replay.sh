#!/usr/bin/env bash
# Replays of a small trace: all combinations, in JSON, as a table and drawn; and what is refused.
. "$(dirname "$0")/common.sh"
need_jq
trace=$(dirname "$PENSTOCK_GOLDEN")/small.trace

json '.model == "small" and .tokens == 32 and .layers == 4 and (.runs | length) == 8 and
    all(.runs[]; .hits + 0 <= .asked and .tokens_per_s > 0 and .asked == 256 and
        .seconds > 0 and .bound_overlap_tokens_per_s >= .tokens_per_s * 0.999 and
        (.busy_shares | length) == 2) and
    ([.runs[] | select(.policy == "belady") | .hits] | add) >=
        ([.runs[] | select(.policy == "lru") | .hits] | add) and
    .runs[1].slots == 64 and .runs[1].hits + .runs[1].firsts == 256' \
    "$penstock" replay "$trace" --memory 20%,100% --policy lru --policy belady --predictor off \
    --predictor oracle --drives 2x1.5G@90us --compute mixer=100us,expert=50us,token=1ms --json
# What reads cost the processors takes its time.
quiet "$penstock" replay "$trace" --memory 20% --json
before=$(jq '.runs[0].seconds' out.txt)
json ".runs[0].seconds > $before" "$penstock" replay "$trace" --memory 20% --compute check=200us,read=10us,issue=20us,wake=20us --json
# The same figures again, whatever was played before.
quiet "$penstock" replay "$trace" --memory 8M --predictor recall=0.7,precision=0.5 --seed 3 --json
cp out.txt first.txt
quiet "$penstock" replay "$trace" --memory 8M --predictor recall=0.7,precision=0.5 --seed 3 --json
same first.txt out.txt "a replay and the same again"
quiet "$penstock" replay "$trace" --svg hits.svg --policy lru --policy lfu --policy least-stale
[ "$(wc -l <out.txt)" -eq 32 ] || die "not ten sizes of three policies: $(cat out.txt)"
[ "$(grep -c polyline hits.svg)" -eq 6 ] || die "not three lines"
tail -n 1 hits.svg | grep -q '^</svg>$' || die "the drawing has no end"

# Every line is there, told apart by what differs, with its points from left to right.
quiet "$penstock" replay "$trace" --svg hits.svg --memory 60%,20%,40% --policy lru --policy belady --predictor off \
    --predictor oracle --drives 1G@90us --drives 2G
[ "$(grep -c polyline hits.svg)" -eq 16 ] || die "not eight lines"
grep -q '>belady, oracle, 2G<' hits.svg || die "a line without its name: $(cat hits.svg)"
grep -o 'points="[^"]* "' hits.svg | tr ' ' '\n' | sed -n 's/^\(points="\)*\([0-9.]*\),.*/\2/p' |
    awk 'NR % 3 != 1 && $1 <= last { exit 1 } { last = $1 }' || die "points run back: $(cat hits.svg)"
quiet "$penstock" replay "$trace" --svg hits.svg --memory 20% --predictor off --predictor oracle
cp out.txt table
"$penstock" replay "$trace" --svg - --memory 20% --predictor off --predictor oracle 2>err.txt | cmp - hits.svg ||
    die "not the drawing alone"
same err.txt table "what is told beside a drawing in a pipe"
grep -q '>oracle<' hits.svg || die "a policy that is everywhere the same: $(cat hits.svg)"
fails 1 '--svg: .*16 lines' "$penstock" replay "$trace" --svg x --policy lru --policy lfu --policy belady \
    --policy least-stale --predictor off --predictor oracle --predictor recall=0.5 --predictor recall=0.7
fails 1 'nowhere' "$penstock" replay "$trace" --svg nowhere/x
[ ! -s out.txt ] || die "it played first"
if [ -e /dev/full ]; then
    ! "$penstock" replay "$trace" --svg /dev/full >out.txt 2>err.txt || die "a full device takes a drawing"
    { [ "$(wc -l <out.txt)" -eq 12 ] && grep -q 'cannot write' err.txt; } || die "no table: $(cat out.txt err.txt)"
fi

# Drives as they were probed, and experts as they lie in a volume.
head -c 48M /dev/urandom >file
quiet "$penstock" probe file --seconds 1 --engine pread --out profile.json
json '.runs[0].tokens_per_s > 0' "$penstock" replay "$trace" --drives ./profile.json --memory min \
    --json
# Names may be any bytes.
cp profile.json "$(printf './\377\033[1m.json')"
printf '[[0, 1], [0, 2]]\n[[0, 1], [0, 3]]\n' >pairs
quiet "$penstock" trace --import pairs --out odd --model "$(printf 'odd\377\033[7m')" --expert-bytes 1M
json '.model == "odd\ufffd\u001b[7m" and .runs[0].drives == "./\ufffd\u001b[1m.json"' \
    "$penstock" replay odd --drives "$(printf './\377\033[1m.json')" --memory min --json
quiet "$penstock" replay odd --drives "$(printf './\377\033[1m.json')" --memory min --svg odd.svg
! LC_ALL=C grep -q "$(printf '\033')" out.txt odd.svg || die "a control byte reaches the terminal"
iconv -f UTF-8 odd.svg >/dev/null || die "the drawing is not UTF-8"
quiet "$penstock" layout "$demo_gguf" v
quiet "$penstock" replay "$trace" --volume v --memory 32M --compute memory=20G,dense=6M
grep -q 'small: 32 tokens, 4 layers of 16 experts' out.txt || die "no head: $(cat out.txt)"

fails 1 'not a policy' "$penstock" replay "$trace" --policy fifo
fails 1 'no predictor' "$penstock" replay "$trace" --predictor recall=2
fails 1 'no guesses' "$penstock" replay "$trace" --predictor trace
fails 1 'neither a list of drives' "$penstock" replay "$trace" --drives fast
fails 1 'neither a list of drives' "$penstock" replay "$trace" --drives 99x1G
fails 1 'neither a list of drives' "$penstock" replay "$trace" --drives 2x3.5Q
fails 1 'cannot' "$penstock" replay "$trace" --drives ./2x3.5Q
fails 1 '32 sizes' "$penstock" replay "$trace" --memory 1%..9%,1%..9%,1%..9%,1%..9%
fails 1 'not a profile' "$penstock" replay "$trace" --drives "$demo_gguf"
fails 1 'not understood' "$penstock" replay "$trace" --compute mixer=1
fails 1 'share of the experts' "$penstock" replay "$trace" --memory 120%
fails 1 'range' "$penstock" replay "$trace" --memory 10%..4G
fails 1 'at least' "$penstock" replay "$trace" --memory 1K
fails 1 'TRACE and --svg are the same' "$penstock" replay "$trace" --svg "$trace"
fails 1 'trace' "$penstock" replay "$demo_gguf"
fails 2 'TRACE' "$penstock" replay
