#!/bin/bash
# A volume on the drives of several nodes gives what one node gives, with memory on all of them.
# rig numa2: --nodes 2 --drives 2 --cpus 2 --mem 2G --drive-size 64M
# rig numa4: --nodes 4 --drives 4 --cpus 4 --mem 3G --drive-size 64M
. "$(dirname "$0")/common.sh"
need jq numactl

nodes=$(find /sys/devices/system/node -maxdepth 1 -name 'node[0-9]*' | wc -l)
for number in "${!drive[@]}"; do
    node=$(cat "/sys/block/${drive[number]#/dev/}/device/numa_node")
    [ "$node" -eq $((number % nodes)) ] || die "drive $number is on node $node"
done

say "$nodes nodes, ${#drive[@]} drives"
lay_out "${drive[@]}"
gives_reference "$nodes nodes" "${drive[0]}"
gives_reference "$nodes nodes, least memory" "${drive[0]}" --memory min
gives_reference "$nodes nodes, page cache" "${drive[1]}" --io pagecache
quiet numactl --cpunodebind=0 --membind=0 "$penstock" logits "${drive[0]}" --ids 69,1017,331 \
    --out logits.f32
same logits.f32 "$reference/logits.f32" "all on node 0"

say "memory while it runs"
"$penstock" run "${drive[0]}" -p 'Emma was' -n 400 --temp 0 >text 2>err.txt </dev/null &
running=$!
wait_for "the first text" [ -s text ]
cp /proc/$running/numa_maps numa_maps
kill $running
wait $running || true
grep ' huge ' numa_maps >huge || die "no hugepages in use: $(cat err.txt)"
nodes_used=0
for ((node = 0; node < nodes; node++)); do
    pages=$(tr ' ' '\n' <huge | awk -F= -v node="N$node" '$1 == node {sum += $2} END {print sum + 0}')
    say "node $node: $pages hugepages"
    [ "$pages" -eq 0 ] || nodes_used=$((nodes_used + 1))
done
[ $nodes_used -ge 2 ] || die "all hugepages on one node: $(cat huge)"
