#!/bin/bash
# Layouts and rebalances that are killed at random points, by SIGKILL and by a power cut: what opens
# then is whole, the same command with --resume completes it, and verify passes.
# The short version does 1 of each, --full 10. RIG_SEED=N chooses the points of another run again.
# rig kills: --drives 4 --nodes 1 --mem 2G --drive-size 64M --throttle-bps 12M --volatile-cache --timeout 800
. "$(dirname "$0")/common.sh"
need jq

readonly lead_s=0.4 # the cut is timed from here on, for its own program takes a while to start
readonly canary=3   # a drive without a member
count=1
[ -z "$RIG_FULL" ] || count=10
kinds=(layout:kill layout:cut)
if "$penstock" help rebalance >/dev/null 2>&1; then kinds+=(rebalance:kill rebalance:cut); fi

# ---- what outlives a power cut -------------------------------------------------------------------

step=0     # the next one, or the one that the power cut came in
attempt=0  # of all steps; one whose command ends before its interruption is tried again
pending=   # not empty: the power was cut in this step
slices=    # "small" if the next layout cuts experts into small slices
place=0    # the first of the two drives that the volume is on
old=       # UUID of the volume that there is
layout_s=  # how long each takes undisturbed
rebalance_s=
seed=${RIG_SEED:-$SRANDOM}

save()
{
    declare -p step attempt pending slices place old layout_s rebalance_s seed >"$RIG_STATE/next"
    sync "$RIG_STATE/next"
    mv "$RIG_STATE/next" "$RIG_STATE/now"
    sync "$RIG_STATE"
}

# shellcheck source=/dev/null
[ ! -e "$RIG_STATE/now" ] || . "$RIG_STATE/now"
RANDOM=$(((seed + attempt) % 32768))

# A power cut that loses nothing proves nothing. Two marks go to a drive without a member: the first is
# flushed and must be there afterwards, the second is not and must be lost. Every attempt has blocks of
# its own, for one that was flushed once keeps what is written to it later (tests/rig/README.md).
canary_set()
{
    printf 'mark %-11d' "$attempt" | dd of="${drive[canary]}" bs=4K seek=$((2 * attempt)) \
        conv=notrunc,fsync status=none
    printf 'mark %-11d' "$attempt" | dd of="${drive[canary]}" bs=4K seek=$((2 * attempt + 1)) \
        conv=notrunc status=none
}

canary_check()
{
    local mark
    printf -v mark 'mark %-11d' "$attempt"
    [ "$(canary_at 0)" = "$mark" ] || die "the power cut lost what had been flushed"
    [ "$(canary_at 1)" != "$mark" ] || die "the power cut lost nothing"
}

canary_at()
{
    dd if="${drive[canary]}" bs=4K skip=$((2 * attempt + $1)) count=1 status=none | head -c 16 |
        tr -d '\0'
}

# ---- the commands --------------------------------------------------------------------------------

members_old=()
members_new=()
command=() # as it is resumed
fresh=()   # what it is begun with besides

# command_set: what this step interrupts. Layouts: slices of another size make another volume, so that
# the old one underneath, or a part of it, cannot pass for the new one. Rebalances: from drives 0 and 1
# to 1 and 2, and back.
command_set()
{
    kind=${kinds[step / count]}
    how=${kind#*:}
    fresh=()
    members_old=("${drive[place]}" "${drive[place + 1]}")
    case $kind in
    layout:*)
        members_new=("${members_old[@]}")
        command=("$penstock" layout "$demo_gguf" "${members_new[@]}")
        fresh=(--profile profile.json)
        if [ "$slices" = small ]; then command+=(--slice-bytes 1); fi
        [ -z "$old" ] || command+=(--destroy "penstock:$old")
        ;;
    rebalance:*)
        members_new=("${drive[1 - place]}" "${drive[2 - place]}")
        command=("$penstock" rebalance "${members_old[0]}" "${members_new[@]}")
        ;;
    esac
}

# completed: there is a new volume, or it is in its new place.
completed()
{
    old=$("$penstock" info "${members_new[0]}" --json | jq -r .uuid)
    case $kind in
    layout:*) if [ -n "$slices" ]; then slices=; else slices=small; fi ;;
    rebalance:*) place=$((1 - place)) ;;
    esac
}

# taken BEGIN: a command that began then has ended by itself. The least time counts: on a machine with
# other work the first one may say too much, and no random point would lie within the others.
taken()
{
    local -n least=${kind%:*}_s
    least=$(awk -v a="$1" -v b="$EPOCHREALTIME" -v least="${least:-1e9}" \
        'BEGIN {printf "%.3f", b - a < least ? b - a : least}')
}

# complete: after the interruption. Sets $old to the UUID of the volume that there is now.
complete()
{
    local opens=nothing member uuid members
    mapfile -t members < <(printf '%s\n' "${members_old[@]}" "${members_new[@]}" | sort -u)
    for member in "${members[@]}"; do
        if "$penstock" info "$member" --json >info.json 2>err.txt; then
            uuid=$(jq -r .uuid info.json)
            opens="the new volume"
            [ "$uuid" != "$old" ] || opens="the old volume"
            quiet "$penstock" verify "$member"
        else
            grep -q '^penstock: ' err.txt || die "info $member says nothing"
        fi
    done
    quiet "${command[@]}" --resume
    quiet "$penstock" verify "${members_new[0]}"
    gives_logits "step $step" "${members_new[1]}"
    completed
    say "step $step: ${kind/:/, }: $opens opens; resumed and verified"
}

# A layout that knows how fast the drives are writes from its first moment on.
profile "${drive[0]}=12" "${drive[1]}=12" >profile.json

# ---- the steps -----------------------------------------------------------------------------------

while [ "$step" -lt $((count * ${#kinds[@]})) ]; do
    command_set
    if [ -n "$pending" ]; then
        canary_check
        complete
        pending=
        step=$((step + 1))
        save
        continue
    fi
    attempt=$((attempt + 1))
    whole=${kind%:*}_s
    if [ -z "${!whole}" ]; then # once undisturbed, to know how long it takes
        begin=$EPOCHREALTIME
        quiet "${command[@]}" "${fresh[@]}"
        taken "$begin"
        completed
        save
        continue
    fi
    at_s=$(awk -v whole="${!whole}" -v r=$RANDOM 'BEGIN {printf "%.3f", whole * r / 32768}')
    say "step $step: ${kind/:/, } after $at_s s of about ${!whole} s (seed $seed)"
    if [ "$how" = cut ]; then
        pending=yes
        save
        canary_set
        rigctl power-cut "$(awk -v a="$at_s" -v b=$lead_s 'BEGIN {print a + b}')" &
        sleep $lead_s
        begin=$EPOCHREALTIME
        quiet "${command[@]}" "${fresh[@]}"
        kill $! # it had ended before the cut came: this step has to try again
        pending=
        taken "$begin"
        completed
        save
        continue
    fi
    begin=$EPOCHREALTIME
    status=0
    {
        timeout --signal=KILL "$at_s" "${command[@]}" "${fresh[@]}" >out.txt 2>err.txt </dev/null ||
            status=$?
    } 2>&- # the shell would say that it was killed
    if [ $status -eq 137 ]; then
        complete
        step=$((step + 1))
    else
        [ $status -eq 0 ] || die "status $status: $(cat err.txt)"
        taken "$begin"
        completed
    fi
    save
done
say "$step interruptions"
