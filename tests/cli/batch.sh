#!/usr/bin/env bash
# A batch gives every prompt the text that penstock run gives it alone, however many run together, and
# however often it is killed; it refuses bad input before it begins and files that are not its own.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
for i in 0 1 2 3 4 5 6; do
    jq -cn --argjson i "$i" '{prompt: ("Once upon a time, " + ("and again " * $i) + "the"), id: "p\($i)",
        max_tokens: (60 + 25 * ($i % 3)), temperature: (if $i % 2 == 0 then 0.9 else 0 end), seed: (7 * $i)}'
done >in.jsonl
{
    printf '\n'
    jq -cn '{messages: [{role: "user", content: "Who are you?"}], enable_thinking: true, max_tokens: 9, temperature: 0}'
    jq -cn '{custom_id: 8, method: "POST", body: {model: "demo", prompt: "It was", max_tokens: 40, temperature: 0, stop: [" a", "."]}}'
} >>in.jsonl

# one INDEX ARGS...: the answer of this index is what run prints.
one()
{
    "$penstock" run v "${@:2}" --json 2>/dev/null | jq -j .text >want.txt
    jq -j "select(.index == $1).text" p4.jsonl >got.txt
    same got.txt want.txt "answer $1 and penstock run ${*:2}"
}

quiet "$penstock" batch v --in in.jsonl --out p4.jsonl --parallel 4 --memory min --stats s.json
jq -e '.batch | .answered == 9 and .parallel == 4 and .answer_tokens > 400' s.json >/dev/null ||
    die "statistics: $(cat s.json)"
jq -e '.memory | .peak_bytes <= .budget_bytes' s.json >/dev/null || die "above the ceiling: $(cat s.json)"
for i in 0 1 2 3 4 5 6; do
    mapfile -t args < <(jq -r "select(.id == \"p$i\") | .prompt, .max_tokens, .temperature, .seed" in.jsonl)
    one "$i" -p "${args[0]}" -n "${args[1]}" --temp "${args[2]}" --seed "${args[3]}"
done
one 7 -p 'Who are you?' --chat -n 9 --temp 0
jq -se 'map(select(.id == 8)) | .[0] | .finish_reason == "stop" and (.text | test(" a|\\.") | not)' p4.jsonl \
    >/dev/null || die "a text that should end an answer is in it"
jq -se 'map(.index) | sort == [range(9)]' p4.jsonl >/dev/null || die "not one answer each"
jq -se 'all(.[]; .usage.total_tokens == .usage.prompt_tokens + .usage.completion_tokens)' p4.jsonl >/dev/null ||
    die "token counts"

# Killed again and again, one sequence at a time and several, with a torn line among it.
sort p4.jsonl >want.sorted
: >killed.jsonl
for parallel in 1 3 1 3; do
    lines=$(wc -l <killed.jsonl)
    "$penstock" batch v --in in.jsonl --out killed.jsonl --parallel "$parallel" 2>/dev/null &
    pid=$!
    for _ in $(seq 500); do
        [ "$(wc -l <killed.jsonl)" -gt "$lines" ] && break
        sleep 0.01
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    printf '{"index": 3, "fing' >>killed.jsonl
done
quiet "$penstock" batch v --in in.jsonl --out killed.jsonl --parallel 2
sort killed.jsonl | cmp - want.sorted || die "other answers after kills"
quiet "$penstock" batch v --in in.jsonl --out killed.jsonl
grep -q 'nothing is left' err.txt || die "it began again: $(cat err.txt)"

# A signal stops it cleanly; what was answered stays.
jq -cn 'range(64) | {prompt: "Emma was \(.)", max_tokens: 100000, temperature: 0}' >long.jsonl
status=0
timeout --signal=TERM --preserve-status 0.7 "$penstock" batch v --in long.jsonl --out long.out \
    2>err.txt || status=$?
[ "$status" -eq 143 ] || die "status $status after SIGTERM: $(cat err.txt)"

# Answers of something else are refused and left alone.
printf 'precious\n' >other.txt
fails 1 'line 1 is not an answer' "$penstock" batch v --in in.jsonl --out other.txt
[ "$(cat other.txt)" = precious ] || die "it wrote to a file that is not its own"
printf 'precious' >other.txt
fails 1 'line 1 is not an answer' "$penstock" batch v --in in.jsonl --out other.txt
[ "$(cat other.txt)" = precious ] || die "it cut a file that is not its own"
for text in '\0\0\0' '\0\n' '\0'; do
    printf '%b' "$text" >other.txt
    cp other.txt zeroes
    fails 1 'line 1 is not an answer' "$penstock" batch v --in in.jsonl --out other.txt
    same other.txt zeroes "zeroes that no batch has written"
done
truncate -s 8G other.txt
fails 1 'line 1 is not an answer' "$penstock" batch v --in in.jsonl --out other.txt
rm other.txt
# Behind an answer they are what a lost power supply leaves.
cp p4.jsonl cut.jsonl
printf '\0\0\0\0' >>cut.jsonl
quiet "$penstock" batch v --in in.jsonl --out cut.jsonl
same cut.jsonl p4.jsonl "answers without zeroes behind them"
cp p4.jsonl before.jsonl
fails 1 'is not an answer' "$penstock" batch v --in in.jsonl --out p4.jsonl --temp 0.5
for option in '--activations f32' '--kv q8_0' '--kv-window 5' '--ctx 1000'; do
    read -ra words <<<"$option"
    fails 1 'is not an answer.*begun with' "$penstock" batch v --in in.jsonl --out p4.jsonl "${words[@]}"
