# shellcheck shell=bash
# Sourced by bench programs: what fio makes of the drives.
#
#   fio_rate MEMBERS BYTES   bytes per second of random reads of so many bytes, 8 in flight, for 2 s, over the members
#                            (PATH[:PATH]...): io_uring, O_DIRECT, registered files and buffers, those in hugepages
#                            where 16 are free. Without hugepages the kernel cuts reads up: it is half as fast.
#   fio_rate_busy ...        the same while every processor computes, with the lowest priority: less where what serves
#                            the drives needs processors itself, as the host of a virtual machine does.

fio_rate()
{
    local options=(--name=x --filename="$1" --readonly --allow_file_create=0 --ioengine=io_uring --direct=1
        --rw=randread --randrepeat=0 --norandommap --bs="$2" --blockalign=4096 --iodepth=8 --fixedbufs
        --registerfiles --time_based --runtime=2 --output-format=json)
    if [ "$(awk '/^HugePages_Free/ {print $2}' /proc/meminfo)" -ge 16 ]; then
        options+=(--mem=mmaphuge --hugepage-size=2m)
    fi
    fio "${options[@]}" | jq '.jobs[0].read.bw_bytes'
}

fio_rate_busy()
{
    local spinners=()
    for ((i = 0; i < $(nproc); i++)); do
        chrt --idle 0 sh -c 'while :; do :; done' &
        spinners+=($!)
    done
    fio_rate "$@"
    kill "${spinners[@]}"
    wait "${spinners[@]}" 2>/dev/null || true
}
