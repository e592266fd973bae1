#!/usr/bin/env bash
# Bad input: one clear sentence and status 1.
. "$(dirname "$0")/common.sh"

fails 1 'nowhere' "$penstock" info nowhere
fails 1 'nowhere' "$penstock" run nowhere -p x
fails 1 'nowhere' "$penstock" layout nowhere v
[ ! -e v ] || die "a failed layout left a member behind"
for command in "info F" "verify F" "plan F" "wipe F" "run F -p x" "tokenize F" \
    "logits F --ids 1 --out o" "perplexity F --file F"; do
    for content in empty text zeros; do
        case $content in
        empty) : >F ;;
        text) head -c 100000 < <(yes 'not a volume') >F ;;
        zeros) head -c 1000000 /dev/zero >F ;;
        esac
        # shellcheck disable=SC2086  # a command line
        fails 1 'F: ' "$penstock" $command
        [ -e F ] || die "$command removed what is not a volume"
    done
done
fails 1 'F' "$penstock" layout F v
mkdir empty
fails 1 'empty' "$penstock" layout empty v
fails 1 'empty' "$penstock" info empty
for bytes in 3 24 1000 100000 10000000; do
    head -c $bytes "$demo_gguf" >cut.gguf
    fails 1 'cut.gguf' "$penstock" layout cut.gguf v
done
fails 1 'quant|q9_9' "$penstock" layout "$demo_gguf" v --quant experts=q9_9
fails 1 'quant|frob' "$penstock" layout "$demo_gguf" v --quant frob=q4_0
fails 1 'no importance' "$penstock" layout "$demo_gguf" v --quant rest=q4_k --importance "$demo_gguf"
sed 's/qwen35moe/qwen99moe/g' "$demo_gguf" >other.gguf
fails 1 'qwen99moe.*qwen35moe|qwen99moe.*qwen3_5_moe' "$penstock" layout other.gguf v
fails 1 '/dev' "$penstock" layout "$demo_gguf" /dev/penstock-no-such-device
[ ! -e v ] || die "a failed layout left a member behind"

# A file that is something else is not overwritten without consent; with it, it is.
head -c 64M < <(yes 'precious') >precious
cp precious before
fails 1 'destroy' "$penstock" layout "$demo_gguf" precious
same precious before "a refused layout wrote"
identity=$(grep -oE "'[^']+'" err.txt | tr -d "'")
fails 1 'destroy' "$penstock" layout "$demo_gguf" precious --destroy "not-$identity"
same precious before "a refused layout wrote"
quiet "$penstock" layout "$demo_gguf" precious --destroy "$identity"
quiet "$penstock" verify precious
rm precious before
# What the refusal tells to add is taken by a shell, whatever the name.
echo precious >"it's"
fails 1 'destroy' "$penstock" layout "$demo_gguf" "it's"
eval "quiet \"$penstock\" layout \"$demo_gguf\" \"it's\" $(grep -o -- '--destroy .*' err.txt)"
rm "it's"

quiet "$penstock" layout "$demo_gguf" v
fails 1 'vocabulary|9999' "$penstock" logits v --ids 1,9999999 --out o
[ ! -e o ] || die "a failed command left its output behind"
fails 1 'list of token ids' "$penstock" logits v --ids 1,x --out o
fails 1 'no-such' "$penstock" logits v --ids 1 --out no-such-folder/o
status=0
printf '1,2\0003' | "$penstock" logits v --ids - --out o 2>err.txt || status=$?
[ $status -eq 1 ] || die "ids behind a zero byte are ignored"
# Nothing of a hostile name reaches the terminal as it is, and a sentence stays one line.
fails 1 'no\?such\?\[31m' "$penstock" info $'no\nsuch\e[31m'
# A volume is not replaced by a result.
cp v before
fails 1 'member of a volume' "$penstock" logits v --ids 1 --out v
fails 1 'member of a volume' "$penstock" run v -p x -n 1 --stats v
same v before "an output was written over a volume"
head -c 10000000 v >short.v
fails 1 'member of a volume' "$penstock" logits v --ids 1 --out short.v
[ "$(stat -c %s short.v)" -eq 10000000 ] || die "an output was written over a volume that is cut short"
rm short.v
rm before
# Nor is what lies on a drive. A loop device that is not attached has nothing to lose.
device=$(losetup -f 2>err.txt) || device=
if [ -b "$device" ]; then
    fails 1 'drive or partition' "$penstock" logits v --ids 1 --out "$device"
    fails 1 'drive or partition' "$penstock" run v -p x -n 1 --stats "$device"
    fails 1 'drive or partition' "$penstock" probe v --seconds 0.1 --out "$device"
else
    part_skip "no loop device to name as an output: $(cat err.txt)"
fi
# A source is not overwritten by itself, whatever is consented to.
cp "$demo_gguf" self.gguf
for member in ./self.gguf link.gguf; do
    ln -sf self.gguf link.gguf
    fails 1 'source itself' "$penstock" layout self.gguf $member \
        --destroy "file:self.gguf:$(stat -c %s self.gguf)"
    same self.gguf "$demo_gguf" "a source was overwritten"
done
fails 1 'no-such' "$penstock" perplexity v --file no-such-text
fails 1 'window' "$penstock" perplexity v --file <(echo short)
fails 1 'empty' "$penstock" run v -p ''
fails 1 'experts' "$penstock" run v -p x --experts-used 999
fails 1 'context|ctx' "$penstock" run v -p 'one two three four five six seven' --ctx 3
fails 1 'context|ctx' "$penstock" run v -p x --ctx 4000000000

# Memory under the floor: both figures.
fails 1 'MiB|GiB|KiB' "$penstock" run v -p x --memory 4M
fails 1 'MiB|GiB|KiB' "$penstock" plan v --memory 4M
grep -qi total out.txt || die "plan prints no table when the ceiling is too low"

# A limit on the size of files.
status=0
(ulimit -f 100 && exec "$penstock" layout "$demo_gguf" limited) 2>err.txt || status=$?
[ $status -eq 1 ] || die "status $status under a limit on file sizes"
grep -q '^penstock: limited: ' err.txt || die "a limit on file sizes goes unsaid: $(cat err.txt)"
[ ! -e limited ] || die "a failed layout left a member behind"

# A full disk.
mkdir small
if mount -t tmpfs -o size=8M tmpfs small 2>/dev/null; then
    trap 'umount "$work/small"; rm -rf "$work"' EXIT
    fails 1 'space' "$penstock" layout "$demo_gguf" small/v
    [ "$(df --output=used small | tail -n 1)" -lt 8192 ] || die "a failed layout fills the disk"
else
    part_skip "a small file system cannot be mounted here (needs root)"
fi
if [ -e /dev/full ]; then
    status=0
    "$penstock" logits v --ids 1,2,3 --out /dev/full 2>err.txt || status=$?
    [ $status -eq 1 ] || die "status $status on a full device"
    grep -q '^penstock: /dev/full: ' err.txt || die "a full device goes unsaid: $(cat err.txt)"
    status=0
    "$penstock" run v -p 'Emma was' -n 8 --temp 0 >/dev/full 2>err.txt || status=$?
    [ $status -eq 1 ] || die "run: status $status on a full device"
    [ "$(grep -c '^penstock: standard output: ' err.txt)" -eq 1 ] ||
        die "run: not one sentence on a full device: $(cat err.txt)"
fi
