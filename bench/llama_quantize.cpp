// llama_quantize IN.gguf OUT.gguf LIBRARIES EXPERTS OTHERS: the other side of
// bench/quality_vs_llama, which compiles it against llama.cpp's headers and prebuilt libraries (in
// the folder LIBRARIES). llama.cpp's quantiser makes the matrices of the routed experts the type
// EXPERTS and all others OTHERS; a type whose blocks do not divide a matrix's rows becomes q8_0
// there, as `penstock layout` has it. What stays unquantised (routers, norms) llama.cpp decides. No
// importance.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "gguf.h"
#include "llama.h"

namespace
{

struct choice {
    std::string pattern;
    ggml_type type;
};

[[noreturn]] void fail(const std::string &what)
{
    fprintf(stderr, "llama_quantize: %s\n", what.c_str());
    exit(1);
}

void quiet(ggml_log_level level, const char *text, void *)
{
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

ggml_type type_of(const std::string &name)
{
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char *known = ggml_type_name(static_cast<ggml_type>(i));
        if (known != nullptr && name == known)
            return static_cast<ggml_type>(i);
    }
    if (name == "q4_k" || name == "q6_k")
        return name == "q4_k" ? GGML_TYPE_Q4_K : GGML_TYPE_Q6_K;
    fail("no type " + name);
}

// One choice for each tensor by its name, so that none of llama.cpp's mixtures applies.
std::vector<choice> choose(const char *path, ggml_type experts, ggml_type others)
{
    ggml_context *tensors = nullptr;
    gguf_context *file = gguf_init_from_file(path, {true, &tensors});
    std::vector<choice> all;
    if (file == nullptr)
        fail("the model cannot be read");
    for (ggml_tensor *t = ggml_get_first_tensor(tensors); t != nullptr;
         t = ggml_get_next_tensor(tensors, t)) {
        std::string name = ggml_get_name(t);
        ggml_type type = name.find("_exps.") != std::string::npos ? experts : others;
        if (t->ne[0] % ggml_blck_size(type) != 0)
            type = GGML_TYPE_Q8_0;
        all.push_back({"^" + name + "$", type});
    }
    gguf_free(file);
    ggml_free(tensors);
    return all;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 6)
        fail("usage: llama_quantize IN.gguf OUT.gguf LIBRARIES EXPERTS OTHERS");
    llama_log_set(quiet, nullptr);
    ggml_backend_load_all_from_path(argv[3]);
    std::vector<choice> choices = choose(argv[1], type_of(argv[4]), type_of(argv[5]));
    std::vector<llama_model_tensor_override> overrides;
    for (const choice &c : choices)
        overrides.push_back({c.pattern.c_str(), c.type});
    overrides.push_back({nullptr, GGML_TYPE_COUNT});
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
    params.tt_overrides = overrides.data();
    if (llama_model_quantize(argv[1], argv[2], &params) != 0)
        fail("llama.cpp cannot quantise this");
    return 0;
}
