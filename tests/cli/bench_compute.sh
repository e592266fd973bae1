#!/usr/bin/env bash
# Measurements of arithmetic: what is printed adds up, and wrong shapes are refused.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
json '.prefill.tokens == 20 and .decode.tokens == 6 and (.decode.layers_by_reads | add) % 6 == 0 and .rounds == 2 and .threads == 1 and
    all(.prefill, .decode; .streamed_bytes == 0 and .tokens_per_s.least > 0 and
        .tokens_per_s.least <= .tokens_per_s.median and .tokens_per_s.median <= .tokens_per_s.most)' \
    "$penstock" bench decode v --prompt 20 --tokens 6 --repeat 2 --threads 1 --memory 200M --json
hash=$(jq -r .logits_hash out.txt)
json ".decode.streamed_bytes > 0 and .logits_hash == \"$hash\" and (.logits_hash | length) == 16" \
    "$penstock" bench decode v --prompt 20 --tokens 6 --repeat 1 --memory min --json
quiet "$penstock" bench decode v --prompt 20 --tokens 6 --repeat 1 --memory 200M
grep -q '^read  *nothing' out.txt || die "experts were read: $(cat out.txt)"
fails 1 'does not hold' "$penstock" bench decode v --prompt 20 --tokens 6 --ctx 25

json '.threads == 2 and .rows == 48 and .cols == 256 and .working_set_bytes == 1048576 and
    .machine.read_bytes_per_s > 0 and .machine.checksum_bytes_per_s > 0 and .machine.flops > 0 and (.other | length) == 0 and
    all(.matmul[]; .type == "Q8_0") and
    ([.matmul[] | select(.activations == "f32") | .level] | index("scalar")) == 0 and
    all(.matmul[].columns; [.[].columns] == [1, 4, 64, 512]) and
    all(.matmul[].columns[]; .bytes_per_s > 0 and .flops > 0) and
    all(.matmul[]; (.bound == null) == (.level == "scalar")) and
    all(.matmul[].bound | values; .cached_bytes_per_s > 0 and
        (.by | IN("memory", "instructions", "both")))' \
    env PENSTOCK_CPU=avx2 "$penstock" bench kernel --type Q8_0 --shape 48x256 --threads 2 \
    --working-set 1M --json
quiet env PENSTOCK_CPU=scalar "$penstock" bench kernel --type f32 --shape 3x32 --working-set 64K
grep -qE '^F32 +f32 +scalar +[0-9.]+ \(' out.txt || die "no row: $(cat out.txt)"
fails 2 'no kernels' "$penstock" bench kernel --type q9_9
fails 2 'ROWSxCOLUMNS' "$penstock" bench kernel --shape 4096
fails 2 'ROWSxCOLUMNS' "$penstock" bench kernel --shape 16x100
fails 2 'ROWSxCOLUMNS' "$penstock" bench kernel --shape 16x-32
