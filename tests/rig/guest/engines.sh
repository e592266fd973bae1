#!/bin/bash
# Every engine on real NVMe drives: whole drives, a partition that begins and ends in the middle of
# a 4 KiB block, drives with 4 KiB blocks, and what passthrough must refuse. Runs in the guest of
# tests/rig with three drives and polled queues. Overwrites the drives. Status 0 if every engine
# passed on all of them, and a run by passthrough ends in good order when a drive does not.
# rig engines: --drives 3 --nodes 2 --poll-queues 2 --mem 3G
. "$(dirname "$0")/common.sh"
need jq nvme
conformance=$build/tests/test_io_conformance
drives=(/dev/rig/drive0 /dev/rig/drive1 /dev/rig/drive2)

step()
{
    printf '== %s\n' "$*"
}

# format DRIVE LBAF: the drive's blocks from now on; everything on it is lost.
format()
{
    nvme format "$(realpath "$1")" --lbaf="$2" --force >/dev/null
    blockdev --rereadpt "$(realpath "$1")" 2>/dev/null || true
}

# lbaf DRIVE DATA_BYTES METADATA_BYTES: the number of that format.
lbaf()
{
    nvme id-ns "$(realpath "$1")" --output-format=json |
        jq -r --argjson bits "$(awk -v n="$2" 'BEGIN { print log(n) / log(2) }')" \
            --argjson ms "$3" '.lbafs | to_entries[] | select(.value.ds == $bits and .value.ms == $ms) | .key' |
        head -n 1
}

step "Whole drives: $(uname -r)"
"$conformance" "${drives[@]}"

# Since kernel 6.2 whoever may open the character device may read; before, root alone.
step "Without privileges"
chmod a+rw /dev/nvme*n* /dev/ng*
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
if [ "$(printf '%s\n' 6.2 "$(uname -r)" | sort -V | head -n 1)" = 6.2 ]; then
    "${nobody[@]}" "$conformance" --only passthru "${drives[1]}"
else
    "${nobody[@]}" "$conformance" --may-fall-back --only passthru "${drives[1]}" | tee /tmp/nobody.log
    grep -q 'NVMe passthrough cannot be used (.*CAP_SYS_ADMIN' /tmp/nobody.log
fi

step "A partition from sector 2049 on, of 204801 sectors"
sgdisk --clear --set-alignment=1 --new=1:2049:206849 "$(realpath "${drives[0]}")" >/dev/null
partition=$(realpath "${drives[0]}")p1
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -b "$partition" ] || break
    sleep 0.2
done
"$conformance" --only passthru "$partition" "${drives[1]}"

step "Blocks of 4096 bytes"
format "${drives[2]}" "$(lbaf "${drives[2]}" 4096 0)"
[ "$(cat "/sys/class/block/$(basename "$(realpath "${drives[2]}")")/queue/logical_block_size")" = 4096 ]
"$conformance" --only passthru "${drives[2]}" "${drives[1]}"

step "Blocks with metadata: passthrough gives way to uring"
format "${drives[2]}" "$(lbaf "${drives[2]}" 512 8)"
"$conformance" --may-fall-back --only passthru "${drives[2]}" | tee /tmp/metadata.log
grep -q 'NVMe passthrough cannot be used (.*metadata' /tmp/metadata.log

# passthru_ends MEMBER FAULT NUMBER: a run by passthrough is struck by the fault: one sentence that
# names the member, status 1, and no crash.
passthru_ends()
{
    local member=$1 status=0 begin
    : >text
    timeout --signal=KILL 90 "$penstock" run "${members[@]}" -p 'Emma was' -n 4000 --temp 0 \
        --io passthru --memory "$(memory_of "${members[0]}")" >text 2>err.txt </dev/null &
    running=$!
    wait_for "the first text" test -s text
    ! grep 'cannot be used' err.txt || die "not by passthrough"
    begin=$(cut -d' ' -f1 /proc/uptime)
    "$2" "$3"
    wait $running || status=$?
    [ $status -eq 1 ] || die "$2: status $status: $(cat err.txt)"
    [ "$(grep -cE "^penstock: $member: (the read of )?layer .*slice .*dmesg" err.txt)" -eq 1 ] ||
        die "$2: not one sentence about $member: $(cat err.txt)"
    awk -v a="$begin" '{printf "after %.1f s: ", $1 - a}' /proc/uptime
    cat err.txt
}

step "A run by passthrough on a whole drive and a partition, of which one hangs"
members=("$partition" "${drive[1]}")
lay_out "${members[@]}"
gives_logits "passthru" "${members[@]}" --io passthru
for number in 1 0; do
    passthru_ends "${members[number]}" drive_hangs $number
    grep -qE 'ha(s|ve) not come back' err.txt || die "drive $number has answered: $(cat err.txt)"
    drive_answers $number
    gives_logits "it answers again" "${members[@]}" --io passthru
done

step "One is removed from its bus while passthrough reads it"
passthru_ends "${drive[1]}" drive_remove 1
drive_rescan 1
gives_logits "back again" "$partition" "${drive[1]}" --io passthru
