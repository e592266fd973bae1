# shellcheck shell=bash disable=SC2034
# Sourced by the guest scripts. Besides the functions of tests/cli/common.sh it sets:
#   drive[D], char[D]  the block and character device of drive D
#   reference          a folder with volume, logits.f32 and text: what the host made on a plain file
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

# lay_out MEMBER...: the demo model. What is there may be lost: the guest's drives are its own.
lay_out()
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
