#!/usr/bin/env bash
# What cmake --install puts in place is complete and works from there; so are the Debian packages,
# which the rig installs (tests/rig/guest/deb.sh).
. "$(dirname "$0")/common.sh"

build=${PENSTOCK_BUILD:?the build folder}
quiet "${PENSTOCK_CMAKE:?cmake}" --install "$build" --prefix "$work/usr"
for path in usr/bin/penstock usr/share/man/man1/penstock.1.gz usr/share/doc/penstock/docs/deploy.md \
    usr/share/doc/penstock/examples/sysctl.conf usr/lib/udev/rules.d/65-penstock.rules \
    usr/lib/systemd/system/penstock-scrub@.service usr/lib/systemd/system/penstock-scrub@.timer \
    usr/lib/sysusers.d/penstock.conf etc/security/limits.d/penstock.conf; do
    [ -s "$path" ] || die "$path is not installed"
done
quiet usr/bin/penstock layout "$demo_gguf" v
quiet usr/bin/penstock verify v
quiet "$PENSTOCK_CMAKE" --install "$build" --prefix "$work/local"
[ -s local/etc/security/limits.d/penstock.conf ] || die "limits outside the prefix"

# The library, as docs/api.md and docs/io.md tell to use it.
export PKG_CONFIG_PATH=$work/usr/lib/pkgconfig
for example in penstock:generate penstock-io:read_objects; do
    read -ra flags <<<"$(pkg-config --cflags --libs "${example%:*}")"
    quiet cc -o "${example#*:}" "$PENSTOCK_DOCS/examples/${example#*:}.c" "${flags[@]}"
done
quiet ./generate v 'Emma was'
[ -s out.txt ] || die "the example says nothing"

command -v dpkg-shlibdeps >/dev/null || { part_skip "dpkg-dev is not installed" && exit 0; }
mkdir -p "$build/package"
rm -f "$build"/package/*.deb
(cd "$build" && quiet "${PENSTOCK_CPACK:?cpack}" -G DEB -B "$build/package")
package=$(find "$build/package" -maxdepth 1 -name 'penstock_*_amd64.deb')
[ -n "$package" ] || die "no package"
quiet dpkg-deb --info "$package"
grep -q 'Depends:.*liburing2.*' out.txt || die "no dependencies: $(cat out.txt)"
quiet dpkg-deb --contents "$package"
for path in ./usr/bin/penstock ./usr/lib/udev/rules.d/65-penstock.rules \
    ./etc/security/limits.d/penstock.conf ./usr/share/doc/penstock/copyright; do
    grep -qF " $path" out.txt || die "the package lacks $path"
done
if grep -vE ' \./(usr|etc)/| \./$' out.txt; then die "the package holds something strange"; fi
if command -v lintian >/dev/null; then quiet lintian --fail-on error --allow-root "$package"; fi
