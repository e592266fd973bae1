#!/usr/bin/env bash
# Traces: recorded with the same result however the text is cut into passes, imported from three forms of
# text to the same bytes, and refused with the line where those are wrong.
. "$(dirname "$0")/common.sh"
need_jq

# ---- recorded
quiet "$penstock" layout "$demo_gguf" demo
head -c 700 "$demo_text" >text
json '.layers == 8 and .experts_used == 4 and .tokens > 120 and (.gate | length) == 4
      and (.gate | map(.recall_2k > .recall_k and .recall_k > 0.3) | all)
      and .gate[1].recall_2k > 0.8' \
    "$penstock" trace demo --file text --ctx 100 --out whole --json
quiet "$penstock" trace demo --file text --ctx 100 --out single --chunk 1 --memory min
same whole single "one token at a time"
head -c 40 text | "$penstock" trace demo --file - --out short --tokens 3 --hidden --json >short.json ||
    die "no trace of three tokens"
# 8 layers: 3 tokens of 8 + 4 * (6 + 3 * 64 * 4) and 256 inputs each, one block.
[ "$(stat -c %s short)" -eq $((192 + 8 * 16 + 3 * (8 + 8 * (4 * 6 + 3 * 64 * 4 + 256 * 2)) + 8)) ] ||
    die "a trace has another size than docs/trace.md says"
json '.tokens == 3' cat short.json
quiet "$penstock" trace demo --file text --tokens 3 --ranks 0 --out bare
[ "$(stat -c %s bare)" -eq $((192 + 8 * 16 + 3 * (8 + 8 * 4 * 6) + 8)) ] || die "a bare trace is not bare"
# To a pipe: the same bytes, whose number is told, and nothing between them.
"$penstock" trace demo --file text --tokens 3 --ranks 0 --out - --json 2>said.json | cmp - bare || die "another trace in a pipe"
jq -e ".bytes == $(stat -c %s bare)" said.json >/dev/null || die "another number of bytes: $(cat said.json)"
# By its ids: the same, of a volume without a tokenizer too.
"$penstock" tokenize demo <text >ids
quiet "$penstock" trace demo --ids ids --ctx 100 --out by_ids
same whole by_ids "ids in place of the text"
echo 1,2,99999999 >beyond
fails 1 '99999999' "$penstock" trace demo --ids beyond --out x
fails 1 '--ids and --out are the same' "$penstock" trace demo --ids ids --out ./ids
fails 2 'one text' "$penstock" trace demo --ids ids --file text --out x
fails 2 'neither' "$penstock" trace --import text --ids ids --out x
: >empty
fails 1 'no tokens' "$penstock" trace demo --file empty --out x
fails 1 'cannot' "$penstock" trace demo --file text --out nowhere/x
fails 1 '--file and --out are the same' "$penstock" trace demo --file text --out ./text
fails 1 '--import and --out are the same' "$penstock" trace --import text --out text
fails 2 'out' "$penstock" trace demo --file text
fails 2 'name a VOLUME' "$penstock" trace --file text --out x
fails 2 'neither' "$penstock" trace demo --import text --out x
for option in --hidden '--ranks 2' '--tokens 5' '--memory 1G' '--threads 1' '--activations q8'; do
    read -ra words <<<"$option"
    fails 2 'no options of recording' "$penstock" trace --import text --out x "${words[@]}"
done
fails 2 'go with' "$penstock" trace demo --file text --out x --format csv
fails 2 'none of' "$penstock" trace --import text --out x --format xml
[ ! -e x ] || die "a failed trace leaves a file"

