#!/bin/bash
# A drive that fails, hangs or goes while it is read. Without a second copy that ends a run within
# seconds, with one sentence that names the member, the slice and what to do; with one, the run goes
# on, its output does not change, and the log and the statistics tell of the drive. The process
# neither hangs nor crashes, and what is good again works again.
# rig faults: --drives 4 --nodes 2 --mem 2G --drive-size 128M --fault-sector 1:10240
. "$(dirname "$0")/common.sh"
need jq

# What a sentence about a read that failed must hold, besides the member.
readonly names='layer [0-9]+ expert [0-9]+, slice .*dmesg.*penstock verify'

# ends PATTERN COMMAND...: as fails 1, and in a minute at most: what does not end by then hangs.
ends()
{
    local pattern=$1
    shift
    fails 1 "$pattern" timeout -k 5 60 "$@"
}

# wipe: the same layout gives the same volume, and its members would stand in for those that go.
wipe()
{
    local member
    for member in "${members[@]}"; do quiet "$penstock" wipe "$member"; done
}

seconds_since()
{
    awk -v a="$1" '{printf "%.1f", $1 - a}' /proc/uptime
}

# ---- one copy ------------------------------------------------------------------------------------

say "a bad sector 5 MiB into drive 1"
members=("${drive[0]}" "${drive[1]}")
lay_out "${members[@]}"
status=0
"$penstock" verify "${members[0]}" >bad.txt 2>err.txt || status=$?
[ $status -eq 1 ] || die "verify: status $status: $(cat bad.txt err.txt)"
grep -q "${drive[1]}" bad.txt || die "verify does not name ${drive[1]}: $(cat bad.txt)"
# Every expert is asked for sooner or later.
status=0
timeout -k 5 60 "$penstock" perplexity "${members[0]}" --file "$demo_text" --ctx 64 --memory min \
    >out.txt 2>err.txt </dev/null || status=$?
[ $status -eq 1 ] || die "perplexity: status $status: $(cat err.txt)"
tail -n 1 err.txt | grep -qE "^penstock: ${drive[1]}: $names" || die "perplexity: $(cat err.txt)"
wipe

# run_start: a run that streams experts until something happens; its process is $running. One that
# hangs is killed, and that is no status 1.
run_start()
{
    : >out.txt
    timeout --signal=KILL 90 "$penstock" run "${members[0]}" -p 'Emma was' -n 4000 --temp 0 \
        --memory "$(memory_of "${members[0]}")" >out.txt 2>err.txt </dev/null &
    running=$!
    wait_for "the first text" test -s out.txt
    kill -0 $running || die "the run ended by itself: $(cat err.txt)"
}

# run_ends WHAT MEMBER: the run leaves with status 1 and one sentence: member, slice, what to do.
run_ends()
{
    local status=0 begin sentence
    begin=$(cut -d' ' -f1 /proc/uptime)
    while ! grep -qE "$names" err.txt && kill -0 $running 2>/dev/null; do sleep 0.05; done
    sentence=$(seconds_since "$begin")
    wait $running || status=$?
    [ $status -eq 1 ] || die "$1: status $status: $(cat err.txt)"
    [ "$(grep -cE "^penstock: $2: (the read of )?$names" err.txt)" -eq 1 ] ||
        die "$1: not one sentence about $2: $(cat err.txt)"
    say "said after $sentence s, gone after $(seconds_since "$begin") s: $(grep -E "$names" err.txt)"
}

members=("${drive[0]}" "${drive[2]}")
lay_out "${members[@]}"
say "one copy: the reads of drive 2 fail"
run_start
drive_fails 2
run_ends "reads fail" "${drive[2]}"
ends "${drive[2]}" "$penstock" run "${members[@]}" -p x -n 1
drive_works 2
gives_logits "reads work again" "${members[0]}"

say "one copy: drive 2 hangs"
run_start
drive_hangs 2
run_ends "it hangs" "${drive[2]}"
drive_holds 2 || die "drive 2 has answered"
drive_answers 2
gives_logits "it answers again" "${members[0]}"

