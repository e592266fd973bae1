#!/usr/bin/env bash
# A layout killed anywhere is never a volume, and --resume completes it to the bytes of one that was
# not disturbed.
. "$(dirname "$0")/common.sh"

source_path=$demo_gguf
[ ! -e "${PENSTOCK_DEMO_HF:-}/model.safetensors" ] || source_path=$PENSTOCK_DEMO_HF
mkdir whole part # the recorded paths of the members are then the same
begin=$(date +%s%N)
quiet "$penstock" layout "$source_path" whole/a whole/b
whole_ns=$(($(date +%s%N) - begin))

killed=0
for i in 1 2 3 4 5 6 7 8 9 10; do
    rm -f part/a part/b
    # The old volume underneath must never be read as valid.
    if ((i % 2 == 0)); then cp whole/a part/a && cp whole/b part/b; fi
    destroy=()
    if ((i % 2 == 0)); then
        fails 1 'destroy' "$penstock" layout "$source_path" part/a part/b
        mapfile -t destroy < <(for member in part/a part/b; do
            "$penstock" layout "$source_path" $member 2>&1 </dev/null |
                grep -oE -- "--destroy|'[^']+'" | tr -d "'"
        done)
    fi
    seconds=$(awk -v ns="$whole_ns" -v i=$i 'BEGIN {printf "%.4f", ns / 1e9 * i / 11}')
    status=0
    timeout --signal=KILL "$seconds" "$penstock" layout "$source_path" part/a part/b \
        "${destroy[@]}" >out.txt 2>err.txt </dev/null || status=$?
    [ $status -eq 137 ] || [ $status -eq 0 ] || die "layout: status $status: $(cat err.txt)"
    [ $status -eq 137 ] || continue
    killed=$((killed + 1))
    # What opens is whole: then the kill came after the last write, while the process was leaving.
    if ((i % 2 == 1)); then
        if "$penstock" info part/a >/dev/null 2>&1; then
            same part/a whole/a "a volume opens that is not whole"
            same part/b whole/b "a volume opens that is not whole"
        else
            fails 1 'part' "$penstock" info part/a
        fi
    fi
    quiet "$penstock" layout "$source_path" part/a part/b --resume "${destroy[@]}"
    quiet "$penstock" verify part/a
    same part/a whole/a "resumed after $seconds s"
    same part/b whole/b "resumed after $seconds s"
done
[ $killed -gt 0 ] || die "no layout was killed before it ended"
printf '%d layouts killed\n' $killed

# Ctrl-C is no failure of the layout: it says how to go on.
for part in 2 4 6 8; do
    rm -f part/a part/b
    status=0
    seconds=$(awk -v ns="$whole_ns" -v i=$part 'BEGIN {printf "%.4f", ns / 1e9 * i / 10}')
    timeout --signal=INT --preserve-status "$seconds" \
        "$penstock" layout "$source_path" part/a part/b >out.txt 2>err.txt </dev/null || status=$?
    [ $status -ne 0 ] || continue
    [ $status -eq 130 ] || die "layout: status $status after SIGINT: $(cat err.txt)"
    grep -q -- '--resume' err.txt || continue # it came before there was anything to stop
    quiet "$penstock" layout "$source_path" part/a part/b --resume
    same part/a whole/a "resumed after Ctrl-C"
done

# A source that has changed is refused.
cp "$demo_gguf" changed.gguf
begin=$(date +%s%N)
quiet "$penstock" layout changed.gguf c
whole_ns=$(($(date +%s%N) - begin))
for percent in 30 40 50 60 65 70 75 80 85 90 95; do
    rm -f c
    seconds=$(awk -v ns="$whole_ns" -v p=$percent 'BEGIN {printf "%.4f", ns / 1e11 * p}')
    timeout --signal=KILL "$seconds" "$penstock" layout changed.gguf c </dev/null >out.txt 2>&1 ||
        true
    "$penstock" info c >out.txt 2>&1 || true
    if grep -q 'stopped' out.txt; then
        printf 'X' | dd of=changed.gguf bs=1 seek=15000000 conv=notrunc status=none
        fails 1 'changed' "$penstock" layout changed.gguf c --resume
        exit 0
    fi
done
part_skip "no layout could be stopped half way"
