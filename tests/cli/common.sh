# shellcheck shell=bash disable=SC2034
# Sourced by the tests of the command. PENSTOCK is the command; PENSTOCK_DEMO the demo model's folder;
# PENSTOCK_DEMO_HF its BF16 checkpoint, which may be absent.
set -euo pipefail

penstock=${PENSTOCK:?the command to test}
demo_gguf=${PENSTOCK_DEMO:?the folder of the demo model}/demo-q4_0.gguf
demo_text=$PENSTOCK_DEMO/valid.txt
work=$(mktemp -d "${TMPDIR:-/var/tmp}/penstock-cli-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

die()
{
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# part_skip REASON: this part of the test cannot run here.
part_skip()
{
    printf 'SKIP: %s\n' "$*"
}

test_skip()
{
    part_skip "$@"
    exit 77
}

# fails STATUS PATTERN COMMAND...: the command leaves with this status and says why on standard error;
# for status 1 in exactly one line "penstock: ...".
fails()
{
    local expected=$1 pattern=$2 status=0
    shift 2
    "$@" >"$work/out.txt" 2>"$work/err.txt" </dev/null || status=$?
    [ "$status" -eq "$expected" ] ||
        die "status $status instead of $expected: $*: $(cat "$work/err.txt")"
    grep -qiE -- "$pattern" "$work/err.txt" ||
        die "no /$pattern/ in the error of: $*: $(cat "$work/err.txt")"
    if [ "$expected" -eq 1 ]; then
        [ "$(wc -l <"$work/err.txt")" -eq 1 ] || die "not one line: $*: $(cat "$work/err.txt")"
        grep -q '^penstock: ' "$work/err.txt" || die "no program name: $(cat "$work/err.txt")"
    fi
}

# quiet COMMAND...: the command succeeds; what it says is shown only if it does not.
quiet()
{
    "$@" >"$work/out.txt" 2>"$work/err.txt" </dev/null ||
        die "status $?: $*: $(cat "$work/err.txt")"
}

# json FILTER COMMAND...: the command prints JSON alone, and the filter holds.
json()
{
    local filter=$1
    shift
    quiet "$@"
    jq -e "$filter" out.txt >/dev/null || die "$filter does not hold for: $*: $(cat out.txt)"
}

same()
{
    cmp "$1" "$2" || die "$1 and $2 differ: $3"
}

need_jq()
{
    command -v jq >/dev/null || test_skip "jq is not installed"
}
