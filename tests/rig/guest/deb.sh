#!/bin/bash
# The Debian package installed, used and removed: what docs/deploy.md promises about permissions is so,
# for partitions and whole drives, and nothing stays behind.
# rig deb: --drives 2 --nodes 1 --mem 2G --drive-size 128M
# fetch udev /lib/systemd/systemd-udevd
. "$(dirname "$0")/common.sh"
need dpkg setpriv runuser sgdisk sfdisk nvme systemd-analyze systemd-sysusers
package=$(find "$build/package" -maxdepth 1 -name 'penstock_*_amd64.deb')
[ -n "$package" ] || test_skip "there is no package; ctest -R cli_install makes one"

# udev, which this machine may not have: the one of the fetched package.
[ -e /lib/systemd/systemd-udevd ] ||
    tar -C "$build/rig/udev" -cf - . | tar -C / -xf - --keep-directory-symlink
export SYSTEMD_IGNORE_CHROOT=1 # the guest's root is one, and udevadm would do nothing in it
say "udev starts"
quiet /lib/systemd/systemd-udevd --daemon
quiet udevadm trigger --action=add --subsystem-match=block --subsystem-match=nvme-generic
quiet udevadm settle

# owned PATH WHO: group and mode are these.
owned()
{
    [ "$(stat -Lc '%U:%G %a' "$1")" = "$2" ] || die "$1 is $(stat -Lc '%U:%G %a' "$1"), not $2"
}

say "install $(basename "$package")"
partition "${drive[0]}" +48M
part=${drive[0]}p1
! getent group penstock || die "the group exists already"
quiet dpkg --no-triggers -i "$package" # the trigger of man-db reads every page that there is
dpkg -L penstock >installed.txt
getent group penstock >/dev/null || die "no group"
[ "$(command -v penstock)" -ef /usr/bin/penstock ] || die "no command"
for unit in penstock-scrub@.service penstock-scrub@.timer; do
    quiet systemd-analyze verify --man=no /usr/lib/systemd/system/$unit
    [ ! -s err.txt ] || die "$unit: $(cat err.txt)"
done

say "a partition of Penstock's type; a whole drive once it is a member"
quiet udevadm settle
owned "$part" 'root:penstock 640'
owned "${drive[0]}" 'root:disk 660'
owned "${drive[1]}" 'root:disk 660'
penstock=/usr/bin/penstock
lay_out "$part" "${drive[1]}"
quiet udevadm settle
owned "${drive[1]}" 'root:penstock 640'
owned "$part" 'root:penstock 640'

say "somebody of the group reads, without root"
useradd --no-create-home --groups penstock reader
useradd --no-create-home stranger
chmod 755 "$work"
install -d -o reader "$work/reader"
cd "$work/reader"
as_reader=(runuser -u reader --)
quiet "${as_reader[@]}" "$penstock" info "$part"
quiet "${as_reader[@]}" "$penstock" verify "$part"
quiet "${as_reader[@]}" "$penstock" run "$part" -p 'Emma was' -n 6 --temp 0 --stats stats.json
same "$work/out.txt" "$reference/text" "what a user of the group generates"
jq -e '.io.engine == "uring" and .io.direct and .io.registered_buffers' stats.json >/dev/null ||
    die "not the whole engine: $(jq -c .io stats.json)"
fails 1 'no permission' runuser -u stranger -- "$penstock" info "$part"
fails 1 'no permission' "${as_reader[@]}" "$penstock" wipe "$part"
quiet "$penstock" verify "$part"
if "$penstock" help scrub >/dev/null 2>&1; then
    quiet setpriv --reuid=65534 --regid=65534 --groups="$(getent group penstock | cut -d: -f3)" \
        "$penstock" scrub --rate 100M "$part"
fi

say "passthrough for the group, by the rule of docs/deploy.md"
owned "${char[1]}" 'root:root 600'
cat >/etc/udev/rules.d/66-penstock-passthru.rules <<'END'
SUBSYSTEM=="nvme-generic", ATTRS{serial}=="rig1*", GROUP="penstock", MODE="0640"
END
quiet udevadm control --reload
quiet udevadm trigger --action=change --subsystem-match=nvme-generic
quiet udevadm settle
owned "${char[1]}" 'root:penstock 640'
owned "${char[0]}" 'root:root 600'
read_block=(nvme io-passthru "${char[1]}" --opcode=2 --namespace-id=1 --data-len=512 --raw-binary)
case $(uname -r) in
[1-5].* | 6.[01].*)
    if "${as_reader[@]}" "${read_block[@]}" --read >block 2>err.txt; then
        die "passthrough without CAP_SYS_ADMIN before Linux 6.2"
    fi
    ;;
*)
    "${as_reader[@]}" "${read_block[@]}" --read >block 2>err.txt || die "$(cat err.txt)"
    [ "$(head -c 8 block)" = PENSTOCK ] || die "passthrough read something else"
    if "${as_reader[@]}" nvme io-passthru "${char[1]}" --opcode=1 --namespace-id=1 --data-len=512 \
        --write --input-file=block >out.txt 2>err.txt; then
        die "a reader can write by passthrough"
    fi
    if "$penstock" help run | grep -q passthru; then
        lay_out "${drive[1]}"
        quiet udevadm settle
        quiet "${as_reader[@]}" "$penstock" run "${drive[1]}" -p 'Emma was' -n 6 --temp 0 \
            --io passthru --stats stats.json
        same "$work/out.txt" "$reference/text" "what passthrough reads for a user of the group"
        jq -e '.io.engine == "passthru"' stats.json >/dev/null || die "$(cat "$work/err.txt")"
    fi
    ;;
esac
cd "$work"

say "a drive that is wiped goes back, a partition keeps its type"
quiet "$penstock" wipe "${drive[1]}"
quiet udevadm settle
owned "${drive[1]}" 'root:disk 660'
owned "$part" 'root:penstock 640'

say "remove and purge"
quiet dpkg --no-triggers -r penstock
while read -r path; do
    if [ ! -d "$path" ] && [ -e "$path" ]; then
        [ "$path" = /etc/security/limits.d/penstock.conf ] || die "$path stays after dpkg -r"
    fi
done <installed.txt
quiet udevadm settle
owned "$part" 'root:disk 660'
gpasswd -d reader penstock >/dev/null 2>&1
quiet dpkg --no-triggers -P penstock
for path in /etc/security/limits.d/penstock.conf /usr/share/doc/penstock; do
    [ ! -e "$path" ] || die "$path stays after dpkg -P"
done
! getent group penstock || die "the group stays"
! dpkg-query -s penstock >/dev/null 2>&1 || die "dpkg still knows it"

say "the same partition by sfdisk, as docs/deploy.md has it"
printf 'label: gpt\nsize=48M, type=%s, name="Penstock volume member"\n' $member_guid |
    sfdisk --quiet "${drive[1]}" >out.txt 2>err.txt || die "sfdisk: $(cat err.txt)"
quiet udevadm settle
[ "$(lsblk -dno PARTTYPE "${drive[1]}p1")" = $member_guid ] || die "$(lsblk -o +PARTTYPE)"
[ $(($(cat "/sys/class/block/${drive[1]#/dev/}p1/start") % 2048)) -eq 0 ] || die "not at 1 MiB"
