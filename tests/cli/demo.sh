#!/usr/bin/env bash
# Every command once on the demo model, as a user would, and its JSON.
. "$(dirname "$0")/common.sh"
need_jq

json '.bytes > 19e6 and .tensors_used > 90 and .has_tokenizer' \
    "$penstock" layout "$demo_gguf" v --json
json '.model.architecture == "qwen3_5_moe" and .model.layers == 8 and .model.vocabulary == 4096
      and .experts.per_layer == 64 and .experts.per_token == 4 and .members[0].kind == "file"
      and .bytes.per_token_uncached == 8 * 4 * .experts.bytes
      and .bytes.experts == 8 * 64 * .experts.bytes' "$penstock" info v --json
quiet "$penstock" info v
json '.good and .slices_checked >= 512 and (.bad | length) == 0' "$penstock" verify v --json
quiet "$penstock" verify v
json '.fits and .floor_bytes <= .budget_bytes and ([.lines[].floor_bytes] | add) == .floor_bytes' \
    "$penstock" plan v --memory 200M --json
quiet "$penstock" plan v

# Text, both ways, special tokens included.
printf 'Emma Woodhouse, handsome, clever, and rich\n<|im_start|>user\n\xe2\x80\x94 \xc3\xa9t\xc3\xa9' >text
"$penstock" tokenize v <text >ids.json
jq -e 'length > 8 and all(. >= 0 and . < 4096)' ids.json >/dev/null || die "ids: $(cat ids.json)"
"$penstock" tokenize v --decode <ids.json >back
same text back "tokenize and back"
: | "$penstock" tokenize v >out.txt
jq -e '. == []' out.txt >/dev/null || die "no text is no ids"

# Generation: text on standard output alone, greedy is repeatable, sampling by its seed.
"$penstock" run v -p 'Emma was' -n 24 --temp 0 --stats stats.json >a.txt 2>err.txt
"$penstock" run v -p 'Emma was' -n 24 --temp 0 >b.txt 2>/dev/null
same a.txt b.txt "two greedy runs"
[ -s a.txt ] || die "no text"
grep -q 'tokens/s' err.txt || die "no statistics"
jq -e '.prefill.tokens > 0 and .prefill.tokens_per_s > 0 and .decode.tokens > 0
       and .decode.tokens_per_s > 0 and (.io.engine | length) > 0 and .io.read_bytes > 0
       and .cache.hits >= 0 and .cache.misses > 0 and .memory.peak_bytes > 0
       and .memory.hugepage_bytes >= 0 and .memory.budget_bytes >= .memory.peak_bytes
       and .generated_tokens <= 24' stats.json >/dev/null || die "statistics: $(cat stats.json)"
printf 'Emma was' | "$penstock" run v -p - -n 24 --temp 0 >b.txt 2>/dev/null
same a.txt b.txt "a prompt on standard input"
"$penstock" run v -p 'Emma was' -n 24 --temp 0.9 --seed 7 >c.txt 2>/dev/null
"$penstock" run v -p 'Emma was' -n 24 --temp 0.9 --seed 7 >d.txt 2>/dev/null
"$penstock" run v -p 'Emma was' -n 24 --temp 0.9 --seed 8 >e.txt 2>/dev/null
same c.txt d.txt "one seed"
if cmp -s c.txt e.txt; then die "two seeds give the same text"; fi
"$penstock" run v -p 'Emma was' -n 2 --temp 0.9 >/dev/null 2>err.txt
grep -qE '^seed [0-9]+$' err.txt || die "a random seed is not printed"
json '(.text | length) > 0 and (.ids | length) == .stats.generated_tokens' \
    "$penstock" run v -p 'Emma was' -n 24 --temp 0 --json
jq -j .text out.txt >b.txt
same a.txt b.txt "the text in JSON"
jq -c .ids out.txt >continuation.json
printf 'Emma was' | "$penstock" tokenize v >prompt.json
json ".ids == $(cat continuation.json)" \
    "$penstock" run v --ids "$(cat prompt.json)" -n 24 --temp 0 --json
quiet "$penstock" run v -p 'Who are you?' --chat --no-think --system 'Be brief.' -n 8
"$penstock" run v -p 'Emma was' -n 8 --temp 0 --experts-used 2 >/dev/null 2>err.txt
grep -q 'changes the output' err.txt || die "--experts-used goes unsaid"

# Logits: V floats per token, prompt and decode agree in shape.
quiet "$penstock" logits v --ids 5,6,7 --out prompt.f32
[ "$(stat -c %s prompt.f32)" -eq $((3 * 4096 * 4)) ] || die "size of the logits"
quiet "$penstock" logits v --ids 5,6,7 --decode --out decode.f32
[ "$(stat -c %s decode.f32)" -eq $((3 * 4096 * 4)) ] || die "size of the logits of --decode"
"$penstock" logits v --ids 5,6,7 --out /dev/stdout 2>/dev/null | cmp - prompt.f32 ||
    die "logits through a pipe"
echo '[5, 6, 7]' | "$penstock" logits v --ids - --out stdin.f32 2>/dev/null
same stdin.f32 prompt.f32 "ids on standard input"

head -c 6000 "$demo_text" >some.txt
json '.perplexity > 20 and .perplexity < 300 and .windows >= 4
      and .tokens_scored == .windows * 255' "$penstock" perplexity v --file some.txt --json
quiet "$penstock" perplexity v --file some.txt --ctx 64

# A closed pipe is an error, not a silent death.
echo 0 >status.txt
{ "$penstock" run v -p 'Emma was' -n 200 --temp 0 2>err.txt || echo $? >status.txt; } |
    head -c 10 >/dev/null
[ "$(cat status.txt)" -eq 1 ] || die "status $(cat status.txt) on a closed pipe"
grep -q '^penstock: standard output: ' err.txt || die "a closed pipe goes unsaid"

# So is a closed standard output, where there is something to print.
status=0
"$penstock" info v >&- 2>err.txt || status=$?
[ $status -eq 1 ] || die "info: status $status without a standard output"
"$penstock" logits v --ids 1 --out one.f32 >&- 2>err.txt || die "logits: $(cat err.txt)"

# Without a tokenizer ids go in and out; what takes text says why it cannot.
json '.has_tokenizer == false' \
    "$penstock" layout "$PENSTOCK_GOLDEN/qwen3moe-odd" ids --quant keep --json
json '.text == "" and .ids == [30, 34, 39, 36, 39, 50, 25, 3, 49, 29, 49, 43]' \
    "$penstock" run ids --ids 13,35,13,24,30,11 -n 12 --temp 0 --json
"$penstock" run ids --ids 13,35,13 -n 2 --temp 0 >text 2>notes
[ ! -s text ] || die "text without a tokenizer: $(cat text)"
grep -q 'json prints the ids' notes || die "no word about text that cannot be printed"
fails 1 'without a tokenizer' "$penstock" run ids -p x
fails 1 'without a tokenizer' "$penstock" tokenize ids

quiet "$penstock" wipe v
[ ! -e v ] || die "wipe leaves the file"
