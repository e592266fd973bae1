#!/bin/bash
# Drives of different speed: `penstock probe` finds it, and a layout cuts by it without being told.
# rig probe: --nodes 2 --drives 2 --mem 2G --drive-size 64M --throttle-bps 0:40M --throttle-bps 1:10M
. "$(dirname "$0")/common.sh"
need jq

# cut_is LEAST MOST: drive 0 has so many times the data of drive 1.
cut_is()
{
    json "[.members[] | .data_end_bytes - .data_begin_bytes] | .[0] > $1 * .[1] and .[0] < $2 * .[1]" \
        "$penstock" info "${drive[0]}" --json
}

say "a layout that measures"
lay_out_measured "${drive[0]}" "${drive[1]}"
grep -E '^penstock: members: .* MB/s, .* MB/s: cut [0-9]+ : [0-9]+$' err.txt ||
    die "nothing said of the cut: $(cat err.txt)"
cut_is 3 5
gives_reference "cut by a measurement" "${drive[0]}"

say "a profile"
quiet "$penstock" probe "${drive[0]}" "${drive[1]}" --seconds 20 --out profile.json
cat out.txt
jq -e '[.members[].knee] | .[0].bytes_per_s > 3 * .[1].bytes_per_s and
    .[0].bytes_per_s < 5 * .[1].bytes_per_s and .[0].bytes_per_s < 46000000 and
    all(.[]; .request_bytes >= 65536 and .depth >= 1)' profile.json >/dev/null ||
    die "not 40 and 10 MB/s: $(jq -c '[.members[].knee]' profile.json)"
jq -e ".members[0].node == 0 and .members[1].node == 1 and .members[0].device == \"${drive[0]}\"" \
    profile.json >/dev/null || die "not where they are: $(jq -c '.members[] | .node' profile.json)"

say "a layout by the profile, its drives named the other way round"
identity=$("$penstock" info "${drive[0]}" --json | jq -r .uuid)
quiet "$penstock" layout "$demo_gguf" "${drive[1]}" "${drive[0]}" --profile profile.json \
    --destroy "penstock:$identity"
json '[.members[] | .data_end_bytes - .data_begin_bytes] | .[1] > 3 * .[0] and .[1] < 5 * .[0]' \
    "$penstock" info "${drive[0]}" --json

say "recorded in the volume"
quiet "$penstock" probe "${drive[1]}" --save --seconds 10
quiet "$penstock" info "${drive[0]}"
[ "$(grep -c 'its drive reads' out.txt)" -eq 2 ] || die "the volume does not tell: $(cat out.txt)"
gives_reference "with a record" "${drive[0]}"
