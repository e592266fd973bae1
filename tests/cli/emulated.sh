#!/usr/bin/env bash
# Processors without AVX-512, and without AVX2, emulated: the kernels that are left generate what this
# processor does, and no instruction is illegal.
. "$(dirname "$0")/common.sh"
need_jq
command -v qemu-x86_64 >/dev/null || test_skip "qemu-x86_64 is not installed (package qemu-user)"

quiet "$penstock" layout "$demo_gguf" v
# io_uring is not emulated; the reads are not what is tested.
run=(run v --ids "69,1017,331" -n 3 --temp 0 --threads 1 --io pread --memory min --ctx 16 --json)
quiet "$penstock" "${run[@]}"
expected=$(jq -c .ids out.txt)

# emulated MODEL LEVEL: the same tokens, at this level.
emulated()
{
    timeout 120 qemu-x86_64 -cpu "$1" "$penstock" "${run[@]}" >out.txt 2>err.txt ||
        die "status $? on a $1: $(cat err.txt)"
    [ "$(jq -c .ids out.txt)" = "$expected" ] || die "other tokens on a $1: $(cat out.txt)"
    [ "$(jq -r .stats.cpu out.txt)" = "$2" ] || die "not the level $2 on a $1: $(cat out.txt)"
}
emulated Nehalem scalar
timeout 120 qemu-x86_64 -cpu Nehalem "${PENSTOCK_BUILD:?}/tests/test_checkkernel" --rounds 1 \
    --level scalar >out.txt 2>err.txt ||
    die "the checker of kernels leaves with $? on a Nehalem: $(tail -n 3 out.txt err.txt)"
# Not the checker here: QEMU reads all of the operand of a masked load, guard pages too, where the
# processor reads what the mask names.
emulated Haswell avx2
