#!/bin/bash
# `penstock drives` and `probe` on real NVMe drives: what is told of each, and what they hold.
# rig drives: --nodes 2 --drives 3 --mem 2G --drive-size 256M
. "$(dirname "$0")/common.sh"
need jq sgdisk mkfs.ext4
need_modules ext4

# holds FILTER: the list, as JSON, is as the filter says.
holds()
{
    json "$1" "$penstock" drives --json
}

say "${#drive[@]} drives"
holds "length == ${#drive[@]}"
for block in "${drive[@]}"; do
    name=${block#/dev/}
    # Above a drive is its controller, or a subsystem with its controllers below.
    above=/sys/block/$name/device
    controller=$(basename "$(realpath "$above")")
    [ -e "/sys/class/nvme/$controller" ] ||
        controller=$(find "$above/" -maxdepth 1 -regex '.*/nvme[0-9]+' -printf '%f\n' -quit)
    holds "any(.[]; .device == \"$block\" and .transport == \"pcie\" and .member == null and
        .use == null and .bytes == $(blockdev --getsize64 "$block") and
        .block_bytes == $(blockdev --getss "$block") and
        .transfer_bytes_max == 1024 * $(cat "/sys/block/$name/queue/max_hw_sectors_kb") and
        .controller == \"$controller\" and
        .serial == \"$(tr -d ' ' <"/sys/class/nvme/$controller/serial")\" and
        .node == $(cat "/sys/class/nvme/$controller/numa_node") and
        .health.temperature_c > 0 and .health.media_errors == 0 and .partitions == [])"
done

say "a partition for a member, one that is mounted, and a whole drive"
partition "${drive[0]}" +64M
quiet sgdisk --new=2:0:+64M --typecode=2:8300 "${drive[0]}"
blockdev --rereadpt "${drive[0]}" 2>/dev/null || true
wait_for "the second partition" test -b "${drive[0]}p2"
holds "any(.[].partitions[]; .device == \"${drive[0]}p1\" and .for_penstock and .member == null)"
quiet mkfs.ext4 -q "${drive[0]}p2"
mkdir mounted
mount "${drive[0]}p2" mounted
lay_out "${drive[1]}" "${drive[0]}p1"
uuid=$("$penstock" info "${drive[1]}" --json | jq -r .uuid)
holds "any(.[]; .device == \"${drive[0]}\" and
    [.partitions[].device] == [\"${drive[0]}p1\", \"${drive[0]}p2\"] and
    (.partitions[0] | .for_penstock and .use == null and .member.uuid == \"$uuid\" and
        .member.number == 2 and .member.count == 2 and .member.state == \"complete\") and
    (.partitions[1] | (.for_penstock | not) and .member == null and
        .use == \"mounted at $PWD/mounted\"))"
holds "any(.[]; .device == \"${drive[1]}\" and .member.number == 1 and .use == null)"

say "while a process reads it"
"$penstock" run "${drive[1]}" -p 'Emma was' -n 100000 --temp 1 --seed 1 >/dev/null 2>&1 </dev/null &
running=$!
is_open()
{
    "$penstock" drives --json |
        jq -e "any(.[]; .use == \"open in process $running (penstock)\")" >/dev/null
}
wait_for "the use by process $running" is_open
"$penstock" drives
kill $running
wait $running || true
umount mounted
