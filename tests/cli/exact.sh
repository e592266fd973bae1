#!/usr/bin/env bash
# The bytes of the logits depend on nothing but the model and the tokens.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" one
ids=$(head -c 400 "$demo_text" | "$penstock" tokenize one | jq -r 'join(",")')
quiet "$penstock" logits one --ids "$ids" --out reference.f32
quiet "$penstock" logits one --ids "$ids" --decode --out decode.f32
same decode.f32 reference.f32 "one by one and as one prompt"

# alike WHAT OPTION...: these options give the reference's bytes.
alike()
{
    local what=$1
    shift
    quiet "$penstock" logits "$@" --ids "$ids" --out other.f32
    same other.f32 reference.f32 "$what"
}

for io in uring pread pagecache mmap; do
    alike "--io $io" one --io $io
    alike "--io $io, least memory" one --io $io --memory min
done
floor=$("$penstock" plan one --kv f32 --activations f32 --json --memory 1G | jq .floor_bytes)
for more in 1 3 6 10; do
    alike "$more MiB over the floor" one --memory $((floor + more * 1048576))
done
alike "least memory, one by one" one --memory min --decode
for threads in 1 2 3 5; do
    alike "$threads threads" one --threads $threads
    alike "$threads threads, least memory" one --threads $threads --memory min
done
for chunk in 1 7 64 100; do
    alike "prompt in chunks of $chunk" one --chunk $chunk
done
quiet "$penstock" layout "$demo_gguf" three.a three.b three.c
alike "three members" three.b
alike "three members, least memory" three.a three.b three.c --memory min
quiet "$penstock" wipe three.a
quiet "$penstock" wipe three.b
quiet "$penstock" wipe three.c
for slice_bytes in 4096 12K 1G; do
    quiet "$penstock" layout "$demo_gguf" sliced --slice-bytes $slice_bytes
    alike "slices of $slice_bytes" sliced --memory min
    quiet "$penstock" wipe sliced
done

# There was something to get wrong: the least memory evicts.
"$penstock" run one --ids "$ids" -n 16 --temp 0 --memory min --stats stats.json >min.txt 2>/dev/null
jq -e '.cache.evictions > 0 and .cache.misses > .cache.slots' stats.json >/dev/null ||
    die "no eviction under --memory min: $(cat stats.json)"
"$penstock" run one --ids "$ids" -n 16 --temp 0 >all.txt 2>/dev/null
same min.txt all.txt "generated text"

# Lower CPU levels give the same bytes (docs/decisions/0001).
for cpu in avx2 scalar; do
    PENSTOCK_CPU=$cpu alike "$cpu, least memory, 3 threads" one --memory min --threads 3
    PENSTOCK_CPU=$cpu alike "$cpu, pread, in chunks of 5" one --io pread --chunk 5
done
