#!/usr/bin/env bash
# The list of drives, on a machine that may have none; the rig looks at its content.
. "$(dirname "$0")/common.sh"
need_jq

json 'type == "array" and all(.[]; (.device | startswith("/dev/")) and .bytes >= 0 and
    (.partitions | type) == "array" and has("health") and has("use") and has("member"))' \
    "$penstock" drives --json
count=$(jq length out.txt)
quiet "$penstock" drives
if [ "$count" -eq 0 ]; then
    grep -q '^There is no NVMe drive' out.txt || die "no drive, and not a word: $(cat out.txt)"
    [ "$(wc -l <out.txt)" -eq 1 ] || die "more than one sentence: $(cat out.txt)"
else
    grep -q '^device ' out.txt || die "no table: $(cat out.txt)"
fi
fails 2 'no arguments' "$penstock" drives /dev/nvme0n1