say "one copy: drive 0 is removed from its bus, and comes back"
run_start
drive_remove 0
run_ends "removed" "${members[0]}"
ends 'missing' "$penstock" run "${members[1]}" -p x -n 1
drive_rescan 0
members=("${drive[0]}" "${drive[2]}")
gives_reference "back again" "${members[0]}"
wipe

# ---- two copies ----------------------------------------------------------------------------------

# goes_on WHAT NUMBER FAULT LINE: the fault strikes the drive in the middle of a run and of a
# computation of logits; both end as if nothing had happened, and say LINE of that drive alone. (The
# second may have too little left to read to say anything.)
goes_on()
{
    local what=$1 name=${drive[$2]} fault=$3 line=$4 memory memory_f32 index processes=() process
    memory=$(memory_of "${members[0]}")
    memory_f32=$(memory_of "${members[0]}" --kv f32 --activations f32)
    rm -f long.f32*
    say "two copies: $what"
    for index in "${!members[@]}"; do [ "${members[index]}" != "$name" ] || break; done
    : >text
    timeout --signal=KILL 120 "$penstock" run "${members[@]}" -p 'Emma was' -n 24 --temp 0 --threads 1 \
        --memory "$memory" --stats stats.json >text 2>err.run </dev/null &
    processes+=($!)
    timeout --signal=KILL 120 "$penstock" logits "${members[@]}" --ids "$(seq -s, 100 123)" --decode \
        --threads 1 --memory "$memory_f32" --out long.f32 >out.txt 2>err.logits </dev/null &
    processes+=($!)
    wait_for "the first text" test -s text
    # The file is there once the members are open.
    wait_for "the first logits" compgen -G 'long.f32*'
    "$fault" "$2"
    for process in "${processes[@]}"; do
        kill -0 "$process" || die "$what: it was too late: $(cat err.run err.logits)"
    done
    for process in "${processes[@]}"; do
        wait "$process" || die "$what: status $?: $(cat err.run err.logits)"
    done
    same text "$reference/long" "$what: the text"
    same long.f32 "$reference/long.f32" "$what: the logits"
    [ "$(grep -c "^penstock: $name: .*$line" err.run)" -eq 1 ] ||
        die "$what: not one line about $name: $(cat err.run)"
    ! grep -h "$line" err.run err.logits | grep -v "^penstock: $name: " ||
        die "$what: another drive is named"
    # What hangs is not tried again there but asked of another drive.
    [ "$fault" = drive_hangs ] || jq -e '.io.retries > 0' stats.json >/dev/null ||
        die "$what: no retries"
    jq -e --argjson i "$index" '.io | .errors > 0 and .members[$i].errors == .errors and
        .members[$i].retries == .retries and .members[$i].off and
        ([.members[].off] | map(select(.)) | length) == 1' stats.json >/dev/null ||
        die "$what: the statistics: $(jq -c .io stats.json)"
    say "$(jq -Mc --argjson i "$index" '.io | {errors, retries, member: .members[$i]}' stats.json)"
    say "$(grep "$line" err.run)"
}

members=("${drive[0]}" "${drive[2]}" "${drive[3]}")
lay_out "${members[@]}" --copies 2
goes_on "the reads of drive 2 fail" 2 drive_fails "this member cannot be read"
gives_logits "reads still fail" "${members[@]}"
drive_works 2
goes_on "drive 3 hangs" 3 drive_hangs "has not answered"
drive_holds 3 || die "drive 3 has answered"
drive_answers 3
goes_on "drive 0 is removed from its bus" 0 drive_remove "this member cannot be read"
gives_logits "without it" "${members[1]}"
grep -q missing err.txt || die "no word about the missing member: $(cat err.txt)"
drive_rescan 0
gives_reference "back again" "${drive[0]}"
! grep -q missing err.txt || die "$(cat err.txt)"

say "drive 3 is unplugged for good"
qmp device_del '{"id":"nvme3"}'
gone=${drive[3]}
wait_for "$gone to go" [ ! -b "$gone" ]
gives_logits "without drive 3" "${drive[0]}"
