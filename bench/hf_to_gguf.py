#!/usr/bin/env python3
"""hf_to_gguf.py DIRECTORY OUT.gguf: a Qwen3.5-MoE checkpoint in BF16 as a GGUF file, matrices in BF16.

The source that bench/quality_vs_llama gives to llama.cpp's quantiser. Plain Python; for small models, since it
holds the whole of it. One file model.safetensors, config.json and tokenizer.json are read. Bytes of matrices are
moved, never rounded; vectors and routers become F32, as GGUF wants them.
"""
import array
import json
import math
import os
import struct
import sys

U32, I32, FLOAT, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
FORMATS = {U32: "<I", I32: "<i", FLOAT: "<f", BOOL: "<?"}
F32, BF16 = 0, 30
ALIGN = 32


class Checkpoint:
    def __init__(self, directory):
        with open(os.path.join(directory, "model.safetensors"), "rb") as file:
            head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            self.data = file.read()
        self.tensors = {name: t for name, t in head.items() if name != "__metadata__"}

    def raw(self, name):
        """The shape and the bytes of a BF16 tensor."""
        t = self.tensors[name]
        if t["dtype"] != "BF16":
            sys.exit(f"hf_to_gguf: {name} is {t['dtype']}, not BF16")
        begin, end = t["data_offsets"]
        return t["shape"], self.data[begin:end]

    def floats(self, name):
        t = self.tensors[name]
        begin, end = t["data_offsets"]
        if t["dtype"] == "F32":
            return array.array("f", self.data[begin:end])
        halves = array.array("H", self.raw(name)[1])
        return array.array("f", array.array("I", (half << 16 for half in halves)).tobytes())


class Gguf:
    def __init__(self):
        self.pairs, self.tensors = [], []

    @staticmethod
    def string(text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def value(self, kind, v):
        return self.string(v) if kind == STRING else struct.pack(FORMATS[kind], v)

    def put(self, key, kind, v):
        self.pairs.append(self.string(key) + struct.pack("<I", kind) + self.value(kind, v))

    def put_array(self, key, kind, values):
        self.pairs.append(self.string(key) + struct.pack("<IIQ", ARRAY, kind, len(values)) +
                          b"".join(self.value(kind, v) for v in values))

    def matrix(self, name, shape, data):
        """A BF16 tensor; the first of `shape` is the slowest, as in safetensors."""
        self.tensors.append((name, shape, BF16, data))

    def vector(self, name, values, shape=None):
        self.tensors.append((name, shape or [len(values)], F32, array.array("f", values).tobytes()))

    def write(self, path):
        infos, offset = [], 0
        for name, shape, kind, data in self.tensors:
            infos.append(self.string(name) + struct.pack("<I", len(shape)) +
                         b"".join(struct.pack("<Q", n) for n in reversed(shape)) +
                         struct.pack("<IQ", kind, offset))
            offset += len(data) + -len(data) % ALIGN
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.pairs))
        head += b"".join(self.pairs) + b"".join(infos)
        with open(path, "wb") as file:
            file.write(head + bytes(-len(head) % ALIGN))
            for *_, data in self.tensors:
                file.write(data + bytes(-len(data) % ALIGN))


