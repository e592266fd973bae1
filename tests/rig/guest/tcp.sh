#!/bin/bash
# Half of a volume on a drive of another machine, over NVMe/TCP: the kernel's own target and host, on
# one machine here. docs/deploy.md has the same commands.
# rig tcp: --drives 2 --nodes 1 --mem 2G --drive-size 128M
. "$(dirname "$0")/common.sh"
need jq nvme
need_modules configfs nvmet nvmet-tcp nvme-tcp
mount -t configfs config /sys/kernel/config

nqn=nqn.2025-01.org.example:penstock
target=/sys/kernel/config/nvmet

say "the target exports drive 1"
mkdir -p $target/subsystems/$nqn/namespaces/1 $target/ports/1
echo 1 >$target/subsystems/$nqn/attr_allow_any_host
echo -n "${drive[1]}" >$target/subsystems/$nqn/namespaces/1/device_path
echo 1 >$target/subsystems/$nqn/namespaces/1/enable
echo tcp >$target/ports/1/addr_trtype
echo ipv4 >$target/ports/1/addr_adrfam
echo 127.0.0.1 >$target/ports/1/addr_traddr
echo 4420 >$target/ports/1/addr_trsvcid
ln -s $target/subsystems/$nqn $target/ports/1/subsystems/

say "the host connects"
connect()
{
    quiet nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $nqn --ctrl-loss-tmo=60 \
        --hostnqn=nqn.2014-08.org.nvmexpress:uuid:6d0f4c53-8f1a-4f00-8c4e-50e6570c4b01
    wait_for "the remote drive" remote_find
    # Without it reads wait for the connection as long as ctrl-loss-tmo lasts.
    echo 2 >"/sys/class/nvme/$controller/fast_io_fail_tmo"
}

remote_find()
{
    local transport
    for transport in /sys/class/nvme/nvme*/transport; do
        if grep -q tcp "$transport"; then
            controller=$(basename "$(dirname "$transport")")
            remote=/dev/${controller}n1
            [ ! -b "$remote" ] || return 0
        fi
    done
    return 1
}
connect
say "it is $remote"

lay_out "${drive[0]}" "$remote"
quiet "$penstock" verify "${drive[0]}" "$remote"
gives_reference "over TCP" "${drive[0]}" "$remote"
gives_reference "over TCP, least memory" "${drive[0]}" "$remote" --memory min

say "the connection is cut"
timeout --signal=KILL 90 "$penstock" perplexity "${drive[0]}" "$remote" --file "$demo_text" \
    --memory min >out.txt 2>err.txt </dev/null &
running=$!
sleep 2
kill -0 $running || die "the run ended by itself: $(cat err.txt)"
rm $target/ports/1/subsystems/$nqn
cut=$(cut -d' ' -f1 /proc/uptime)
status=0
wait $running || status=$?
[ $status -eq 1 ] || die "status $status: $(cat err.txt)"
tail -n 1 err.txt | grep -q "^penstock: .*$remote" || die "$remote is not named: $(cat err.txt)"
say "$(awk -v a="$cut" '{printf "%.1f s after that: ", $1 - a}' /proc/uptime)$(tail -n 1 err.txt)"

say "it is there again"
ln -s $target/subsystems/$nqn $target/ports/1/subsystems/
nvme disconnect -n $nqn >/dev/null 2>&1 || true
connect
gives_reference "connected again" "${drive[0]}" "$remote"
