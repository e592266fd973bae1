# shellcheck shell=bash
# Sourced by bench programs: llama.cpp beside Penstock, on the same GGUF file.
#
#   llama_build LIBRARIES HEADERS FOLDER   compiles bench/llama_speed.cpp into FOLDER. LIBRARIES is a folder with
#                                          prebuilt libllama and libggml (those of the npm package node-llama-cpp,
#                                          bins/linux-x64), HEADERS the source tree of the same release.
#   llama_attach MODEL                     a read-only loop device over the file with direct I/O, which has a
#                                          read-ahead of its own; llama_detach when all is done. Root only.
#   llama_limited BYTES READ_AHEAD_KB PROMPT TOKENS [IDS]
#                                          maps the model (mmap, weights as they are in the file) in a fresh
#                                          memory cgroup of so many bytes, page cache included, from cold, with
#                                          all processors; the JSON line of llama_speed.

llama_build()
{
    local libraries name names=()
    libraries=$(cd "$1" && pwd)
    for name in libllama. libggml. libggml-base; do
        names+=("-l:$(basename "$(compgen -G "$libraries/$name*so" | head -n 1)")")
    done
    g++ -O2 -std=c++17 -I"$2/include" -I"$2/ggml/include" "$(dirname "${BASH_SOURCE[0]}")/llama_speed.cpp" \
        -o "$3/llama_speed" -L"$libraries" "${names[@]}" -Wl,-rpath,"$libraries"
    llama_program=$3/llama_speed llama_libraries=$libraries
}

llama_attach()
{
    if [ $(($(stat -c %s "$1") % 512)) -ne 0 ]; then
        printf '%s: a loop device cuts what follows the last whole sector: truncate -s %%512 it first\n' "$1" >&2
        return 1
    fi
    llama_device=$(losetup --find --show --read-only --direct-io=on "$1")
}

llama_detach()
{
    if [ -n "${llama_device:-}" ]; then losetup --detach "$llama_device"; fi
    llama_device=
}

llama_limited()
{
    local group limit=memory.max
    group=/sys/fs/cgroup/penstock-bench-$$
    if [ -d /sys/fs/cgroup/memory ]; then
        group=/sys/fs/cgroup/memory/penstock-bench-$$ limit=memory.limit_in_bytes
    fi
    mkdir "$group"
    echo "$1" >"$group/$limit"
    blockdev --setra $(($2 * 2)) "$llama_device"
    blockdev --flushbufs "$llama_device"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        LLAMA_REPACK=0 exec "$llama_program" "$llama_device" "$llama_libraries" "$(nproc)" "$3" "$4" 1 ${5:+"$5"}
    )
    rmdir "$group"
}
