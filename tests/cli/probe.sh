#!/usr/bin/env bash
# Probing files: the table, the profile file, what is refused, and a clean stop.
. "$(dirname "$0")/common.sh"
need_jq

dd if=/dev/urandom of=a bs=1M count=16 status=none
cp a b
good='.penstock_profile == 1 and (.members | length) == 2 and all(.members[];
    .knee.bytes_per_s > 0 and .knee.latency_ns > 0 and .knee.depth >= 1 and
    .knee.piece_bytes_min >= 65536 and .knee.piece_bytes_min <= .knee.request_bytes and
    .rounds >= 1 and .busy_share > 0 and .busy_share <= 1 and (.points | length) > 10 and
    all(.points[]; .bytes_per_s > 0 and .latency_us.p50 > 0 and .latency_us.p50 <= .latency_us.p99 and
        .request_bytes * .depth <= 67108864)) and
    [.members[].path] == ["'"$work"'/a", "'"$work"'/b"]'
json "$good" "$penstock" probe a b --seconds 2 --json --out profile.json
jq -e "$good" profile.json >/dev/null || die "the profile file: $(cat profile.json)"
cmp -s out.txt profile.json || die "--out and --json differ"

quiet "$penstock" probe a --seconds 1 --engine pread --out -
jq -e '.penstock_profile == 1' out.txt >/dev/null || die "not the profile alone: $(cat out.txt)"
mv err.txt out.txt
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
printf '%065536d' 0 >data
fails 1 'MEMBER and --out are the same' "$penstock" probe a data --seconds 0.1 --out data
fails 1 'folder' "$penstock" probe a --out folder/profile.json

status=0
timeout --signal=INT --kill-after=20 --preserve-status 0.7 "$penstock" probe a --seconds 1000 \
    --out stopped.json >out.txt 2>err.txt || status=$?
[ $status -eq 130 ] || die "status $status after Ctrl-C: $(cat err.txt)"
compgen -G 'stopped.json*' >/dev/null && die "a part of the profile was left behind"
[ ! -s out.txt ] || die "a stopped probe says: $(cat out.txt)"

# Layouts by a profile: matched by path though the files are not there yet, else by the drive.
profile()
{
    jq --argjson a "$1" --argjson b "$2" '.members[0].knee.bytes_per_s = $a |
        .members[1].knee.bytes_per_s = $b' profile.json >made.json
}
mv a was_a
mv b was_b
profile 3000000000 1000000000
quiet "$penstock" layout "$demo_gguf" a b --profile made.json
[ ! -s err.txt ] || die "members of one file system, and yet: $(cat err.txt)"
"$penstock" info a --json >info.json
jq -e '[.members[] | .data_end_bytes - .data_begin_bytes] | .[0] > 2.8 * .[1] and .[0] < 3.2 * .[1]' \
    info.json >/dev/null || die "not cut 3 to 1: $(cat info.json)"
quiet "$penstock" verify a
# The same command with --resume: what was begun keeps its cut, and a profile serves what was not.
cp a before
profile 1000000000 3000000000
quiet "$penstock" layout "$demo_gguf" a b --profile made.json --resume
same a before "a resume cut anew"
rm a b before
quiet "$penstock" layout "$demo_gguf" a b --profile made.json --resume
json '[.members[] | .data_end_bytes - .data_begin_bytes] | .[1] > 2.8 * .[0]' "$penstock" info a --json
rm a b
# One member: nothing is cut, and its drive's profile recorded all the same.
quiet "$penstock" layout "$demo_gguf" a --profile made.json
json '.members[0].profile.bytes_per_s == 1000000000' "$penstock" info a --json
fails 1 'nowhere' "$penstock" rebalance a b --profile nowhere.json
quiet "$penstock" rebalance a b --profile made.json
json '.members[0].profile.bytes_per_s == 3000000000' "$penstock" info b --json
rm b
profile 1000000000 950000000
quiet "$penstock" layout "$demo_gguf" a b --profile made.json
json '[.members[] | .data_end_bytes - .data_begin_bytes] | .[0] < 1.02 * .[1] and .[1] < 1.02 * .[0]' \
    "$penstock" info a --json # a twentieth makes no difference
