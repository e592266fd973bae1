#!/usr/bin/env bash
# Perplexity on text held out of the demo model's training, against the reference implementation's
# 87.4379 (F32 on the BF16 checkpoint, windows of 256; tools/demo/README.md): within 0.5 %.
. "$(dirname "$0")/common.sh"
need_jq

# near VOLUME: same windows as the reference, and its perplexity within 0.5 %.
near()
{
    json '.windows == 104 and .tokens_scored == 26520
          and .perplexity > 87.4379 * 0.995 and .perplexity < 87.4379 * 1.005' \
        "$penstock" perplexity "$1" --file "$demo_text" --json
}

quiet "$penstock" layout "$demo_gguf" q4
near q4
# Activations of 8 bits: within 1 % of those with floats.
head -c 16000 "$demo_text" >short.txt
f32=$("$penstock" perplexity q4 --file short.txt --json | jq .perplexity)
json ".perplexity > $f32 * 0.99 and .perplexity < $f32 * 1.01 and .perplexity != $f32" \
    "$penstock" perplexity q4 --file short.txt --activations q8 --json
if [ -d "$PENSTOCK_DEMO_HF" ]; then
    quiet "$penstock" layout "$PENSTOCK_DEMO_HF" bf16 --quant keep
    near bf16
    # Every encoder once; rows of 64 hold no blocks of 256.
    full=$("$penstock" perplexity bf16 --file short.txt --json | jq .perplexity)
    quiet "$penstock" layout "$PENSTOCK_DEMO_HF" k --json \
        --quant experts=q4_k,attention=q6_k,embeddings=q8_0,head=q4_0,shared=mxfp4,rest=q8_0
    "$penstock" layout "$PENSTOCK_DEMO_HF" x --quant experts=mxfp4,rest=q4_k | grep -q 'types: .*Q8_0 instead of Q4_K' ||
        die "layout does not say where a type did not fit"
    for volume in k x; do
        json ".perplexity > $full * 0.98 and .perplexity < $full * 1.03" \
            "$penstock" perplexity "$volume" --file short.txt --json
    done
else
    echo "SKIP: the BF16 checkpoint of the demo model is not there"
fi
