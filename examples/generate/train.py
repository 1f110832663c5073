# Trains the tiny model in model/ on the text in corpus/ and writes it in Hugging Face's layout.
# Llama architecture over bytes: token i is byte i, token 256 ends a document. AdamW on windows at
# random offsets, dropout, some input bytes replaced at random; of the running average of the
# weights, the one with the lowest validation loss is kept, rounded to bf16, and then measured once
# on the held-out part. The only file of the project that needs PyTorch.
#
#   python examples/generate/train.py --out /tmp/model        (minutes on a GPU, hours on a CPU)
import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import holdout

END = 256


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        kv = c.kv_heads * c.head_dim
        self.input_layernorm = nn.RMSNorm(c.width, eps=1e-5)
        self.q_proj = nn.Linear(c.width, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.width, kv, bias=False)
        self.v_proj = nn.Linear(c.width, kv, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.width, bias=False)
        self.post_attention_layernorm = nn.RMSNorm(c.width, eps=1e-5)
        self.gate_proj = nn.Linear(c.width, c.hidden, bias=False)
        self.up_proj = nn.Linear(c.width, c.hidden, bias=False)
        self.down_proj = nn.Linear(c.hidden, c.width, bias=False)

    def forward(self, x, cos, sin):
        drop = self.c.dropout if self.training else 0.0
        b, t, _ = x.shape

        def heads(y, n):
            return y.view(b, t, n, self.c.head_dim).transpose(1, 2)

        def rotate(y):
            low, high = y.chunk(2, dim=-1)
            return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

        y = self.input_layernorm(x)
        q = rotate(heads(self.q_proj(y), self.c.heads))
        k = rotate(heads(self.k_proj(y), self.c.kv_heads))
        v = heads(self.v_proj(y), self.c.kv_heads)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=True, enable_gqa=True)
        x = x + F.dropout(self.o_proj(y.transpose(1, 2).reshape(b, t, -1)), drop)
        y = self.post_attention_layernorm(x)
        y = self.down_proj(F.dropout(F.silu(self.gate_proj(y)) * self.up_proj(y), drop))
        return x + F.dropout(y, drop)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(END + 1, c.width)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.width, eps=1e-5)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c.layers) if deep else 1))

    def forward(self, ids):
        j = torch.arange(0, self.c.head_dim, 2, device=ids.device) / self.c.head_dim
        angle = torch.outer(torch.arange(ids.shape[1], device=ids.device), self.c.theta ** -j)
        x = self.embed(ids)
        x = F.dropout(x, self.c.dropout if self.training else 0.0)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed.weight)


def token_stream(part, folder):
    """END, document, END, document, ..., END."""
    ids = [END]
    for text in holdout.part(part, folder):
        ids += [*text.encode(), END]
    return torch.tensor(ids)


@torch.no_grad()
def bits_per_byte(model, ids, context):
    """Each byte predicted from at least context/2 bytes before it, where there are as many."""
    model.eval()
    nats = 0.0
    for start in range(0, len(ids) - 1, context // 2):
        piece = ids[start : start + context + 1]
        skip = context // 2 if start else 0
        if len(piece) - 1 <= skip:
            break
        logits = model(piece[None, :-1]).float()[0, skip:]
        nats += F.cross_entropy(logits, piece[1 + skip :], reduction="sum").item()
    return nats / math.log(2) / (ids != END).sum().item()


def learning_rate(c, step):
    if step < c.warmup:
        return c.rate * (step + 1) / c.warmup
    return c.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / c.steps)))


def train(c, device):
    torch.manual_seed(c.seed)
    ids, validation = (token_stream(p, c.corpus).to(device) for p in ("training", "validation"))
    model = Model(c).to(device)
    average, best, best_loss = copy.deepcopy(model), None, math.inf
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(ids)} tokens", flush=True)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=c.decay), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=c.rate, betas=(0.9, 0.98), fused=device == "cuda")
    window = torch.arange(c.context + 1, device=device)
    begin = time.time()
    for step in range(c.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(c, step)
        model.train()
        at = torch.randint(len(ids) - c.context, (c.batch, 1), device=device)
        batch = ids[at + window]
        noise = torch.rand_like(batch[:, :-1], dtype=torch.float32) < c.noise
        seen = torch.where(noise, torch.randint_like(batch[:, :-1], 256), batch[:, :-1])
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(seen)
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(c.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        if (step + 1) % c.check == 0 or step + 1 == c.steps:
            bits = bits_per_byte(average, validation, c.context)
            if bits < best_loss:
                best, best_loss = copy.deepcopy(average), bits
            train_bits = loss.item() / math.log(2)
            took = time.time() - begin
            print(f"step {step + 1} training {train_bits:.3f} validation {bits:.4f} bits per byte, "
                  f"best {best_loss:.4f}, {took:.0f} s", flush=True)
    return best.to(torch.bfloat16).float(), best_loss


def save(model, c, out):
    from safetensors.torch import save_file
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": model.embed.weight,
               "model.norm.weight": model.norm.weight}
    for i, layer in enumerate(model.layers):
        for name, p in layer.named_parameters():
            inner = "self_attn." if name[1:7] == "_proj." else "mlp." if "_proj" in name else ""
            tensors[f"model.layers.{i}.{inner}{name}"] = p
    tensors = {n: t.detach().to(torch.bfloat16).cpu().contiguous() for n, t in tensors.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": END + 1, "hidden_size": c.width, "intermediate_size": c.hidden,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": c.theta, "max_position_embeddings": c.context,
        "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": END, "eos_token_id": END,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_tokenizer(out):
    """Byte-level: one token per byte, in the order of their values, no merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    # The byte-level pre-tokenizer stands for a byte by a printable character: itself where it is
    # one, else the next free code point from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    vocabulary = {chr(b if b in printable else next(others)): b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    tokenizer.save(str(out / "tokenizer.json"))


def arguments():
    here = Path(__file__).parent
    p = argparse.ArgumentParser(description="Train the tiny byte-level Llama model.")
    p.add_argument("--corpus", type=Path, default=here / "corpus")
    p.add_argument("--out", type=Path, default=here / "model")
    for name, value in dict(layers=5, width=256, heads=8, kv_heads=4, head_dim=32, hidden=704,
                            context=1024, batch=32, steps=1200, warmup=100, check=50,
                            seed=1).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    for name, value in dict(theta=10000.0, rate=3e-3, decay=0.8, dropout=0.25, noise=0.03,
                            average=0.995).items():
        p.add_argument("--" + name, type=float, default=value)
    return p.parse_args()


def main():
    c = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, validation = train(c, device)
    held_out = bits_per_byte(model, token_stream("held out", c.corpus).to(device), c.context)
    save(model, c, c.out)
    save_tokenizer(c.out)
    print(f"validation {validation:.4f}, held out {held_out:.4f} bits per byte, in {c.out}")


if __name__ == "__main__":
    main()
