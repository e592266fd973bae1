#!/usr/bin/env bash
# Ctrl-C stops a run cleanly, with its statistics; a second run is not disturbed.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
for signal in INT TERM; do
    for wait in 0.05 0.3 1; do
        rm -f stats.json
        status=0
        # A shell starts background jobs with SIGINT ignored; timeout(1) does not.
        timeout --signal=$signal --kill-after=20 --preserve-status $wait "$penstock" run v \
            -p 'Once upon a time' -n 1000000 --temp 0.9 --seed 3 \
            --stats stats.json >text.txt 2>err.txt || status=$?
        case $status in
        130 | 143) ;;
        *) die "status $status after SIG$signal: $(cat err.txt)" ;;
        esac
        [ -e stats.json ] || continue # stopped before there was anything to count
        jq -e '.stop == "interrupted"' stats.json >/dev/null || die "$(cat stats.json)"
        grep -q 'tokens/s' err.txt || die "no statistics after SIG$signal"
    done
    [ -e stats.json ] || die "no run came as far as its statistics"
done
# Output files of a stopped command are not there at all, not even in part.
ids=$(seq -s, 1 4000)
timeout --signal=INT 0.3 "$penstock" logits v --ids "$ids" --out partial.f32 2>/dev/null && die "done?"
compgen -G 'partial.f32*' >/dev/null && die "a part of the output was left behind"
"$penstock" run v -p 'Once upon a time' -n 20 --temp 0.9 --seed 3 >again.txt 2>/dev/null
shorter=$(stat -c %s again.txt text.txt | sort -n | head -n 1)
cmp -n "$shorter" text.txt again.txt || die "another text after a stop"
