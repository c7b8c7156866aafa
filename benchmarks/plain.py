"""The control: the published baseline (karpathy/autoresearch, March 2026) in plain code.

    uv run benchmarks/plain.py                          one run, like `uv run train.py`
    uv run ratchet compare HEAD benchmarks/plain.py     the default against it

8 layers x 512, batches of 2^19 tokens, one layer in four with the whole context, else half of it;
on other arenas than climbmix on a CPU the same at a quarter of the cost: 4 layers x 256, heads of
64, 2^14 tokens a step. PyTorch's fused attention, one torch.compile for the whole model, float32
weights under autocast, AdamW for each kind of parameter, Muon for each shape. Its numbers are the
measure of train.py's.
"""

import json
import math
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import nn

from prepare import enter
from ratchet.arena.files import exit_on_user_error

LARGE = dict(depth=8, width=512, head_size=128)  # with 2^19 tokens a step
SMALL = dict(depth=4, width=256, head_size=64)  # with 2^14 tokens a step
MATRIX_LR, EMBEDDING_LR, HEAD_LR, SCALAR_LR = 0.04, 0.6, 0.004, 0.5
WEIGHT_DECAY, WARMDOWN, SOFTCAP, ROPE_BASE = 0.2, 0.5, 15.0, 10_000
MOMENTUM_STEPS = 300  # of Muon's momentum from 0.85 to 0.95
COEFFICIENTS = [  # Polar Express, arXiv:2505.16932
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, width, head_size, window, has_value):
        super().__init__()
        self.head_size, self.window = head_size, window
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(4 * width, width, bias=False),
        )
        self.gate = nn.Linear(32, width // head_size, bias=False) if has_value else None

    def forward(self, x, value, cos, sin, mask):
        x = x + self.out(self.attention(norm(x), value, cos, sin, mask))
        return x + self.down(F.relu(self.up(norm(x))).square())

    def attention(self, x, value, cos, sin, mask):
        q, k, v = (f(x).unflatten(-1, (-1, self.head_size)) for f in (self.q, self.k, self.v))
        if self.gate is not None:
            gate = 2 * self.gate(x[..., :32]).sigmoid()[..., None]
            v = v + gate * value.unflatten(-1, (-1, self.head_size))
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return y.transpose(1, 2).flatten(2)


class GPT(nn.Module):
    def __init__(self, vocab_size, context, depth, width, head_size, dtype):
        super().__init__()
        self.dtype = getattr(torch, dtype)
        self.embedding, self.head = (
            nn.Embedding(vocab_size, width),
            nn.Linear(width, vocab_size, bias=False),
        )
        valued = range((depth - 1) % 2, depth, 2)
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocab_size, width) for i in valued})
        spans = [context if i % 4 == 3 or i == depth - 1 else context // 2 for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, head_size, spans[i], i in valued) for i in range(depth)
        )
        self.stream_scales = nn.Parameter(torch.ones(depth))
        self.x0_scales = nn.Parameter(torch.full((depth,), 0.1))
        angles = torch.arange(context)[:, None] * ROPE_BASE ** -(
            torch.arange(0, head_size, 2) / head_size
        )
        distance = torch.arange(context)[:, None] - torch.arange(context)
        self.register_buffer("cos", angles.cos()[:, None], persistent=False)  # [T, 1, D / 2]
        self.register_buffer("sin", angles.sin()[:, None], persistent=False)
        self.register_buffer("mask", (distance >= 0) & (distance < context // 2), persistent=False)

    @torch.no_grad()
    def init_weights(self):
        bound = math.sqrt(3 / self.embedding.embedding_dim)
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.head.weight, std=0.001)
        for table in self.values.values():
            nn.init.uniform_(table.weight, -bound, bound)
        for name, matrix in self.blocks.named_parameters():
            ends = name.split(".")[1] in ("out", "down", "gate")
            nn.init.zeros_(matrix) if ends else nn.init.uniform_(matrix, -bound, bound)

    def forward(self, tokens, targets=None):
        T, device = tokens.size(1), tokens.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            cos, sin = self.cos[:T].to(self.dtype), self.sin[:T].to(self.dtype)
            x = x0 = norm(self.embedding(tokens).to(self.dtype))
            for i, block in enumerate(self.blocks):
                x = self.stream_scales[i] * x + self.x0_scales[i] * x0
                value = (
                    self.values[str(i)](tokens).to(self.dtype) if str(i) in self.values else None
                )
                x = block(
                    x,
                    value,
                    cos,
                    sin,
                    self.mask[:T, :T] if block.window < self.mask.size(0) else None,
                )
            logits = self.head(norm(x))
        logits = SOFTCAP * torch.tanh(logits.float() / SOFTCAP)
        return (
            logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        )


def load(folder):
    model = GPT(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    load_model(model, str(folder / "model.safetensors"))
    return model


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum, a variance for each row (NorMuon), weight decay where it agrees
    (cautious).
    """

    def __init__(self, matrices, dtype):
        shapes = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        groups = [
            dict(params=ps, lr=MATRIX_LR * max(1, s[0] / s[1]) ** 0.5) for s, ps in shapes.items()
        ]
        super().__init__(groups, dict(momentum=0.85, weight_decay=WEIGHT_DECAY))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            ps, state = group["params"], self.state[group["params"][0]]
            grads = torch.stack([p.grad for p in ps])
            axis = -1 if grads.size(1) >= grads.size(2) else -2
            if not state:
                state["momentum"] = torch.zeros_like(grads)
                state["variance"] = torch.zeros_like(grads.sum(axis, keepdim=True))
            state["momentum"].lerp_(grads, 1 - group["momentum"])
            u = orthogonalize(grads.lerp(state["momentum"], group["momentum"]), self.dtype)
            state["variance"].lerp_(u.square().mean(axis, keepdim=True), 0.05)
            size = u.norm(dim=(1, 2), keepdim=True)
            u = u * state["variance"].clamp_min(1e-10).rsqrt()
            u = u * (size / u.norm(dim=(1, 2), keepdim=True).clamp_min(1e-10))
            for p, step in zip(ps, u):
                p.sub_(group["lr"] * (step + group["weight_decay"] * p * (step * p >= 0)))


def orthogonalize(g, dtype):
    x = g.to(dtype)
    x = x.mT if (tall := x.size(1) > x.size(2)) else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in COEFFICIENTS:
        A = x @ x.mT
        x = a * x + (b * A + c * A @ A) @ x
    return (x.mT if tall else x).float()


def make_optimizers(model):
    scale = (model.embedding.embedding_dim / 768) ** -0.5
    groups = [
        dict(params=[model.head.weight], lr=HEAD_LR * scale),
        dict(params=[model.embedding.weight], lr=EMBEDDING_LR * scale),
        dict(params=[*model.values.parameters()], lr=EMBEDDING_LR * scale),
        dict(params=[model.stream_scales], lr=SCALAR_LR * 0.01),
        dict(params=[model.x0_scales], lr=SCALAR_LR, betas=(0.96, 0.95)),
    ]
    adam = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, fused=True)
    optimizers = [Muon(model.blocks.parameters(), model.dtype), adam]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["top_lr"] = group["lr"]
    return optimizers


def bfloat16_is_fast():
    """On this CPU, compared with float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16) * 5:
        a = torch.ones(512, 512, dtype=dtype)
        begin = time.perf_counter()
        a @ a
        seconds[dtype] = min(seconds.get(dtype, math.inf), time.perf_counter() - begin)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def main():
    run = enter()
    large = run.device.type == "cuda"
    sizes = LARGE if large else SMALL
    rows = (2**19 if large else 2**14) // run.arena.context
    part = min(rows, 128)
    config = dict(vocab_size=run.arena.vocab_size, context=run.arena.context) | sizes
    config["dtype"] = "bfloat16" if large or bfloat16_is_fast() else "float32"
    model = GPT(**config)
    model.init_weights()
    model.to(run.device)
    optimizers = make_optimizers(model)
    compiled = torch.compile(model, dynamic=False)

    def step(x, y):
        muon, adam = optimizers
        rate = min(1.0, (1 - run.progress) / WARMDOWN)
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = rate * group["top_lr"]
        for group in muon.param_groups:
            group["momentum"] = 0.85 + 0.1 * min(1.0, run.steps / MOMENTUM_STEPS)
            group["weight_decay"] = WEIGHT_DECAY * (1 - run.progress)
        for part_x, part_y in zip(x.split(part), y.split(part)):
            loss = compiled(part_x, part_y)
            (loss * len(part_x) / len(x)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss

    run.rehearse(step, rows, model, *optimizers)
    for x, y in run.batches(rows):
        step(x, y)
    run.submit(model, config)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