# ---- imported: the same two tokens in three forms
cat >pairs.jsonl <<'END'
[[1, 5], [1, 3], [3, 0], [3, 7]]
[[1, 2], [3, 7], [3, 1]]
END
cat >route.csv <<'END'
# route_trace v1
# model=/somewhere/model.gguf n_layer=4 n_expert=8 n_expert_used=2
# layer=1 expert_bytes=4096 dense_bytes=7
turn,phase,step,layer,slot,expert,residency
0,0,0,1,1,3,0
0,0,0,1,0,5,0
0,1,0,1,0,2,0
0,0,0,3,0,0,0
0,0,0,3,1,7,0
0,1,0,3,0,7,0
0,1,0,3,1,1,0
END
json '.tokens == 2 and .layers == 2 and .experts == 8 and .experts_used == 2 and (.weights | not)' \
    "$penstock" trace --import pairs.jsonl --out pairs --model model.gguf --json
json '.tokens == 2 and .model == "model.gguf"' "$penstock" trace --import route.csv --out csv --json
# Only the bytes of the first layer's experts differ, and so the checksums.
for at in 0,184 192,8 224,1; do
    cmp <(tail -c +$((${at%,*} + 1)) pairs | head -c "${at#*,}") \
        <(tail -c +$((${at%,*} + 1)) csv | head -c "${at#*,}") || die "pairs and csv differ at $at"
done
[ "$(tail -c 40 csv | head -c 32 | od -A n -v -t u2 -w16 | tr -s ' ')" = \
    "$(printf ' 65535 65535 1 0 5 3 0 7\n 65535 65535 0 0 2 65535 7 1')" ] || die "other experts than in the CSV"
cat >layers.jsonl <<'END'
{"tok": 0, "layers": [[5, 3], [0, 7]]}

{"tok": 1, "layers": [[2], [7, 1]]}
END
quiet "$penstock" trace --import layers.jsonl --out layers --format layers
cmp <(tail -c 40 csv | head -c 32) <(tail -c 40 layers | head -c 32) || die "layers and csv differ"
"$penstock" trace --import layers.jsonl --out /dev/stdout --format layers 2>err.txt | cmp - layers || die "imported to a pipe"
grep -q '2 tokens' err.txt || die "nothing is said of what went to standard output: $(cat err.txt)"
printf 'step,layer,expert,weight\n0,0,1,0.5\n' >weights.csv
quiet "$penstock" trace --import weights.csv --out weights
[ "$(tail -c 24 weights | head -c 12 | od -A n -t f4 -j 8 | tr -d ' ')" = 0.5 ] || die "the weight is lost"

# ---- and refused
# bad PATTERN TEXT [OPTION...]: importing the text fails.
bad()
{
    local pattern=$1
    printf '%b' "$2" >bad
    shift 2
    fails 1 "$pattern" "$penstock" trace --import bad --out x "$@"
}
bad 'bad: line 2 is not JSON' '[[0, 1]]\n[[0, 1], [0'
bad 'line 1 holds what is no \[layer' '[[0, -1]]'
bad 'line 1 holds what is no \[layer' '[[512, 1]]'
bad 'line 2 has one expert twice' '[[0, 1]]\n[[0, 2], [0, 2]]'
bad 'line 2 names an expert that the model' '[[0, 1]]\n[[0, 9]]' --experts 9
bad 'line 1 has no "layers"' '{"tok": 0}'
bad 'line 2 has a token that chose no experts' '{"layers": [[1]]}\n{"layers": [[], []]}\n{"layers": [[2]]}'
bad 'line 1 has a token that chose no experts' '{"layers": []}'
bad 'line 1 names an expert that is no number' '{"layers": [["a"]]}'
bad 'line 2 has fewer fields' 'step,layer,expert\n0,0\n'
bad 'line 2 has more fields' 'step,layer,expert\n0,0,0,0\n'
bad 'line 3 holds no expert' 'step,layer,expert\n0,0,0\n0,1,x\n'
bad 'line 2 holds no weight' 'step,layer,expert,weight\n0,0,0,inf\n'
bad 'line 1 does not name' 'a,b\n'
bad 'that is no trace' 'layer,expert,frequency\n0,0,0.02\n'
bad 'looks like none' '7\n'
bad 'holds no tokens' '# nothing\n'
bad 'gzip -dc' '\x1f\x8b\x08'
[ ! -e x ] || die "a failed import leaves a file"
