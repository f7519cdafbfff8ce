"""The model that is trained: a looped transformer with the tensor names of the published package, and a flat one to compare.

The formulas are those of `refrain`'s documentation (OpenMythos 0.5.0). Only the order of the work differs: all loops' states
are kept, so that losses can look at every one of them, and the experts are computed all at once and masked by their gates,
which at these sizes is faster than choosing. Shapes: B sequences, T tokens, D dim, H heads, N loops, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    """The fields of the package's MythosConfig, with its names."""

    vocab_size: int
    dim: int
    n_heads: int
    n_kv_heads: int
    max_seq_len: int
    max_loop_iters: int
    prelude_layers: int
    coda_layers: int
    attn_type: str
    n_experts: int
    n_shared_experts: int
    n_experts_per_tok: int
    expert_dim: int
    act_threshold: float
    rope_theta: float
    lora_rank: int
    # Latent attention only, but the package wants them always.
    kv_lora_rank: int = 64
    q_lora_rank: int = 64
    qk_rope_head_dim: int = 8
    qk_nope_head_dim: int = 24
    v_head_dim: int = 32
    max_output_tokens: int = 128
    dropout: float = 0.0


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rope_table(config):
    """e^(i · position · theta^(−2i/d)), (positions, d/2), for adjacent pairs."""
    size = config.qk_rope_head_dim if config.attn_type == "mla" else config.dim // config.n_heads
    frequencies = config.rope_theta ** -(torch.arange(0, size, 2).double() / size)
    angles = torch.outer(torch.arange(config.max_seq_len).double(), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def turn(x, table):
    """RoPE on x (…, T, d) by table (T, d/2)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * table).flatten(-2)


def attend(q, k, v):
    """Causal softmax attention; the queries are the last of the positions. q (B, H, Q, d), k (B, H', T, d), v (B, H', T, v), where
    H' divides H: neighbouring heads share keys and values."""
    queries, keys, shared = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    mask = torch.full((queries, keys), -math.inf, device=q.device).triu(keys - queries + 1)
    q = q.unflatten(1, (-1, shared)).flatten(2, 3)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask.repeat(shared, 1)
    return (scores.softmax(-1) @ v).unflatten(2, (shared, -1)).flatten(1, 2)


class GQA(nn.Module):
    """Grouped-query attention."""

    def __init__(self, c):
        super().__init__()
        self.size = c.dim // c.n_heads
        self.wq, self.wo = linear(c.dim, c.dim), linear(c.dim, c.dim)
        self.wk, self.wv = linear(c.dim, c.n_kv_heads * self.size), linear(c.dim, c.n_kv_heads * self.size)

    def forward(self, x, rope, last):
        heads = lambda y: y.unflatten(-1, (-1, self.size)).transpose(1, 2)
        q = turn(heads(self.wq(x[:, -last:])), rope[-last:])
        k, v = turn(heads(self.wk(x)), rope), heads(self.wv(x))
        return self.wo(attend(q, k, v).transpose(1, 2).flatten(2))


class MLA(nn.Module):
    """Multi-head latent attention: keys and values come from one small latent a token; one rotated part serves all heads."""

    def __init__(self, c):
        super().__init__()
        self.heads, self.nope, self.rope, self.latent = c.n_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank
        self.q_down, self.q_norm = linear(c.dim, c.q_lora_rank), RMSNorm(c.q_lora_rank)
        self.q_up_nope = linear(c.q_lora_rank, c.n_heads * self.nope)
        self.q_up_rope = linear(c.q_lora_rank, c.n_heads * self.rope)
        self.kv_down, self.kv_norm = linear(c.dim, c.kv_lora_rank + self.rope), RMSNorm(c.kv_lora_rank)
        self.kv_up = linear(c.kv_lora_rank, c.n_heads * (self.nope + c.v_head_dim))
        self.wo = linear(c.n_heads * c.v_head_dim, c.dim)

    def forward(self, x, rope, last):
        heads = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        latent = self.q_norm(self.q_down(x[:, -last:]))
        q = torch.cat((heads(self.q_up_nope(latent)), turn(heads(self.q_up_rope(latent)), rope[-last:])), -1)
        latent, turned = self.kv_down(x).split((self.latent, self.rope), -1)
        k, v = heads(self.kv_up(self.kv_norm(latent))).tensor_split((self.nope,), -1)
        turned = turn(turned.unsqueeze(1), rope).expand(-1, self.heads, -1, -1)
        return self.wo(attend(q, torch.cat((k, turned), -1), v).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate, self.up, self.down = linear(dim, hidden), linear(dim, hidden), linear(hidden, dim)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def wide(x, experts, gates=None):
    """Experts side by side as one wide SwiGLU: (…, D); gates (…, E) weigh the hidden units of each."""
    gate, up = (torch.cat([getattr(e, name).weight for e in experts]) for name in ("gate", "up"))
    hidden = F.silu(x @ gate.T) * (x @ up.T)
    if gates is not None:
        hidden = (hidden.unflatten(-1, (len(experts), -1)) * gates.unsqueeze(-1)).flatten(-2)
    return hidden @ torch.cat([e.down.weight for e in experts], 1).T


class MoE(nn.Module):
    """Experts that a router chooses, and shared ones that always fire."""

    def __init__(self, c):
        super().__init__()
        self.chosen = c.n_experts_per_tok
        self.router = linear(c.dim, c.n_experts)
        self.register_buffer("router_bias", torch.zeros(c.n_experts))
        self.routed_experts = nn.ModuleList(SwiGLU(c.dim, c.expert_dim) for _ in range(c.n_experts))
        shared = c.expert_dim * c.n_experts_per_tok
        self.shared_experts = nn.ModuleList(SwiGLU(c.dim, shared) for _ in range(c.n_shared_experts))
        self.loads = []

    def gates(self, x):
        """Gates (…, E), zero where an expert is not chosen. The bias picks, it never weighs."""
        logits = self.router(x)
        chosen = (logits + self.router_bias).topk(self.chosen, -1).indices
        mask = torch.zeros_like(logits).scatter_(-1, chosen, 1.0)
        if torch.is_grad_enabled():
            self.loads.append(mask.flatten(0, -2).mean(0))
        weights = logits.softmax(-1) * mask
        return weights / weights.sum(-1, keepdim=True)

    def forward(self, x):
        routed = wide(x, self.routed_experts, self.gates(x))
        return routed + wide(x, self.shared_experts) if self.shared_experts else routed


class Block(nn.Module):
    """x + attention, then + feed-forward; `last` leaves out all but the last positions of the result."""

    def __init__(self, c, ffn):
        super().__init__()
        self.attn_norm, self.ffn_norm = RMSNorm(c.dim), RMSNorm(c.dim)
        self.attn = MLA(c) if c.attn_type == "mla" else GQA(c)
        self.ffn = ffn

    def forward(self, x, rope, last=None):
        last = last or x.shape[1]
        x = x[:, -last:] + self.attn(self.attn_norm(x), rope, last)
        return x + self.ffn(self.ffn_norm(x))


def dense(c):
    return Block(c, SwiGLU(c.dim, 4 * c.dim // 3))


class LoRA(nn.Module):
    """The part of the block that knows the loop: x + ((x downᵀ) ⊙ scale[t]) B."""

    def __init__(self, c):
        super().__init__()
        self.down = linear(c.dim, c.lora_rank)
        self.scale = nn.Embedding(c.max_loop_iters, c.lora_rank)
        self.B = nn.Parameter(torch.zeros(c.lora_rank, c.dim))

    def forward(self, x, loop):
        return x + (self.down(x) * self.scale.weight[min(loop, self.scale.num_embeddings - 1)]) @ self.B


class Injection(nn.Module):
    """h ← A h + B e + x with 0 < A < 1: stable whatever is learnt."""

    def __init__(self, c):
        super().__init__()
        self.log_A, self.log_dt = nn.Parameter(torch.zeros(c.dim)), nn.Parameter(torch.zeros(1))
        self.B = nn.Parameter(torch.full((c.dim,), 0.1))

    def decay(self):
        return torch.exp(-torch.exp((self.log_dt + self.log_A).clamp(-20, 20)))

    def forward(self, h, e, x):
        return self.decay() * h + self.B * e + x


class Halting(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.halt = nn.Linear(c.dim, 1)

    def forward(self, h):
        return self.halt(h).squeeze(-1)


def loop_embedding(loop, dim, like):
    """sin and cos of the loop's number in the first dim/8 channels, 0 in the rest."""
    n = dim // 8
    i = torch.arange((n + 1) // 2, device=like.device)
    angles = loop * 10000.0 ** (-2.0 * i / n)
    out = torch.zeros(dim, device=like.device)
    out[:n] = torch.cat((angles.sin(), angles.cos()))[:n]
    return out


class Recurrent(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block, self.norm = Block(c, MoE(c)), RMSNorm(c.dim)
        self.lora, self.injection, self.act = LoRA(c), Injection(c), Halting(c)

    def forward(self, e, rope, loops, number, noise):
        """States h, N of (B, T, D), and halting logits (N, B, T) after each loop; the model is told `number(t)` as number of
        loop t = 0, 1, …, and `noise(h)` replaces every h."""
        h, states = e, []
        for t in map(number, range(loops)):
            u = h + loop_embedding(t, e.shape[-1], e)
            x = self.lora(self.block(self.norm(u + e), rope), t)
            h = self.injection(h, e, x)
            h = noise(h) if noise else h
            states.append(h)
        return states, torch.stack([self.act(h) for h in states])


def act_weights(p, threshold):
    """Adaptive computation time (Graves 2016, as the package has it): weights (N, …) of the loops, and the loops used, from
    halting probabilities p (N, …)."""
    total, running = torch.zeros_like(p[0]), torch.ones_like(p[0], dtype=torch.bool)
    weights, used = [], torch.full(p[0].shape, len(p), device=p.device)
    for t, step in enumerate(p):
        ends = total + step >= threshold
        weights.append(torch.where(running, torch.where(ends, (1 - total).clamp(min=0), step), 0))
        used = torch.where(running & ends, t + 1, used)
        total = torch.where(running, total + step, total)
        running = running & ~ends
    return torch.stack(weights), used


def count(t):
    """What the model is told of its loops unless a training batch shifts it: 0, 1, 2, …"""
    return t


def mix(weights, states):
    """Σ w h over the loops: weights (N, B, T), states N of (B, T, D)."""
    return sum(w.unsqueeze(-1) * h for w, h in zip(weights, states))


class Looped(nn.Module):
    """Prelude, a looped block, coda; the head is the embedding."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        self.embed, self.norm = nn.Embedding(c.vocab_size, c.dim), RMSNorm(c.dim)
        self.prelude = nn.ModuleList(dense(c) for _ in range(c.prelude_layers))
        self.coda = nn.ModuleList(dense(c) for _ in range(c.coda_layers))
        self.recurrent = Recurrent(c)
        self.register_buffer("rope", rope_table(c), persistent=False)

    def forward(self, tokens, loops, number=count, noise=None):
        """Of tokens (B, T): e (B, T, D) after the prelude; then states, N of (B, T, D), and halting logits (N, B, T) after each loop."""
        rope = self.rope[: tokens.shape[1]]
        e = self.embed(tokens)
        for block in self.prelude:
            e = block(e, rope)
        return e, *self.recurrent(e, rope, loops, number, noise)

    def head(self, x):
        """Logits (…, V) straight from a state."""
        return self.norm(x) @ self.embed.weight.T

    def read(self, h, last):
        """Logits (B, Q, V) at the last Q positions of a state h (B, T, D), through coda and head."""
        rope = self.rope[: h.shape[1]]
        for block in self.coda[:-1]:
            h = block(h, rope)
        return self.head(self.coda[-1](h, rope, last) if self.coda else h[:, -last:])

    def answer(self, tokens, loops, last, number=count, fixed=False):
        """Logits (B, Q, V) at the last Q positions and the loops used (B, T): the whole model as it is run. With `fixed`
        every token takes all loops and the last state counts."""
        _, states, halting = self(tokens, loops, number)
        if fixed:
            return self.read(states[-1], last), torch.full(tokens.shape, loops)
        weights, used = act_weights(halting.sigmoid(), self.config.act_threshold)
        return self.read(mix(weights, states), last), used


class Flat(nn.Module):
    """The same dense blocks without a loop: each layer with weights of its own."""

    def __init__(self, c, layers):
        super().__init__()
        self.embed, self.norm = nn.Embedding(c.vocab_size, c.dim), RMSNorm(c.dim)
        self.layers = nn.ModuleList(dense(c) for _ in range(layers))
        self.register_buffer("rope", rope_table(c), persistent=False)

    def forward(self, tokens, last):
        """The state (B, T, D) after the first layer; logits (layers, B, Q, V) at the last Q positions, after each layer."""
        rope, x, states = self.rope[: tokens.shape[1]], self.embed(tokens), []
        for block in self.layers:
            x = block(x, rope)
            states.append(x)
        return states[0], torch.stack([self.head(x[:, -last:]) for x in states])

    def head(self, x):
        """Logits (…, V) straight from a state."""
        return self.norm(x) @ self.embed.weight.T


@torch.no_grad()
def initialise(model, roles):
    """Matrices N(0, 1/√inputs), output projections half of it, the embedding N(0, 1/√dim), the rest as the package starts.

    `roles` are lists of tokens that mean the same thing in other places (`x`, `>x`, `?x`): they share 0.8 of their embedding."""
    for name, w in model.named_parameters():
        if name.startswith("embed"):
            w.normal_(0, w.shape[1] ** -0.5)
        elif "lora" in name:
            w.normal_(0, 0.02)
        elif name.endswith("halt.weight"):
            w.zero_()
        elif name.endswith("halt.bias"):
            w.fill_(-2.0)
        elif w.dim() == 2:
            output = name.endswith(("wo.weight", "down.weight")) and not name.endswith(("q_down.weight", "kv_down.weight"))
            w.normal_(0, (0.5 if output else 1.0) * w.shape[1] ** -0.5)
    embed = model.embed.weight
    for tokens in roles:
        common = torch.randn(embed.shape[1]) * embed.shape[1] ** -0.5
        embed[tokens] = 0.8 * common + 0.6 * embed[tokens]
