#!/usr/bin/env bash
# What a quantisation costs: nothing against itself, something with rounded activations, and never
# against a model with another vocabulary.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" q4
json '.perplexity_ratio == {mean: 1.0, error: 0.0} and .same_top == {share: 1.0, error: 0.0} and
    .kl_divergence.mean == 0 and .kl_divergence.max == 0 and .reference == .volume and
    .tokens_scored == 93 and .windows == 3 and .ctx == 32' \
    "$penstock" quality q4 --against q4 --file "$demo_text" --ctx 32 --tokens 100 --json
head -c 300 "$demo_text" >short.txt
json '.reference != .volume and .kl_divergence.mean > 0 and
    .kl_divergence.median <= .kl_divergence.p99 and .kl_divergence.p99 <= .kl_divergence.max' \
    "$penstock" quality q4 --against q4 --file short.txt --ctx 32 --activations q8 --json
perplexity=$(jq .reference.perplexity out.txt)
json ".perplexity == $perplexity" "$penstock" perplexity q4 --file short.txt --ctx 32 --json
quiet "$penstock" quality q4 --against q4 --file short.txt --ctx 32
grep -qE '^same likeliest +100.00 %' out.txt || die "no agreement with itself: $(cat out.txt)"
grep -q 'take .* meanwhile' err.txt || die "the temporary file is not said: $(cat err.txt)"

if [ -d "$PENSTOCK_DEMO_HF" ]; then
    quiet "$penstock" layout "$PENSTOCK_DEMO_HF" bf16 --quant keep
    json '.same_top.share > 0.9 and .same_top.share < 1 and .kl_divergence.mean > 0 and
        .kl_divergence.mean < 0.01 and .perplexity_ratio.mean > 0.97 and
        .perplexity_ratio.mean < 1.03' \
        "$penstock" quality q4 --against bf16 --file "$demo_text" --tokens 1024 --json
else
    part_skip "the BF16 checkpoint of the demo model is not there"
fi
if [ -f "$PENSTOCK_GOLDEN/qwen3moe/config.json" ]; then
    quiet "$penstock" layout "$PENSTOCK_GOLDEN/qwen3moe" other
    fails 1 'another vocabulary|no tokenizer|without a tokenizer' "$penstock" quality other \
        --against q4 --file short.txt --ctx 32
fi
fails 1 'fewer than one window' "$penstock" quality q4 --against q4 --file short.txt
fails 1 'nowhere' "$penstock" quality q4 --against nowhere --file short.txt
fails 1 'temporary file' env TMPDIR=/nowhere "$penstock" quality q4 --against q4 --file short.txt \
    --ctx 32
fails 2 '--against and --file' "$penstock" quality q4 --file short.txt
