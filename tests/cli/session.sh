#!/usr/bin/env bash
# --session: a run in parts says what the whole run says; a file that is no session for this run stays as it is.
. "$(dirname "$0")/common.sh"
need_jq

quiet "$penstock" layout "$demo_gguf" v
text='Once upon a time there was'

# in_parts OPTION...: 18 tokens at once, and as 7, 1 and 10, through a file.
in_parts()
{
    rm -f s
    quiet "$penstock" run v -p "$text" -n 18 --temp 0 --json "$@"
    jq -c .ids out.txt >whole
    quiet "$penstock" run v -p "$text" -n 7 --temp 0 --json --session s "$@"
    jq -c .ids out.txt >first
    quiet "$penstock" run v -n 1 --temp 0 --json --session s --memory min "$@"
    jq -c .ids out.txt >second
    quiet "$penstock" run v -n 10 --temp 0 --json --session s --threads 1 --ctx 700 "$@"
    jq -c .ids out.txt | jq -cs 'add' first second - >parts
    same parts whole "in parts and at once, $*"
}
in_parts
in_parts --temp 0.9 --seed 1 --repeat-penalty 1.3
in_parts --kv q8_0 --kv-window 5
in_parts --activations f32 --kv-window 5

# Refused: the file stays, and nothing is left beside it.
refused()
{
    local pattern=$1 status=0
    shift
    cp s before
    "$penstock" run v -n 1 --session s "$@" >out.txt 2>err.txt || status=$?
    [ $status -eq 1 ] || die "status $status with $*: $(cat err.txt)"
    tail -n 1 err.txt | grep -qE "^penstock: .*($pattern)" || die "no /$pattern/ with $*: $(cat err.txt)"
    same s before "a refused session was changed"
    ! compgen -G 's.*' >/dev/null || die "something was left behind: $(echo s.*)"
}
refused '--kv: .*f16|--kv-window: .*5'
refused '--kv-window: .*5' --activations f32
refused '--kv: .*f16' --kv f32 --activations f32 --kv-window 5
refused '--activations: .*f32' --kv-window 5
refused '--experts-used' --activations f32 --kv-window 5 --experts-used 2
refused '--ctx: .*larger' --activations f32 --kv-window 5 --ctx 8
refused '--system' --activations f32 --kv-window 5 -p x --chat --system y
for bytes in 0 7 60 1000 $(($(stat -c %s s) - 1)); do
    cp s whole
    head -c "$bytes" whole >s
    refused 's: .*(not a session|was cut)' --activations f32 --kv-window 5
    mv whole s
done
cp v s
refused 's: .*not a session'
rm s
fails 1 's: .*give a prompt' "$penstock" run v -n 1 --session s
[ ! -e s ] || die "a failed run left a session behind"
fails 1 'plain file' "$penstock" run v -n 1 -p x --session /dev/null
fails 2 'prompt' "$penstock" run v -n 1
fails 1 '--session and --stats are the same' "$penstock" run v -p x -n 1 --session s --stats ./s
fails 1 '--session and --timeline are the same' "$penstock" run v -p x -n 1 --session s --timeline s
fails 1 '--stats and --timeline are the same' "$penstock" run v -p x -n 1 --stats s --timeline s
[ ! -e s ] || die "a refused run left a file behind"
quiet "$penstock" run v -p x -n 1 --stats /dev/null --timeline /dev/null

# A conversation: the second turn closes the first, and is what the template makes of it.
quiet "$penstock" run v -p Hello --chat -n 5 --temp 0 --json --session s
jq -c .ids out.txt >said
quiet "$penstock" run v -p Again --chat -n 5 --temp 0 --json --session s
jq -c .ids out.txt >first
{
    printf '<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n' | "$penstock" tokenize v
    cat said
    printf '<|im_end|>\n<|im_start|>user\nAgain<|im_end|>\n<|im_start|>assistant\n' | "$penstock" tokenize v
} | jq -cs add >ids
quiet "$penstock" run v --ids "$(cat ids)" -n 5 --temp 0 --json
jq -c .ids out.txt >second
same first second "a turn in a session and the conversation as ids"

# The same model on other members goes on; another layout of it is another model.
quiet "$penstock" layout "$demo_gguf" two.a two.b
quiet "$penstock" run two.a -n 2 --temp 0 --session s
quiet "$penstock" layout "$demo_gguf" other --quant experts=q8_0,rest=keep
cp s before
fails 1 'another model' "$penstock" run other -n 2 --session s
same s before "another model changed the session"

# Ctrl-C keeps what was said.
status=0
timeout --signal=INT --preserve-status 2 "$penstock" run v -p "$text" -n 1000000 --temp 0 \
    --repeat-penalty 1.3 --session stopped >said 2>/dev/null || status=$?
[ $status -eq 130 ] || [ $status -eq 0 ] || die "status $status" # 0: the model came to an end
[ -s said ] || die "nothing was said"
quiet "$penstock" run v -n 3 --temp 0 --session stopped
