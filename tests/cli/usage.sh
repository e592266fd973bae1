#!/usr/bin/env bash
# Wrong usage is status 2 with a hint; help and version are status 0; a failed write is an error.
. "$(dirname "$0")/common.sh"

fails 2 'Usage: penstock' "$penstock"
fails 2 'no command' "$penstock" frobnicate
fails 2 'no command' "$penstock" help frobnicate
for command in layout info verify scrub rebalance wipe plan run batch logits perplexity quality tokenize trace train-predictor probe replay bench "bench io" "bench modes" "bench decode"; do
    read -ra words <<<"$command"
    fails 2 'unrecognized option' "$penstock" "${words[@]}" --frobnicate
    fails 2 'name ' "$penstock" "${words[@]}"
    quiet "$penstock" "${words[@]}" --help
    grep -q "^Usage: penstock $command " out.txt || die "no usage line: $command"
    [ ! -s err.txt ] || die "help on standard error: $command"
    cp out.txt help.txt
    quiet "$penstock" help "${words[@]}"
    same out.txt help.txt "help $command and $command --help"
done
quiet "$penstock" --version
grep -qE '^penstock [0-9]+\.[0-9]+\.[0-9]+$' out.txt || die "no version"
quiet "$penstock" --help
grep -q perplexity out.txt || die "no list of commands"

fails 2 'SOURCE' "$penstock" layout model.gguf
fails 2 'slice-bytes' "$penstock" layout a b --slice-bytes 0
fails 2 'slice-bytes' "$penstock" layout a b --slice-bytes 12Q
fails 2 'empty' "$penstock" layout a ''
fails 2 'rate' "$penstock" scrub v --rate 0
fails 2 'copies' "$penstock" layout a b c --copies 3
fails 2 'MEMBER' "$penstock" rebalance v
fails 2 'copies' "$penstock" rebalance v a --copies 0
fails 2 'one MEMBER' "$penstock" wipe a b
fails 2 'prompt' "$penstock" run v
fails 2 'prompt' "$penstock" run v -p x --ids 1
fails 2 'chat' "$penstock" run v -p x --no-think
fails 2 'uring, passthru, pread' "$penstock" run v -p x --io dma
fails 2 'not an I/O engine' "$penstock" run v -p x --io uring+iopol
fails 2 'not an I/O engine' "$penstock" run v -p x --io pread+sqpoll
fails 2 'not an I/O engine' "$penstock" run v -p x --io fault:smoke@1:uring
fails 2 'f32' "$penstock" logits v --ids 1 --out f --activations bf16
fails 2 'memory' "$penstock" run v -p x --memory lots
fails 2 'memory' "$penstock" run v -p x --memory 0
fails 2 'threads' "$penstock" run v -p x --threads 0
fails 2 'threads' "$penstock" run v -p x --threads -1
fails 2 'temp' "$penstock" run v -p x --temp warm
fails 2 'top-p' "$penstock" run v -p x --top-p 1.5
fails 2 'ctx' "$penstock" run v -p x --ctx 99999999999
fails 2 '--out' "$penstock" logits v --ids 1
fails 2 'unrecognized option' "$penstock" drives --frobnicate
fails 2 'seconds' "$penstock" probe f --seconds 0
fails 2 'no kind' "$penstock" bench frobnicate
fails 2 'size' "$penstock" bench io f --size 5000
fails 2 'size' "$penstock" bench io f --size 128M
fails 2 'depth' "$penstock" bench io f --depth 0
fails 2 'seconds' "$penstock" bench io f --seconds 0
fails 2 'memory' "$penstock" bench modes v
fails 2 'repeat' "$penstock" bench modes v --memory 1G --repeat 0
fails 2 'window' "$penstock" perplexity v --file t --ctx 1

[ -e /dev/full ] || test_skip "there is no /dev/full"
status=0
"$penstock" --help 2>err.txt >/dev/full || status=$?
[ $status -eq 1 ] || die "status $status with a full standard output"
grep -q '^penstock: standard output: ' err.txt || die "a full standard output goes unsaid"
