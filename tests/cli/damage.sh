#!/usr/bin/env bash
# A flipped bit, a cut or missing member: named, and nothing is printed that was made from it.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" good
begin=$("$penstock" info good --json | jq '.members[0].data_begin_bytes')
end=$("$penstock" info good --json | jq '.members[0].data_end_bytes')

# flip FILE OFFSET: inverts one byte.
flip()
{
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059  # the format is the byte
    printf "\\x$(printf %02x $((255 - byte)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# Anywhere in the data: verify always names it; a run that reads everything says so and stops.
for i in 0 1 2 3 4 5 6 7 8 9; do
    cp good bad
    flip bad $((begin + (end - begin - 1) * i / 9))
    status=0
    "$penstock" verify bad >bad.txt 2>err.txt || status=$?
    [ $status -eq 1 ] || die "verify: status $status with a flipped byte at part $i"
    grep -qE 'bad' bad.txt || die "verify names nothing at part $i"
    grep -q '^penstock: ' err.txt || die "verify has no sentence at part $i"
done
status=0
"$penstock" verify bad --json >bad.json 2>/dev/null || status=$?
[ $status -eq 1 ] || die "verify --json: status $status"
jq -e '(.good | not) and .slices_bad >= 1 and (.bad | length) >= 1' bad.json >/dev/null ||
    die "verify --json: $(cat bad.json)"

# A scrub finds the same; it is slower if asked to be, and beside an engine that reads.
status=0
"$penstock" scrub bad --json >bad.json 2>/dev/null || status=$?
[ $status -eq 1 ] || die "scrub --json: status $status"
jq -e '.slices_bad >= 1 and (.stopped | not)' bad.json >/dev/null || die "scrub: $(cat bad.json)"
json '.good and .slices_checked > 0' "$penstock" scrub good --json --rate 1G
status=0
timeout --signal=INT --preserve-status 1 "$penstock" scrub good --rate 1M --json \
    >part.json 2>err.txt || status=$?
[ $status -eq 130 ] || die "a stopped scrub: status $status: $(cat err.txt)"
jq -e '.stopped and (.good | not) and .slices_bad == 0 and .bytes_read < 10000000' part.json \
    >/dev/null || die "a stopped scrub: $(cat part.json)"
"$penstock" run good -p x -n 100000 --temp 0.9 --seed 1 >/dev/null 2>&1 &
engine=$!
json '.good' "$penstock" scrub good --json
kill $engine 2>/dev/null || true
wait $engine 2>/dev/null || true

# Every expert that a run reads first: the perplexity run touches them all.
head -c 8000 "$demo_text" >some.txt
for io in uring pread pagecache mmap; do
    cp good bad
    for ((offset = end - 9000000; offset < end; offset += 4096)); do
        echo "$offset"
    done >offsets.txt
    while read -r offset; do
        printf 'XXXX' | dd of=bad bs=1 seek=$((offset + 64)) conv=notrunc status=none
    done < <(sed -n '1~40p' offsets.txt)
    fails 1 'slice.*expert|expert.*slice|tensor' "$penstock" perplexity bad --file some.txt --io $io
    [ ! -s out.txt ] || die "perplexity of a damaged volume was printed"
done
status=0
"$penstock" run bad -p 'It was the whale' -n 400 --temp 0 >text.txt 2>err.txt || status=$?
[ $status -eq 1 ] || die "run: status $status on a damaged volume"
grep -q "bad" err.txt || die "run does not name the member: $(cat err.txt)"
"$penstock" run good -p 'It was the whale' -n 400 --temp 0 >whole.txt 2>/dev/null
head -c "$(stat -c %s text.txt)" whole.txt | cmp - text.txt ||
    die "run printed text made from damaged experts"

# Cut short.
for cut in 1 4096 5000000; do
    cp good short
    truncate -s -$cut short
    fails 1 'short' "$penstock" run short -p x
    fails 1 'short' "$penstock" verify short
done

# A member missing is named, and found where it is said to be.
mkdir away
quiet "$penstock" layout "$demo_gguf" m1 m2 m3
mv m2 away/elsewhere
fails 1 'm2' "$penstock" info m1
fails 1 'm2' "$penstock" run m1 m3 -p x
quiet "$penstock" info m1 --member away/elsewhere
quiet "$penstock" verify -m away/elsewhere m3
# With two copies one may be gone, and its data is read from the others.
quiet "$penstock" layout "$demo_gguf" c1 c2 c3 --copies 2
json '.copies == 2 and (.members | length) == 3' "$penstock" info c1 --json
quiet "$penstock" verify c2
rm c2
json '.members[1].missing' "$penstock" info c1 --json
status=0
"$penstock" verify c1 >out.txt 2>err.txt || status=$?
[[ $status -eq 1 && $(grep -c 'is missing' out.txt) -eq 1 ]] ||
    die "verify of a degraded volume: $(cat out.txt)"
rm c3
fails 1 'c2.*c3' "$penstock" info c1
# Where it was is told by whoever wrote the volume, who may mean the terminal.
quiet "$penstock" layout "$demo_gguf" t1 $'t\e[31m2' --copies 2
rm t?*2
"$penstock" info t1 >out.txt 2>err.txt || die "$(cat err.txt)"
grep -q 't?\[31m2: missing' out.txt || die "no missing member: $(cat out.txt)"
! grep -q $'\e' out.txt err.txt || die "an escape sequence of the volume was printed"
# Neither a member of another volume nor the same one twice is taken for it.
quiet "$penstock" layout "$demo_gguf" f1 f2 f3 --slice-bytes 16K
fails 1 'f2|member' "$penstock" info m1 m3 f2
fails 1 'once' "$penstock" info m1 m3 m1

# A copy beside its twin opens as itself.
cp good twin
flip twin $((begin + 100))
quiet "$penstock" verify good
fails 1 'damaged' "$penstock" verify twin

# A name that is not UTF-8 is replaced in JSON, and neither left out nor an end of it.
name=$'odd\xff"\n'
# shellcheck disable=SC2016  # of jq
odd='$shown == "odd\ufffd\"\n"'
cp "$demo_gguf" "$name.gguf"
json ".members[0] as \$shown | $odd" "$penstock" layout "$name.gguf" "$name" --json
json '.source == "odd\ufffd\"\n.gguf"' "$penstock" layout "$name.gguf" one --json
json ".members[0].path as \$shown | $odd" "$penstock" info "$name" --json
json ".members[0].path as \$shown | $odd" "$penstock" plan "$name" --json
json ".members[0].path as \$shown | $odd" "$penstock" bench io "$name" --seconds 0.1 --json
json '.members[0].path | endswith("odd\ufffd\"\n")' "$penstock" probe "$name" --seconds 0.3 --json \
    --out profile.json
quiet "$penstock" wipe "$name"
quiet "$penstock" layout "$name.gguf" "$name" two --profile <(jq '.members[1] = .members[0] |
    .members[1].path = "two"' profile.json)
json ".volume as \$shown | $odd" "$penstock" rebalance "$name" three --json
