// llama_speed MODEL.gguf LIBRARIES THREADS PROMPT TOKENS ROUNDS [IDS]: llama.cpp's side of the
// benches, which compile it against its headers and prebuilt libraries (in the folder LIBRARIES).
// The same token ids as `penstock bench decode`, or those in the file IDS, a round that is not
// timed before, llama.cpp's own defaults (mmap, flash attention, repacking of weights unless
// LLAMA_REPACK=0). Prints one line of JSON: what was timed, and what the file says that a token
// touches.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "gguf.h"
#include "llama.h"

namespace
{

// Weights and their bytes that one token's matrices are made of: all of them but the embedding (one
// row) and the experts that the router did not choose. The head is counted apart: of a prompt only
// the last token needs it.
struct work {
    double weights = 0, bytes = 0, head_weights = 0, head_bytes = 0;
};

uint32_t number(const gguf_context *file, const std::string &key)
{
    int64_t id = gguf_find_key(file, key.c_str());
    return id < 0 ? 0 : gguf_get_val_u32(file, id);
}

work look_at(const char *path)
{
    ggml_context *tensors = nullptr;
    gguf_context *file = gguf_init_from_file(path, {true, &tensors});
    work sum;
    if (file == nullptr)
        return sum;
    std::string arch = gguf_get_val_str(file, gguf_find_key(file, "general.architecture"));
    double experts = number(file, arch + ".expert_count");
    double used = number(file, arch + ".expert_used_count");
    bool tied = gguf_find_tensor(file, "output.weight") < 0;
    for (ggml_tensor *t = ggml_get_first_tensor(tensors); t != nullptr;
         t = ggml_get_next_tensor(tensors, t)) {
        std::string name = ggml_get_name(t);
        double share = name.find("_exps.") != std::string::npos ? used / experts : 1;
        if (name == "output.weight" || (name == "token_embd.weight" && tied)) {
            sum.head_weights = static_cast<double>(ggml_nelements(t));
            sum.head_bytes = static_cast<double>(ggml_nbytes(t));
        } else if (name != "token_embd.weight") {
            sum.weights += share * static_cast<double>(ggml_nelements(t));
            sum.bytes += share * static_cast<double>(ggml_nbytes(t));
        }
    }
    gguf_free(file);
    ggml_free(tensors);
    return sum;
}

double now_s()
{
    using clock = std::chrono::steady_clock;
    return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

void quiet(ggml_log_level level, const char *text, void *)
{
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

[[noreturn]] void fail(const char *what)
{
    fprintf(stderr, "llama_speed: %s\n", what);
    exit(1);
}

// Numbers, with commas or blanks between them.
void read_ids(const char *path, std::vector<llama_token> &ids)
{
    FILE *file = fopen(path, "r");
    if (file == nullptr)
        fail("the file of token ids cannot be read");
    for (llama_token &id : ids)
        if (fscanf(file, "%d%*[, \n]", &id) != 1)
            fail("the file holds too few token ids");
    fclose(file);
}

void decode(llama_context *context, std::vector<llama_token> &ids, int begin, int count)
{
    if (llama_decode(context, llama_batch_get_one(ids.data() + begin, count)) != 0 ||
        llama_get_logits_ith(context, -1) == nullptr)
        fail("llama_decode failed");
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 7 || argc > 8)
        fail("usage: llama_speed MODEL.gguf LIBRARIES THREADS PROMPT TOKENS ROUNDS [IDS]");
    int threads = atoi(argv[3]), prompt = atoi(argv[4]), tokens = atoi(argv[5]);
    int rounds = atoi(argv[6]);
    if (threads < 1 || prompt < 1 || tokens < 1 || rounds < 1)
        fail("THREADS, PROMPT, TOKENS and ROUNDS are numbers above 0");
    llama_log_set(quiet, nullptr);
    ggml_backend_load_all_from_path(argv[2]);
    work sum = look_at(argv[1]);
    llama_model_params load = llama_model_default_params();
    const char *repack = getenv("LLAMA_REPACK");
    load.use_extra_bufts = repack == nullptr || strcmp(repack, "0") != 0;
    llama_model *model = llama_model_load_from_file(argv[1], load);
    if (model == nullptr)
        fail("the model cannot be loaded");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(prompt + tokens);
    params.n_batch = static_cast<uint32_t>(prompt);
    params.n_threads = threads;
    params.n_threads_batch = threads;
    llama_context *context = llama_init_from_model(model, params);
    if (context == nullptr)
        fail("no context");

    auto vocab = static_cast<uint64_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
    std::vector<llama_token> ids(static_cast<size_t>(prompt + tokens));
    uint64_t state = 1;
    for (llama_token &id : ids) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        id = static_cast<llama_token>((state >> 33) % vocab);
    }
    if (argc == 8)
        read_ids(argv[7], ids);
    std::string prefill_s, decode_s;
    for (int round = 0; round <= rounds; round++) {
        llama_memory_clear(llama_get_memory(context), true);
        double begin = now_s();
        decode(context, ids, 0, prompt);
        double middle = now_s();
        for (int i = 0; i < tokens; i++)
            decode(context, ids, prompt + i, 1);
        double end = now_s();
        if (round == 0)
            continue;
        const char *comma = round > 1 ? ", " : "";
        prefill_s += comma + std::to_string(prompt / (middle - begin));
        decode_s += comma + std::to_string(tokens / (end - middle));
    }
    printf("{\"prefill_tokens_per_s\": [%s], \"decode_tokens_per_s\": [%s], \"weights\": %.0f, "
           "\"bytes\": %.0f, \"head_weights\": %.0f, \"head_bytes\": %.0f}\n",
           prefill_s.c_str(), decode_s.c_str(), sum.weights, sum.bytes, sum.head_weights,
           sum.head_bytes);
    fflush(stdout);
    // Its worker threads spin for a while yet; nothing that is left here is worth waiting for.
    _Exit(0);
}