quiet "$penstock" layout "$demo_gguf" c d
[ ! -s err.txt ] || die "members of one file system are measured: $(cat err.txt)"
rm a b c d

# Recorded in a volume, found by one of its members.
quiet "$penstock" layout "$demo_gguf" a b
json '[.members[].path | sub(".*/"; "")] == ["a", "b"]' "$penstock" probe b --save --seconds 2 --json
cp out.txt saved.json
quiet "$penstock" verify a
quiet "$penstock" info a
[ "$(grep -c 'its drive reads' out.txt)" -eq 2 ] || die "the volume does not tell: $(cat out.txt)"
"$penstock" run a --ids 1,2,3 -n 100000 --temp 1 --seed 1 >text.txt 2>/dev/null </dev/null &
running=$!
while [ ! -s text.txt ] && kill -0 $running 2>/dev/null; do sleep 0.1; done
fails 1 "in use .open in process $running .penstock" "$penstock" probe a --save
kill $running
wait $running || true
fails 1 'not a member' "$penstock" probe profile.json --save
# A lost member is laid out again; what is recorded stays.
rm b
quiet "$penstock" layout "$demo_gguf" a b --resume
quiet "$penstock" info b
[ "$(grep -c 'its drive reads' out.txt)" -eq 2 ] || die "a resume lost the record: $(cat out.txt)"
# Who may not write is told before a minute of measuring.
chmod 755 .
chmod 444 a b
as=()
[ "$(id -u)" -ne 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
if "${as[@]}" "$penstock" info a >out.txt 2>&1; then
    begin=$SECONDS
    fails 1 'nothing can be recorded.*root' "${as[@]}" "$penstock" probe a --save
    [ $((SECONDS - begin)) -lt 20 ] || die "told after the measurement"
else
    part_skip "nobody else can run the command: $(cat out.txt)"
fi
rm a b

echo '{' >bad.json
fails 1 'not a profile' "$penstock" layout "$demo_gguf" a b --profile bad.json
echo '[]' >bad.json
fails 1 'version 1' "$penstock" layout "$demo_gguf" a b --profile bad.json
jq '.penstock_profile = 2' profile.json >bad.json
fails 1 'version 1' "$penstock" layout "$demo_gguf" a b --profile bad.json
for bad in '.bytes_per_s = 0' '.depth = 1e9' '.request_bytes = -1' '.latency_ns = "x"' \
    '.piece_bytes_min = 1.5' 'empty'; do
    jq "(.members[1].knee) |= ($bad)" profile.json >bad.json
    fails 1 '"knee" of b' "$penstock" layout "$demo_gguf" a b --profile bad.json
done
jq '.members[1] |= (.path = "/elsewhere" | .serial = "" | .partuuid = "") |
    .members[0] |= (.serial = "" | .partuuid = "")' profile.json >bad.json
fails 1 'nothing of b;' "$penstock" layout "$demo_gguf" a b --profile bad.json
fails 1 'nothing of c, d;' "$penstock" layout "$demo_gguf" c d --profile bad.json
fails 1 'nowhere' "$penstock" layout "$demo_gguf" a b --profile nowhere.json
compgen -G '[abcd]' >/dev/null && die "a refused layout has left a member behind"

# Different file systems, of which one is in memory or cannot be read: an even cut, and a word on it.
[[ -w /dev/shm && $(stat -c %d /dev/shm) != "$(stat -c %d .)" ]] || test_skip "no /dev/shm"
other=$(mktemp -d /dev/shm/penstock-cli-XXXXXX)
trap 'rm -rf "$work" "$other"' EXIT
quiet "$penstock" layout "$demo_gguf" a "$other/b"
[ "$(wc -l <err.txt)" -eq 1 ] || die "not one line: $(cat err.txt)"
grep -q 'cut evenly' err.txt || die "nothing said of the cut: $(cat err.txt)"
