#!/bin/bash
# A volume on the drives of several nodes gives what one node gives; what a drive holds comes into
# memory of its own node, and what a drive without a node holds belongs to none.
# rig numa2: --nodes 2 --drives 3 --cpus 2 --mem 2G --drive-size 64M
# rig numa4: --nodes 4 --drives 5 --cpus 4 --mem 3G --drive-size 64M
. "$(dirname "$0")/common.sh"
need jq numactl

nodes=$(find /sys/devices/system/node -maxdepth 1 -name 'node[0-9]*' | wc -l)
for number in "${!drive[@]}"; do
    node=$(cat "/sys/block/${drive[number]#/dev/}/device/numa_node")
    [ "$node" -eq $((number % nodes)) ] || die "drive $number is on node $node"
done

# placed: the plan gives every node what its drives hold, the kernel has the memory there while a
# run goes on, and the rest belongs to no node.
placed()
{
    local plan running node pages all
    all=$("$penstock" info "${drive[0]}" --json | jq .bytes.experts)
    plan=$("$penstock" plan "${drive[0]}" --json)
    jq -Mc '{members: [.members[] | [.node, .share]], nodes, floating_bytes}' <<<"$plan"
    jq -e --argjson all "$all" '
        def near($a; $b): ($a - $b | fabs) < 0.02;
        . as $plan | ([.nodes[].expert_bytes] | add) + .floating_bytes == $all and
        all(.nodes[]; .node as $n | near(.expert_bytes / $all;
            [$plan.members[] | select(.node == $n).share] | add + 0)) and
        near(.floating_bytes / $all; [.members[] | select(.node == null).share] | add + 0)' \
        <<<"$plan" >/dev/null || die "not in proportion: $plan"
    rm -f text
    "$penstock" run "${drive[0]}" -p 'Emma was' -n 4000 --temp 0 >text 2>err.txt </dev/null &
    running=$!
    wait_for "the first text" test -s text
    grep ' huge ' /proc/$running/numa_maps >huge || die "no hugepages in use: $(cat err.txt)"
    kill $running
    wait $running || true
    for ((node = 0; node < nodes; node++)); do
        # Pages of the mappings that are bound to the node: all of them are on it.
        pages=$(awk -v bound="bind:$node" -v here="N$node" '$2 == bound {
            for (i = 3; i <= NF; i++) {
                split($i, field, "=")
                if (field[1] == here) on += field[2]
                else if (field[1] ~ /^N[0-9]/) on -= 1000000
            }
        } END {print on + 0}' huge)
        jq -e --argjson n $node --argjson pages "$pages" \
            '.nodes[] | select(.node == $n) | .cache_bytes == $pages * 2097152' <<<"$plan" >/dev/null ||
            die "node $node: $pages hugepages are bound to it and on it: $(cat huge) $plan"
        say "node $node: $pages hugepages of the cache"
    done
}

say "$nodes nodes, ${#drive[@]} drives, of which the first and the last are on node 0"
lay_out "${drive[@]/%/=100}"
gives_reference "$nodes nodes" "${drive[0]}"
gives_logits "$nodes nodes, least memory" "${drive[0]}" --memory min
gives_logits "$nodes nodes, page cache" "${drive[1]}" --io pagecache
quiet numactl --cpunodebind=0 --membind=0 "$penstock" logits "${drive[0]}" --ids 69,1017,331 \
    --out logits.f32
same logits.f32 "$reference/logits.f32" "all on node 0"
placed

say "drive 1 is three times as fast"
rest=("${drive[@]:2}")
lay_out "${drive[0]}=100" "${drive[1]}=300" "${rest[@]/%/=100}"
gives_logits "unequal drives" "${drive[0]}"
placed

say "drive 1 tells no node"
pci=$(pci_of "${drive[1]}")
printf '%s' "$pci" >/sys/bus/pci/drivers/nvme/unbind
printf '%s' -1 >"/sys/bus/pci/devices/$pci/numa_node"
printf '%s' "$pci" >/sys/bus/pci/drivers/nvme/bind
wait_for "drive 1" grep -qs 'rig1 ' /sys/block/nvme*n1/device/serial
drives_find
wait_for "the node of drive 1" test -b "${drive[1]}"
"$penstock" plan "${drive[0]}" --json | jq -e '[.members[] | select(.node == null)] | length == 1' \
    >/dev/null || test_skip "this kernel gives every drive a node"
gives_logits "a drive without a node" "${drive[0]}"
placed
