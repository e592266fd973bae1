#!/usr/bin/env bash
# A volume moves to other members and answers the same; killed anywhere it is the old one, the new one
# or none, and --resume completes it.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" one
quiet "$penstock" logits one --ids 69,1017,331 --out reference.f32

# answers MEMBER: the volume is whole and gives the same logits.
answers()
{
    quiet "$penstock" verify "$1"
    quiet "$penstock" logits "$1" --ids 69,1017,331 --out other.f32
    same other.f32 reference.f32 "logits of $1"
}

# All new members: byte for byte what a layout makes there.
mkdir laid moved
quiet "$penstock" layout "$demo_gguf" laid/a laid/b laid/c --copies 2
json '.bytes > 19000000 and (.members | length) == 3' \
    "$penstock" rebalance one moved/a moved/b moved/c --copies 2 --json
for member in a b c; do same laid/$member moved/$member "moved and laid out"; done
[ ! -e one ] || die "the old member is still there"

# A member lost and replaced; one added; one removed; back to one.
rm moved/b
quiet "$penstock" rebalance moved/a moved/a moved/d moved/c
answers moved/d
quiet "$penstock" rebalance moved/d moved/a moved/d moved/c moved/e --copies 1
answers moved/e
quiet "$penstock" rebalance moved/d moved/a moved/e
answers moved/a
[[ ! -e moved/c && ! -e moved/d ]] || die "members that left are still there"
mv moved/e elsewhere
fails 1 'moved/e|member' "$penstock" rebalance moved/a two
quiet "$penstock" rebalance moved/a two -m elsewhere
answers two

# Refused: what is there, what is too small, and a volume that is read.
echo precious >mine
fails 1 "--destroy 'file:mine:9'" "$penstock" rebalance two mine
[ "$(cat mine)" = precious ] || die "the file was touched"
fails 1 'two members' "$penstock" rebalance two two --copies 2

# Killed at many points, evenly over the time that it takes.
begin=$(date +%s%N)
quiet "$penstock" rebalance two two k1
whole_ns=$(($(date +%s%N) - begin))
killed=0
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
    for member in two k1 k2; do
        [ ! -e $member ] || quiet "$penstock" wipe $member
    done
    quiet "$penstock" layout "$demo_gguf" two
    case $((i % 3)) in
    0) members=(k1 k2) ;;
    1) members=(two k1) ;;
    2) members=(two) ;;
    esac
    seconds=$(awk -v ns="$whole_ns" -v i=$i 'BEGIN {printf "%.4f", ns / 1e9 * i / 12}')
    status=0
    timeout --signal=KILL "$seconds" "$penstock" rebalance two "${members[@]}" >out.txt \
        2>err.txt </dev/null || status=$?
    [ $status -eq 137 ] || [ $status -eq 0 ] || die "rebalance: status $status: $(cat err.txt)"
    [ $status -eq 0 ] || killed=$((killed + 1))
    for member in two "${members[@]}"; do
        if [ -e "$member" ] && "$penstock" info "$member" >/dev/null 2>&1; then
            answers "$member"
        fi
    done
    quiet "$penstock" rebalance two "${members[@]}" --resume
    answers "${members[0]}"
    json "(.members | length) == ${#members[@]}" "$penstock" info "${members[0]}" --json
done
[ $killed -gt 0 ] || die "no rebalance was killed before it ended"
printf '%d rebalances killed\n' $killed

# Ctrl-C: how to go on, and the old volume is as it was.
quiet "$penstock" rebalance "${members[0]}" s1 s2 --copies 2
seconds=$(awk -v ns="$whole_ns" 'BEGIN {printf "%.4f", ns / 2e9}')
status=0
timeout --signal=INT --preserve-status "$seconds" "$penstock" rebalance s1 s3 s4 >out.txt \
    2>err.txt </dev/null || status=$?
[ $status -eq 130 ] || [ $status -eq 0 ] || die "status $status after SIGINT: $(cat err.txt)"
if grep -q -- --resume err.txt; then
    answers s1
    quiet "$penstock" rebalance s1 s3 s4 --resume
    answers s3
fi
