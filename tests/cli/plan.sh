#!/usr/bin/env bash
# penstock plan: presets without weights, a checkpoint beside its volume, forecasts that follow from what
# they are told, and one sentence for what cannot be understood.
. "$(dirname "$0")/common.sh"
need_jq

machine=cores=16,memory=200G,flops=1.5T
# Two drives of 7 GB/s and 64 GiB: bytes as published, and every cause in its direction.
json '.forecast.routed_bytes == 4246732800 and .fits and .forecast.hit_rate.low < .forecast.hit_rate.high
    and .forecast.decode_low.tokens_per_s < .forecast.decode.tokens_per_s
    and .forecast.decode.tokens_per_s < .forecast.decode_high.tokens_per_s
    and .forecast.decode.tokens_per_s < .forecast.decode_overlapped.tokens_per_s
    and .more.drive.decode.tokens_per_s > .forecast.decode.tokens_per_s
    and .more.memory.hit_rate.central > .forecast.hit_rate.central
    and .forecast.prefill.limit == "drives"' \
    "$penstock" plan QWEN3.5-397B --quant q4_k --memory 64G --drives 2x7.0G --machine $machine --json
# A window bounds what a token sees, and so the bytes and the time that keys and values take: a long context of which
# it leaves little costs what the short one does.
for options in '--ctx 200000' '--ctx 200000 --kv-window 252' '--ctx 512'; do
    read -ra words <<<"$options"
    quiet "$penstock" plan qwen3-next --memory 80G --machine $machine --prompt 512 --json "${words[@]}"
    jq -c '[.forecast | .resident_bytes, .decode.tokens_per_s]' out.txt
done >windows.txt
jq -se '.[1] == .[2] and .[0][0] > .[1][0] and .[0][1] < .[1][1]' windows.txt >/dev/null ||
    die "a window is not planned for: $(cat windows.txt)"
for window in 512 4096; do
    "$penstock" plan qwen3-next --memory 80G --machine $machine --prompt 100000 --ctx 100000 --kv-window $window --json
done | jq -se 'map(.forecast.prefill.tokens_per_s) | .[0] > .[1]' >/dev/null || die "a window speeds no prompt up"
# Everything in memory: nothing waits for drives, and none need be known.
json '.forecast.missed_bytes == 0 and .forecast.decode.waiting_share == 0 and .forecast.prefill.tokens_per_s > 0
    and .forecast.decode.limit != "drives" and (.more | has("drive") or has("memory") | not)' \
    "$penstock" plan olmoe --memory 64G --machine $machine --json
json '.forecast.decode == null and .forecast.routed_bytes > 0' \
    "$penstock" plan mixtral-8x22b --memory 40G --machine $machine --json
quiet "$penstock" plan mixtral-8x7b --memory 16G
grep -q 'machine probe' out.txt || die "no word of how to get tokens/s: $(cat out.txt)"

# The table is that of the machine that is described, as of so many threads.
for options in 'cores=64,memory=200G,flops=1.5T' 'cores=2,memory=200G,flops=1.5T --threads 64'; do
    read -ra words <<<"$options"
    "$penstock" plan olmoe --memory 16G --machine "${words[@]}" --json |
        jq -c '[.lines[] | select(.name == "work buffers")]'
done | uniq | wc -l | grep -qx 1 || die "another machine's table"

# A checkpoint's table is its volume's but for some hundred KiB of what a process holds.
quiet "$penstock" layout "$demo_gguf" v
"$penstock" plan v --memory 24M --ctx 512 --json >volume.json
"$penstock" plan "$demo_gguf" --memory 24M --ctx 512 --json >source.json
jq -e -n --slurpfile a volume.json --slurpfile b source.json '
    [$a[0], $b[0]] | map([.lines[1:4], .chunk_tokens]) | .[0] == .[1]' >/dev/null ||
    die "a checkpoint is planned otherwise than its volume: $(cat source.json)"
apart=$(jq -n --slurpfile a volume.json --slurpfile b source.json \
    '($a[0].floor_bytes - $b[0].floor_bytes) | if . < 0 then -. else . end')
((apart <= 2 << 20)) || die "the floors are $apart bytes apart"
# Measured here and now.
json '.machine.probed and .forecast.decode.tokens_per_s > 0 and (.drives | length) == 1 and
    (.miss_seconds | length) > 1 and all(.miss_seconds[]; . > 0 and . < 10) and
    .more.drive.decode.tokens_per_s >= .forecast.decode.tokens_per_s * 0.999' \
    "$penstock" plan v --memory 24M --ctx 512 --machine probe --routing uniform --json
json '.machine.probed and .miss_seconds == null and .drives[0].bytes_per_s == 2e9' \
    "$penstock" plan v --memory 24M --ctx 512 --machine probe --drives 2G --routing uniform --json

fails 1 'Mixtral-8x22B' "$penstock" plan gpt-oss
fails 1 'several' "$penstock" plan mixtral
fails 1 '--drives.*2x7.0G' "$penstock" plan olmoe --drives 7Q
fails 1 '--drives' "$penstock" plan olmoe --drives 65x1G
fails 1 '--drives' "$penstock" plan olmoe --drives ''
fails 1 '--machine.*cores=16' "$penstock" plan olmoe --machine cores=16
fails 1 '--machine' "$penstock" plan olmoe --machine cores=16,memory=200G,flops=1.5T,
fails 1 'not understood' "$penstock" plan olmoe --quant q5
fails 1 '--prompt: .*5000.*4096' "$penstock" plan olmoe --prompt 5000 --ctx 4096
fails 1 '--quant' "$penstock" plan v --quant q4_0
fails 1 'v: ' "$penstock" plan olmoe --trace v
fails 2 '--routing' "$penstock" plan v --routing zipf
fails 1 'MiB' "$penstock" plan qwen3-next --memory 1G
