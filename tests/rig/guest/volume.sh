#!/bin/bash
# A volume on drives and partitions holds and gives the bytes that it has on a plain file, under
# whatever numbers the drives come up.
# rig volume: --drives 4 --nodes 2 --mem 2G --drive-size 256M
. "$(dirname "$0")/common.sh"
need jq sgdisk

say "one whole drive"
lay_out "${drive[1]}"
read -r begin end < <("$penstock" info "$reference/volume" --json |
    jq -r '.members[0] | "\(.data_begin_bytes) \(.data_end_bytes)"')
json ".members[0].kind != \"file\" and .members[0].data_begin_bytes == $begin
      and .members[0].data_end_bytes == $end" "$penstock" info "${drive[1]}" --json
cmp -i "$begin" -n $((end - begin)) "$reference/volume" "${drive[1]}" ||
    die "the data of a drive and of a file differ"
quiet "$penstock" verify "${drive[1]}"

engines=(uring pread)
if "$penstock" help run | grep -q passthru; then engines+=(passthru); fi
for engine in "${engines[@]}"; do
    gives_reference "one drive, $engine" "${drive[1]}" --io "$engine"
done

say "a partition, a drive, another partition; drive 2 has none of it"
partition "${drive[0]}" +64M +64M
partition "${drive[3]}" +32M 0
members=("${drive[0]}p2" "${drive[1]}" "${drive[3]}p1")
lay_out "${members[@]}"
json '.members | length == 3' "$penstock" info "${members[2]}" --json
json '.good' "$penstock" verify "${members[0]}" --json
for engine in "${engines[@]}"; do
    gives_reference "three members, $engine" "${members[2]}" --io "$engine" --memory min
    jq -e ".io.engine == \"$engine\"" stats.json >/dev/null ||
        die "$engine did not read: $(jq -c .io stats.json)"
done
fails 1 "${drive[2]}" "$penstock" info "${drive[2]}"

say "the drives in another order"
before=("${drive[@]}")
addresses=()
for number in 0 1 2 3; do addresses[number]=$(pci_of "${drive[number]}"); done
for number in 0 1 2 3; do
    printf '%s' "${addresses[number]}" >/sys/bus/pci/drivers/nvme/unbind
done
# Numbers are given in the order of binding; the boot may have given them in any.
mapfile -t order < <(for number in 0 1 2 3; do echo "${before[number]} $number"; done | sort -r | cut -d' ' -f2)
for number in "${order[@]}"; do
    printf '%s' "${addresses[number]}" >/sys/bus/pci/drivers/nvme/bind
    wait_for "drive $number" grep -qs "rig$number " /sys/class/nvme/nvme*/serial
done
wait_for "four namespaces" [ -b /dev/nvme0n1 -a -b /dev/nvme1n1 -a -b /dev/nvme2n1 -a -b /dev/nvme3n1 ]
drives_find
[ "${before[*]}" != "${drive[*]}" ] || die "the drives kept their numbers: ${drive[*]}"
wait_for "partitions" [ -b "${drive[0]}p2" -a -b "${drive[3]}p1" ]
for member in "${drive[0]}p2" "${drive[1]}" "${drive[3]}p1"; do
    json '.members | length == 3' "$penstock" info "$member" --json
done
gives_reference "renumbered" "$member"

say "a drive is missing"
printf '1' >"/sys/bus/pci/devices/${addresses[1]}/remove"
fails 1 'member 2 of 3 .*missing' "$penstock" run "${drive[0]}p2" -p x -n 1
