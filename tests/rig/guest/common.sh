# shellcheck shell=bash disable=SC2034
# Sourced by the guest scripts. Besides the functions of tests/cli/common.sh it sets:
#   drive[D], char[D]  the block and character device of drive D
#   reference          a folder with volume, logits.f32, text, long.f32 and long: what the host made
#                      on a plain file
# RIG_STATE is a folder that outlives the guest, RIG_FULL is not empty for the long version.
build=${PENSTOCK_BUILD:?the build folder}
export PENSTOCK=$build/tools/penstock TMPDIR=/dev/shm
. "$(dirname "${BASH_SOURCE[0]}")/../../cli/common.sh"

reference=$build/rig/reference
drive=()
char=()

# drives_find: drives are numbered by the order in which the kernel finds them; the serial numbers,
# rig0, rig1 and so on, stay.
drives_find()
{
    local block number name
    drive=()
    char=()
    for block in /sys/block/nvme*n1; do
        [ -e "$block/device/serial" ] || continue
        read -r number <"$block/device/serial"
        [[ $number =~ ^rig[0-9]+$ ]] || continue
        number=${number#rig}
        name=${block##*/}
        drive[number]=/dev/$name
        char[number]=/dev/ng${name#nvme}
    done
}
drives_find

say()
{
    printf '%6.1f s  %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$*"
}

need()
{
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || test_skip "$program is not installed"
    done
}

# need_modules NAME...: kernel modules, loaded.
need_modules()
{
    local module
    for module in "$@"; do
        modprobe "$module" 2>/dev/null || test_skip "this kernel has no module $module"
    done
}

readonly member_guid=c4a1e0de-6d0f-4c53-8f1a-50e6570c4b01

# partition DEVICE SIZE...: a fresh GPT with partitions of Penstock's own type, as docs/deploy.md
# makes them. SIZE as sgdisk takes it (+64M), 0 for the rest.
partition()
{
    local device=$1 size number=0
    shift
    quiet sgdisk --zap-all "$device"
    for size in "$@"; do
        number=$((number + 1))
        quiet sgdisk --new=$number:0:"$size" --typecode=$number:$member_guid \
            --change-name=$number:"Penstock volume member" "$device"
    done
    blockdev --rereadpt "$device" 2>/dev/null || true # sgdisk has asked for it, as a rule
    wait_for "the partitions of $device" test -b "${device}p$number"
}

# wait_for WHAT COMMAND...: until the command succeeds; a minute is more than anything takes.
wait_for()
{
    local what=$1 tries
    shift
    for ((tries = 0; tries < 600; tries++)); do
        ! "$@" || return 0
        sleep 0.1
    done
    die "a minute was not enough for: $what"
}

# pci_of DEVICE: the PCI address of the drive.
pci_of()
{
    cat "/sys/block/${1#/dev/}/device/address"
}

# ---- drives that misbehave -----------------------------------------------------------------------

# qmp COMMAND JSON: one command to QEMU, which must not fail.
qmp()
{
    rigctl "$@" >answer.txt || die "$1: $(cat answer.txt)"
}

# drive_from NUMBER NODE: the drive's reads go through that node of QEMU from now on. Held requests
# go out at once.
drive_from()
{
    qmp blockdev-reopen "{\"options\": [{\"driver\": \"throttle\", \"node-name\": \"node$1\",
        \"throttle-group\": \"limit$1\", \"file\": \"$2\"}]}"
}

# drive_fails NUMBER: every read fails from now on.
drive_fails()
{
    qmp blockdev-add "{\"driver\": \"blkdebug\", \"node-name\": \"bad$1\", \"image\": \"file$1\",
        \"inject-error\": [{\"event\": \"none\", \"iotype\": \"read\", \"once\": false}]}"
    drive_from "$1" "bad$1"
}

# drive_works NUMBER: after drive_fails.
drive_works()
{
    drive_from "$1" "file$1"
    qmp blockdev-del "{\"node-name\": \"bad$1\"}"
}

# drive_limit NUMBER BYTES: a second; 0 for none. It holds for requests to come.
drive_limit()
{
    qmp qom-set "{\"path\": \"/objects/limit$1\", \"property\": \"limits\",
        \"value\": {\"bps-total\": $2}}"
}

# drive_hangs NUMBER: nothing that it is asked for comes back but perhaps the first, and the kernel
# does not mind. A guest can be shut down only when it answers again.
drive_hangs()
{
    printf '86400000' >"/sys/block/${drive[$1]#/dev/}/queue/io_timeout"
    hanging=$1
    trap 'drive_answers "$hanging"; rm -rf "$work"' EXIT
    drive_limit "$1" 1
}

# drive_answers NUMBER: after drive_hangs.
drive_answers()
{
    drive_limit "$1" 0
    drive_from "$1" "file$1"
    trap 'rm -rf "$work"' EXIT
}

# drive_holds NUMBER: it owes answers. Commands by passthrough are not counted.
drive_holds()
{
    awk '{exit $1 == 0}' "/sys/block/${drive[$1]#/dev/}/inflight"
}

# drive_remove NUMBER: takes it off its bus.
drive_remove()
{
    printf '1' >"/sys/bus/pci/devices/$(pci_of "${drive[$1]}")/remove"
}

# drive_rescan NUMBER: it comes back, perhaps under another name.
drive_rescan()
{
    printf '1' >/sys/bus/pci/rescan
    wait_for "drive $1" grep -qs "rig$1 " /sys/block/nvme*n1/device/serial
    drives_find
    wait_for "the node of drive $1" test -b "${drive[$1]}"
}

# memory_of MEMBER [OPTION...]: a ceiling that holds some dozen experts, so that a run goes on reading.
memory_of()
{
    "$penstock" plan "$@" --memory min --json | jq '.floor_bytes + 4194304'
}

# ---- the demo model ------------------------------------------------------------------------------

# lay_out_measured MEMBER... [OPTION...]: the demo model, cut by a look at the drives. What is there
# may be lost: the guest's drives are its own.
lay_out_measured()
{
    local destroy=() found
    until "$penstock" layout "$demo_gguf" "$@" "${destroy[@]}" >out.txt 2>err.txt </dev/null; do
        mapfile -t found < <(grep -oE -- "--destroy|'[^']+'" err.txt | tr -d "'")
        if [ ${#found[@]} -eq 0 ] || [ ${#destroy[@]} -gt 64 ]; then
            die "layout on $*: $(cat err.txt)"
        fi
        destroy+=("${found[@]}")
    done
}

# profile MEMBER=SPEED...: what `penstock probe` would write of members that give so many MB/s.
profile()
{
    local member knees=''
    for member in "$@"; do
        printf -v knees '%s,{"path": "%s", "knee": {"request_bytes": 1048576, "depth": 2,
            "bytes_per_s": %s000000, "latency_ns": 300000000, "piece_bytes_min": 0}}' \
            "$knees" "${member%=*}" "${member#*=}"
    done
    printf '{"penstock_profile": 1, "members": [%s]}\n' "${knees#,}"
}

# lay_out MEMBER[=SPEED]... [OPTION...]: as if the members gave so many MB/s, or 20 each. Nothing is
# measured, which saves time, and at a modest speed no drive looks slow only because the guest is.
lay_out()
{
    local members=()
    while [[ ${1:-} == /* ]]; do
        if [[ $1 == *=* ]]; then members+=("$1"); else members+=("$1=20"); fi
        shift
    done
    profile "${members[@]}" >profile.json
    lay_out_measured "${members[@]%=*}" --profile profile.json "$@"
}

# gives_logits WHAT MEMBER... [OPTION...]: the host's, to the bit.
gives_logits()
{
    local what=$1
    shift
    quiet "$penstock" logits "$@" --ids 69,1017,331 --out logits.f32
    same logits.f32 "$reference/logits.f32" "$what: the logits"
}

# gives_reference WHAT MEMBER... [OPTION...]: logits and text are the host's.
gives_reference()
{
    local what=$1
    gives_logits "$@"
    shift
    quiet "$penstock" run "$@" -p 'Emma was' -n 6 --temp 0 --stats stats.json
    same out.txt "$reference/text" "$what: the text"
}