done
fails 1 'is not an answer' "$penstock" batch v --in long.jsonl --out p4.jsonl
fails 1 'member of a volume' "$penstock" batch v --in in.jsonl --out v
# One file for two: refused before anything is written.
ln -s . here
fails 1 'new: --out and --stats are the same file' "$penstock" batch v --in in.jsonl --out here/new --stats ./new
fails 1 '--out and --stats are the same' "$penstock" batch v --in in.jsonl --out p4.jsonl --stats "$PWD/p4.jsonl"
fails 1 '--in and --stats are the same' "$penstock" batch v --in in.jsonl --out new --stats in.jsonl
fails 1 '--in and --out are the same' "$penstock" batch v --in in.jsonl --out in.jsonl
[ ! -e new ] || die "a refused batch made a file"
same p4.jsonl before.jsonl "answers before and after a refusal"
# Defaults that are spelt out are the same options; other weights of the same name and types are another model.
quiet "$penstock" batch v --in in.jsonl --out p4.jsonl --kv f16 --activations q8 --experts-used 4
grep -q 'nothing is left' err.txt || die "the same options are not the same: $(cat err.txt)"
cp "$demo_gguf" other.gguf
chmod u+w other.gguf
printf '\377' | dd of=other.gguf bs=1 seek=$(($(stat -c %s other.gguf) - 4000)) conv=notrunc status=none
quiet "$penstock" layout other.gguf w
fails 1 'is not an answer' "$penstock" batch w --in in.jsonl --out p4.jsonl
if command -v flock >/dev/null; then
    # shellcheck disable=SC2094  # refused before it is read
    (flock 9 && fails 1 'another batch' "$penstock" batch v --in in.jsonl --out p4.jsonl) 9<p4.jsonl
fi

# More requests at the end of the input are answered alone.
cp in.jsonl more.jsonl
printf '{"prompt": "They", "max_tokens": 3}\n' >>more.jsonl
quiet "$penstock" batch v --in more.jsonl --out p4.jsonl
head -n 9 p4.jsonl | cmp - before.jsonl || die "old answers changed"
[ "$(wc -l <p4.jsonl)" -eq 10 ] || die "not one answer more"

# Bad lines are named before anything is computed; a prompt that no context holds is answered.
bad()
{
    printf '%s\n' "$1" >bad.jsonl
    rm -f bad.out
    fails 1 "$2" "$penstock" batch v --in bad.jsonl --out bad.out
    [ ! -e bad.out ] || die "an output for bad input: $1"
}
good='{"prompt": "x"}'
bad "$good
{" 'line 2: not JSON'
bad '[1]' 'line 1: not a JSON object'
bad '{"prompt": "x", "temprature": 1}' 'line 1: "temprature" is not supported'
bad '{"prompt": "x", "n": 2}' '"n" is not supported'
bad '{"prompt": "x", "temperature": -1}' 'temperature'
bad '{"prompt": "x", "max_tokens": 0.5}' 'max_tokens'
bad '{"prompt": "x", "stop": [1]}' 'stop'
bad '{"prompt": ""}' 'empty'
bad '{"prompt": [1, 99999999]}' 'token ids below'
for prompt in null 5 '{}' true; do
    bad "{\"prompt\": $prompt}" 'neither a text nor a list of token ids'
done
bad '{"prompt": []}' 'empty'
bad '{"prompt": "x", "max_tokens": 0}' 'whole number from 1 to 4294967295'
bad '{"prompt": "x", "min_p": 2}' '"min_p" is not a number from 0 to 1'
bad '{"prompt": "x", "messages": []}' 'either'
bad '{"messages": 7}' 'line 1'
bad '{"id": [], "prompt": "x"}' '"id"'
bad "{}
$good
[]
7" 'line 1: .*2 more lines are bad: 3, 4'
bad '' 'no requests'
fails 1 'plain file' "$penstock" batch v --in /dev/null --out bad.out
fails 1 'cannot read' "$penstock" batch v --in nothing --out bad.out
fails 2 '--in and --out' "$penstock" batch v --in in.jsonl
fails 2 'parallel' "$penstock" batch v --in in.jsonl --out o --parallel 0
printf '%s\n' '{"prompt": "one two three four five six seven eight nine ten", "id": 1}' \
    '{"prompt": "x", "max_tokens": 2}' '{"prompt": "y"}' >tight.jsonl
quiet "$penstock" batch v --in tight.jsonl --out tight.out --ctx 8 --temp 0
jq -se 'map(select(.index == 0))[0] | .id == 1 and .error.code == "context_length_exceeded"' tight.out >/dev/null ||
    die "no error entry: $(cat tight.out)"
jq -se 'length == 3 and (map(select(.index == 2))[0] | .finish_reason == "length" and .usage.total_tokens == 9)' \
    tight.out >/dev/null || die "the context's end: $(cat tight.out)"