class Heads:
    """GGUF numbers value head t as what the checkpoint calls (t mod nk) * r + t / nk, of r per key head."""

    def __init__(self, config):
        self.keys = config["linear_num_key_heads"]
        self.values = config["linear_num_value_heads"]
        self.width = config["linear_value_head_dim"]
        self.key_rows = 2 * self.keys * config["linear_key_head_dim"]

    def tiled(self, items, run):
        """`items` (bytes or an array) in GGUF's order; a head is `run` of them."""
        each = self.values // self.keys
        parts = [items[h * run:(h + 1) * run] for h in
                 (t % self.keys * each + t // self.keys for t in range(self.values))]
        joined = parts[0][:0]
        for part in parts:
            joined += part
        return joined

    def behind_keys(self, items, row):
        """Rows of queries and keys stay; those of the values behind them are reordered."""
        cut = self.key_rows * row
        return items[:cut] + self.tiled(items[cut:], self.width * row)

    def columns(self, data, row):
        return b"".join(self.tiled(data[i:i + row], self.width * 2) for i in range(0, len(data), row))


def put_config(out, c):
    head = c["head_dim"]
    rotated = int(head * c["rope_parameters"].get("partial_rotary_factor", 0.25))
    pairs = rotated // 2
    sections = c["rope_parameters"].get("mrope_section",
                                        [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3])
    values = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": rotated,
        "expert_count": c["num_experts"],
        "expert_used_count": c["num_experts_per_tok"],
        "expert_feed_forward_length": c["moe_intermediate_size"],
        "expert_shared_feed_forward_length": c["shared_expert_intermediate_size"],
        "ssm.conv_kernel": c["linear_conv_kernel_dim"],
        "ssm.state_size": c["linear_key_head_dim"],
        "ssm.group_count": c["linear_num_key_heads"],
        "ssm.time_step_rank": c["linear_num_value_heads"],
        "ssm.inner_size": c["linear_num_value_heads"] * c["linear_value_head_dim"],
        "full_attention_interval": c["full_attention_interval"],
        "vocab_size": c["vocab_size"],
    }
    out.put("general.architecture", STRING, "qwen35moe")
    out.put("general.alignment", U32, ALIGN)
    for key, v in values.items():
        out.put("qwen35moe." + key, U32, v)
    out.put("qwen35moe.attention.layer_norm_rms_epsilon", FLOAT, c["rms_norm_eps"])
    out.put("qwen35moe.rope.freq_base", FLOAT, c["rope_parameters"]["rope_theta"])
    out.put_array("qwen35moe.rope.dimension_sections", I32, (sections + [0])[:4])


def put_tokenizer(out, directory, c):
    with open(os.path.join(directory, "tokenizer.json"), encoding="utf-8") as file:
        source = json.load(file)
    tokens = [f"[unused {i}]" for i in range(c["vocab_size"])]
    kinds = [5] * c["vocab_size"]
    for text, i in source["model"]["vocab"].items():
        tokens[i], kinds[i] = text, 1
    for added in source["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], 3 if added["special"] else 4
    merges = [m if isinstance(m, str) else " ".join(m) for m in source["model"]["merges"]]
    out.put("tokenizer.ggml.model", STRING, "gpt2")
    out.put("tokenizer.ggml.pre", STRING, "qwen35")
    out.put_array("tokenizer.ggml.tokens", STRING, tokens)
    out.put_array("tokenizer.ggml.token_type", I32, kinds)
    out.put_array("tokenizer.ggml.merges", STRING, merges)
    out.put("tokenizer.ggml.eos_token_id", U32, c["eos_token_id"])
    out.put("tokenizer.ggml.add_bos_token", BOOL, False)


def put_attention(out, source, to, name):
    for a, b in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")):
        out.matrix(f"{to}attn_{a}.weight", *source.raw(f"{name}self_attn.{b}_proj.weight"))
    for a in "qk":
        norm = source.floats(f"{name}self_attn.{a}_norm.weight")
        out.vector(f"{to}attn_{a}_norm.weight", [w + 1 for w in norm])


def put_delta(out, source, to, name, heads):
    name += "linear_attn."
    shape, data = source.raw(name + "in_proj_qkv.weight")
    row = 2 * shape[1]
    out.matrix(to + "attn_qkv.weight", shape, heads.behind_keys(data, row))
    for a, b, run in (("attn_gate", "z", heads.width), ("ssm_beta", "b", 1), ("ssm_alpha", "a", 1)):
        shape, data = source.raw(f"{name}in_proj_{b}.weight")
        out.matrix(f"{to}{a}.weight", shape, heads.tiled(data, run * row))
    shape, data = source.raw(name + "out_proj.weight")
    out.matrix(to + "ssm_out.weight", shape, heads.columns(data, 2 * shape[1]))
    shape = source.tensors[name + "conv1d.weight"]["shape"]
    taps = source.floats(name + "conv1d.weight")
    out.vector(to + "ssm_conv1d.weight", heads.behind_keys(taps, shape[2]), [shape[0], shape[2]])
    decay = [-math.exp(a) for a in source.floats(name + "A_log")]
    out.vector(to + "ssm_a", heads.tiled(decay, 1))
    out.vector(to + "ssm_dt.bias", heads.tiled(source.floats(name + "dt_bias"), 1))
    out.vector(to + "ssm_norm.weight", source.floats(name + "norm.weight"))


def put_experts(out, source, to, name):
    name += "mlp."
    router = name + "gate.weight"
    out.vector(to + "ffn_gate_inp.weight", source.floats(router), source.tensors[router]["shape"])
    (experts, rows, columns), data = source.raw(name + "experts.gate_up_proj")
    half = rows // 2 * columns * 2
    for i, a in enumerate(("gate", "up")):
        halves = (data[(2 * e + i) * half:(2 * e + i + 1) * half] for e in range(experts))
        out.matrix(f"{to}ffn_{a}_exps.weight", [experts, rows // 2, columns], b"".join(halves))
    out.matrix(to + "ffn_down_exps.weight", *source.raw(name + "experts.down_proj"))
    out.vector(to + "ffn_gate_inp_shexp.weight", source.floats(name + "shared_expert_gate.weight"))
    for a in ("gate", "up", "down"):
        out.matrix(f"{to}ffn_{a}_shexp.weight", *source.raw(f"{name}shared_expert.{a}_proj.weight"))


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: hf_to_gguf.py DIRECTORY OUT.gguf")
    directory = sys.argv[1]
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        c = json.load(file)
    if c.get("model_type") != "qwen3_5_moe_text" or c["tie_word_embeddings"]:
        sys.exit("hf_to_gguf: not a text-only Qwen3.5-MoE with a head of its own")
    source, out, heads = Checkpoint(directory), Gguf(), Heads(c)
    put_config(out, c)
    put_tokenizer(out, directory, c)
    out.matrix("token_embd.weight", *source.raw("model.embed_tokens.weight"))
    out.vector("output_norm.weight", [w + 1 for w in source.floats("model.norm.weight")])
    out.matrix("output.weight", *source.raw("lm_head.weight"))
    for i, kind in enumerate(c["layer_types"]):
        name, to = f"model.layers.{i}.", f"blk.{i}."
        for a, b in (("attn", "input_layernorm"), ("post_attention", "post_attention_layernorm")):
            norm = source.floats(f"{name}{b}.weight")
            out.vector(f"{to}{a}_norm.weight", [w + 1 for w in norm])
        if kind == "full_attention":
            put_attention(out, source, to, name)
        else:
            put_delta(out, source, to, name, heads)
        put_experts(out, source, to, name)
    out.write(sys.argv[2])


main()
