#!/bin/bash
# A drive that fails, or goes, ends a run within seconds with one sentence that names the member; the
# process neither hangs nor crashes, and what is good again works again.
# rig faults: --drives 4 --nodes 2 --mem 2G --drive-size 128M --fault-sector 1:20480 --fault-after 2:400
. "$(dirname "$0")/common.sh"
need jq

# ends PATTERN COMMAND...: as fails 1, and in a minute at most: what does not end by then hangs.
ends()
{
    local pattern=$1
    shift
    fails 1 "$pattern" timeout -k 5 60 "$@"
}

say "a bad sector 10 MiB into drive 1"
members=("${drive[0]}" "${drive[1]}")
lay_out "${members[@]}"
status=0
"$penstock" verify "${members[0]}" >bad.txt 2>err.txt || status=$?
[ $status -eq 1 ] || die "verify: status $status: $(cat bad.txt err.txt)"
grep -q "${drive[1]}" bad.txt || die "verify does not name ${drive[1]}: $(cat bad.txt)"
# Every expert is asked for sooner or later.
ends "${drive[1]}" "$penstock" perplexity "${members[0]}" --file "$demo_text" --ctx 64 --memory min

# The same layout gives the same volume, and its members would stand in for those that go.
for member in "${members[@]}"; do quiet "$penstock" wipe "$member"; done

say "drive 2 fails for good after some hundred reads"
members=("${drive[0]}" "${drive[2]}")
lay_out "${members[@]}"
ends "${drive[2]}" "$penstock" perplexity "${members[0]}" --file "$demo_text" --ctx 64 --memory min
ends "${drive[2]}" "$penstock" run "${members[0]}" "${members[1]}" -p x -n 1

# run_start: a run that streams experts until something happens; its process is $running. One that
# hangs is killed, and that is no status 1.
run_start()
{
    timeout --signal=KILL 90 "$penstock" perplexity "${members[0]}" --file "$demo_text" --ctx 64 --memory min \
        >out.txt 2>err.txt </dev/null &
    running=$!
    sleep 2
    kill -0 $running || die "the run ended by itself: $(cat err.txt)"
}

# run_ends WHAT DEVICE: it leaves with status 1 and one sentence that names the device.
run_ends()
{
    local status=0 gone
    gone=$(cut -d' ' -f1 /proc/uptime)
    wait $running || status=$?
    [ $status -eq 1 ] || die "$1: status $status: $(cat err.txt)"
    [ "$(grep -c '^penstock: ' err.txt)" -ge 1 ] || die "$1: no sentence: $(cat err.txt)"
    tail -n 1 err.txt | grep -q "^penstock: .*$2" || die "$1: $2 is not named: $(cat err.txt)"
    say "$(awk -v a="$gone" '{printf "%.1f s after that: ", $1 - a}' /proc/uptime)$(tail -n 1 err.txt)"
}

dd if=/dev/zero of="${drive[2]}" bs=1M count=1 oflag=direct conv=fsync status=none

say "drive 3 is unplugged"
members=("${drive[0]}" "${drive[3]}")
lay_out "${members[@]}"
run_start
rigctl device_del '{"id":"nvme3"}' >answer.txt || die "$(cat answer.txt)"
wait_for "${drive[3]} to go" [ ! -b "${drive[3]}" ]
run_ends "unplugged" "${drive[3]}"
ends 'missing' "$penstock" run "${members[0]}" -p x -n 1

say "drive 0 is removed from its bus, and comes back"
members=("${drive[0]}")
lay_out "${members[@]}"
run_start
printf '1' >"/sys/bus/pci/devices/$(pci_of "${drive[0]}")/remove"
run_ends "removed" "${drive[0]}"
printf '1' >/sys/bus/pci/rescan
wait_for "drive 0" grep -qs 'rig0 ' /sys/block/nvme*n1/device/serial
drives_find
wait_for "its node" [ -b "${drive[0]}" ]
gives_reference "back again" "${drive[0]}"
