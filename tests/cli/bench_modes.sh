#!/usr/bin/env bash
# The comparison of I/O engines: every engine decodes the same tokens under the ceiling, as a table, as
# JSON and as a picture.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
json '[.modes[].mode] == ["uring", "pread", "pagecache", "mmap"] and .rounds == 2 and .tokens == 6 and
    .memory_bytes == 41943040 and .drives_bytes_per_s > 0 and .request_bytes == 28672 and
    all(.modes[]; .tokens_per_s.least > 0 and .tokens_per_s.least <= .tokens_per_s.median and
        .tokens_per_s.median <= .tokens_per_s.most and .cpu_s_per_token > 0 and
        .read_bytes_per_token > 0 and .peak_bytes > 0 and .peak_bytes <= 41943040 and
        .page_faults_per_token.minor >= 0)' \
    "$penstock" bench modes v --memory 40M --repeat 2 --tokens 6 --warm 2 --json --svg a.svg
for text in '<svg ' 'tokens/s' 'GB/s' 'Page faults per token' 'CPU time per token, ms' '>mmap<' \
    'prefers-color-scheme' '</svg>'; do
    grep -qF -- "$text" a.svg || die "no $text in the picture"
done
quiet "$penstock" bench modes v --memory min --repeat 1 --tokens 2 --warm 0 --file "$demo_text" --svg -
{ head -c 5 out.txt | grep -q '^<svg ' && tail -n 1 out.txt | grep -q '^</svg>$'; } ||
    die "not the picture alone: $(cat out.txt)"
mv err.txt out.txt
grep -q '^mmap  *[0-9]' out.txt || die "no row for mmap: $(cat out.txt)"
grep -q '^drives alone' out.txt || die "no row for the drives: $(cat out.txt)"

fails 1 'at least' "$penstock" bench modes v --memory 1M
fails 1 'nowhere' "$penstock" bench modes nowhere --memory 1G
fails 1 'member of a volume' "$penstock" bench modes v --memory 40M --svg v
: >empty
fails 1 'empty' "$penstock" bench modes v --memory 40M --file empty
status=0
timeout --signal=INT --kill-after=20 --preserve-status 0.5 "$penstock" bench modes v --memory 40M \
    --svg stopped.svg >out.txt 2>err.txt || status=$?
[ $status -eq 130 ] || die "status $status after Ctrl-C: $(cat err.txt)"
compgen -G 'stopped.svg*' >/dev/null && die "a part of the picture was left behind"
[ ! -s out.txt ] || die "a stopped comparison says: $(cat out.txt)"
