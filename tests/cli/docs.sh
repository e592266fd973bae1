#!/usr/bin/env bash
# The documentation tells the truth: its example is the one that is built and works, and every option
# of every command is described.
. "$(dirname "$0")/common.sh"

docs=${PENSTOCK_DOCS:?the folder of the documentation}
# shellcheck disable=SC2016 # The backticks are those of Markdown.
sed -n '/^```c$/,/^```$/p' "$docs/api.md" | sed '/^```/d' >blocks.c
lines=$(wc -l <"$docs/examples/generate.c")
head -n "$lines" blocks.c | cmp - "$docs/examples/generate.c" ||
    die "the example in api.md is not docs/examples/generate.c"

quiet "$penstock" layout "$demo_gguf" v
"${PENSTOCK_EXAMPLE:?the built example}" v 'Emma was' >example.txt 2>/dev/null
"$penstock" run v -p 'Emma was' --temp 0 -n 32 >run.txt 2>/dev/null
same example.txt run.txt "the example and penstock run"
[ -s example.txt ] || die "the example prints nothing"

for command in layout info verify scrub rebalance wipe plan run batch logits perplexity quality tokenize trace train-predictor drives probe replay bench "bench io" "bench modes" "bench decode" "bench kernel"; do
    read -ra words <<<"$command"
    "$penstock" "${words[@]}" --help >help.txt
    mapfile -t options < <(grep -oE "^ +(-[a-z], +)?--[a-z-]+" help.txt | grep -oE -- "--[a-z-]+")
    for option in "${options[@]}"; do
        case $option in
        --help | --usage) continue ;;
        esac
        grep -qE -- "\`${option}[ \`]|${option} PATH" "$docs/commands.md" ||
            die "docs/commands.md does not describe $option of penstock $command"
    done
    grep -qF "penstock $command" "$docs/commands.md" || die "docs/commands.md lacks $command"
done
