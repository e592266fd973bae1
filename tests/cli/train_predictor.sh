#!/usr/bin/env bash
# The learned predictor: finds more than the gate on what it was not trained with, is the same for any number of
# threads, is kept in the volume beside what was there, and is refused in a sentence where it cannot be trained.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" demo
head -c 16000 "$demo_text" >text
quiet "$penstock" trace demo --file text --ctx 512 --hidden --out hidden
json '.rank == 16 and .tokens > 4000 and .tokens_held_out > 400 and .bytes < 65536 and (.depths | length) == 3
      and (.depths | map(.layers) == [7, 6, 5])
      and (.depths | map(.learned.precision_2k * 2 - .learned.recall_2k | fabs < 1e-9) | all)
      and (.depths | map(.learned.recall_2k >= .gate.recall_2k and .kept <= .layers) | all)
      and .depths[1].learned.recall_2k > .depths[1].gate.recall_2k + 0.01
      and .depths[2].kept > 0' \
    "$penstock" train-predictor demo hidden --passes 2 --threads 2 --json
quiet "$penstock" verify demo
# Again into the same volume, and to a file: layers are trained one by one, in any number of threads.
quiet "$penstock" train-predictor demo hidden --passes 1 --rank 8 --out one --threads 1 --memory 1M
quiet "$penstock" train-predictor demo hidden --passes 1 --rank 8 --out two --threads 2
"$penstock" train-predictor demo hidden --passes 1 --rank 8 --out - 2>err.txt | cmp - two || die "not the predictor alone"
grep -q '1 ahead' err.txt || die "nothing is said of what went to standard output: $(cat err.txt)"
same one two "a predictor does not depend on the threads"
quiet "$penstock" train-predictor demo hidden --passes 1 --rank 8
quiet "$penstock" train-predictor demo hidden --passes 1 --rank 8 --seed 2 --out other
! cmp -s one other || die "the seed changes nothing"

# What is learned may be guessed with, and changes nothing else.
run=("$penstock" run demo -p 'Emma was' -n 40 --temp 0 --memory 26M)
quiet "${run[@]}" --predictor off
mv out.txt without.txt
for options in '--predictor learned' '--predictor learned --predictor-file two'; do
    read -ra words <<<"$options"
    quiet "${run[@]}" "${words[@]}"
    same out.txt without.txt "the text with $options"
done
# On text that it was not trained with: the gate's share, and what is learned, of choices and of misses.
tail -c 2000 "$demo_text" >other_text
for predictor in gate learned; do
    quiet "$penstock" trace demo --file other_text --predictor "$predictor" --out "by_$predictor" --json
    mv out.txt "$predictor.json"
    quiet "$penstock" replay "by_$predictor" --memory 20% --json
    mv out.txt "$predictor-misses.json"
done
json '(.learned | map(.depth) == [1, 2, 3])' cat learned.json
jq -es '.[0].gate[2].recall_2k < .[1].learned[1].recall_2k and .[0].gate[2].depth == .[1].learned[1].depth' \
    gate.json learned.json >/dev/null || die "the learned predictor finds no more of another text"
jq -es 'map(.runs[0] | .demands_guessed_k > .demands * 0.3 and .demands_guessed_2k > .demands_guessed_k and
    .demands_guessed_2k < .demands) | all' gate-misses.json learned-misses.json >/dev/null ||
    die "the shares of misses that were guessed are not in order"
fails 2 'leave out --predictor' "$penstock" trace demo --file text --predictor learned --hidden --out x
fails 1 'hidden' "${run[@]}" --predictor learned --predictor-file hidden
# The plan counts what it takes, so that a run may have the ceiling that it names.
plan=("$penstock" plan demo --ctx 512 --memory 1G --predictor learned)
json "[.lines[] | select(.name == \"learned predictor\" and .floor_bytes > $(stat -c %s two))] | length == 1" \
    "${plan[@]}" --predictor-file two --json
quiet "$penstock" run demo --ctx 512 -p 'Emma was' -n 4 --predictor learned --predictor-file two \
    --memory "$("${plan[@]}" --predictor-file two --json | jq .floor_bytes)"
fails 1 'nowhere: cannot read' "${plan[@]}" --predictor-file nowhere

# What cannot be kept is refused before anything is learned.
fails 1 'room.*--out' "$penstock" train-predictor demo hidden --passes 1000 --rank 64
fails 1 'nowhere' "$penstock" train-predictor demo hidden --passes 1000 --out nowhere/x
if command -v flock >/dev/null; then
    # shellcheck disable=SC2094  # only locked
    (flock -s 9 && fails 1 'demo: another process' "$penstock" train-predictor demo hidden --passes 1000) 9<demo
fi
if [ "$(id -u)" -ne 0 ]; then
    chmod a-w demo
    fails 1 'cannot be written' "$penstock" train-predictor demo hidden --passes 1000
    chmod u+w demo
fi
quiet "$penstock" trace demo --file text --tokens 200 --out plain
fails 1 'plain: holds no router inputs.*--hidden' "$penstock" train-predictor demo plain
quiet "$penstock" trace demo --file text --tokens 20 --out short --hidden
fails 1 'short: has 20 tokens' "$penstock" train-predictor demo hidden short
fails 1 'text: is not a trace' "$penstock" train-predictor demo text
printf '[[0, 1]]\n' >pairs
quiet "$penstock" trace --import pairs --out imported --model other
fails 1 'imported: is a trace of another model' "$penstock" train-predictor demo imported
head -c 100000 hidden >torn
fails 1 'cut off' "$penstock" train-predictor demo torn
fails 1 'TRACE and --out are the same' "$penstock" train-predictor demo hidden torn --out torn
fails 2 'TRACE' "$penstock" train-predictor demo
fails 2 'multiple of 8' "$penstock" train-predictor demo hidden --rank 12
