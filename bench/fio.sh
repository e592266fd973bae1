# shellcheck shell=bash
# Sourced by bench programs: what fio makes of the drives.
#
#   fio_rate MEMBERS BYTES [SECONDS]
#       bytes per second of random reads of so many bytes, 8 in flight, for 2 s, over the members (PATH[:PATH]...):
#       io_uring, O_DIRECT, registered files and buffers, those in hugepages where 16 are free. Without hugepages the
#       kernel cuts reads up: it is half as fast. With RATE (MB/s of a member) set, it reads no faster
#       than that, and that is what is told: a drive of such a rate gives neither more nor, disturbed for a moment, less.
#   FIO_IO
#       options for Penstock to have the same of RATE
#   fio_beside MEMBERS BYTES
#       what drives and processors leave each other: bytes per second of the same reads while all processors compute,
#       then the share of their arithmetic that is left, of that without the reads: less than 1 where what serves the
#       drives needs processors itself, as the host of a virtual machine does.
#   FIO_TOGETHER
#       functions for awk, in any unit of amounts and of time: rate, beside and left are what fio_rate and fio_beside
#       told, checks how fast checksums are told.
#           together(amount, arithmetic, rate, beside, left, checks)    the time for reading so much beside arithmetic
#               that takes so long by itself, the checksums of what is read being arithmetic, too
#           by_itself(arithmetic, amount, waited, rate, beside, left, checks)    how long arithmetic takes by itself
#               that took so long while so much was read, but for what came while it waited so long

# shellcheck disable=SC2034 # for those who source this
FIO_TOGETHER='
function together(amount, arithmetic, rate, beside, left, checks, reads) {
    arithmetic += amount / checks
    reads = amount / beside
    if (reads * left <= arithmetic)
        return arithmetic + reads * (1 - left)
    return arithmetic / left + (amount - arithmetic / left * beside) / rate
}
function by_itself(arithmetic, amount, waited, rate, beside, left, checks, during) {
    during = (amount - waited * rate) / beside
    during = during > arithmetic ? arithmetic : during > 0 ? during : 0
    return arithmetic - during * (1 - left) - during * beside / checks
}'

FIO_IO=()
[ -z "${RATE:-}" ] || FIO_IO=(--io "fault:rate=$RATE@1+:uring")

fio_rate()
{
    local colons=${1//[^:]/} most=0
    local options=(--name=x --filename="$1" --readonly --allow_file_create=0 --ioengine=io_uring --direct=1
        --rw=randread --randrepeat=0 --norandommap --bs="$2" --blockalign=4096 --iodepth=8 --fixedbufs
        --registerfiles --time_based --runtime="${3:-2}" --output-format=json)
    if [ "$(awk '/^HugePages_Free/ {print $2}' /proc/meminfo)" -ge 16 ]; then
        options+=(--mem=mmaphuge --hugepage-size=2m)
    fi
    if [ -n "${RATE:-}" ]; then
        most=$((RATE * 1000000 * (${#colons} + 1)))
        options+=(--rate="$most")
    fi
    fio "${options[@]}" | jq "if $most > 0 then $most else .jobs[0].read.bw_bytes end"
}

# spin SECONDS: how far as many loops as there are processors have counted by then.
spin()
{
    for ((i = 0; i < $(nproc); i++)); do
        # shellcheck disable=SC2016 # for the shell that counts
        timeout --preserve-status "$1" sh -c 'trap "echo \$n; exit" TERM; n=0; while :; do n=$((n + 1)); done' &
    done
    wait
}

fio_beside()
{
    local alone beside rate
    alone=$(spin 2 | paste -sd+)
    rate=$(mktemp)
    fio_rate "$1" "$2" 3 >"$rate" &
    sleep 0.5
    beside=$(spin 2 | paste -sd+)
    wait $!
    jq -rn --argjson rate "$(<"$rate")" "(($beside) / ($alone)) as \$left | \"\(\$rate) \([\$left, 1] | min)\""
    rm "$rate"
}
