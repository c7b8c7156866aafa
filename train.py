"""The contestant: a small GPT, trained with Muon and AdamW. The file to edit.

    uv run train.py

The contract (docs/contract.md): load(folder) returns a model that maps tokens [B, T] to logits
[B, T, V], causal and stateless. main() calls enter, rehearse, batches and submit. Everything else
is yours to change. run.rehearse() tries the step on random tokens, then restores weights and
optimizers bit for bit. run.progress is the share of the budget, or of EPOCHS passes, that is spent.

Not in nanoGPT: rotary positions, QK-norm, relu^2, embeddings of n-grams and values, softcapped
logits, Muon, RowAdam. The fused kernels are in ratchet/arena/kernels/, with their plain twins.

Letters in shapes: B rows, T tokens, V vocabulary, C width, H heads, D head size, K matrices.
"""

import json
import math
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import prepare
from ratchet.arena import kernels
from ratchet.arena.hardware.compiling import Part
from ratchet.arena.hardware.device import fastest_dtype
from ratchet.arena.kernels.attention import causal_attention
from ratchet.arena.kernels.copying import add_bonus_, find_followers
from ratchet.arena.kernels.loss import softcapped_cross_entropy
from ratchet.arena.kernels.mlp import relu2_mlp
from ratchet.arena.kernels.tables import rowwise_adam_

# --- Knobs ----------------------------------------------------------------------------------------

PRESETS = {
    "large": dict(  # on CUDA, in any arena but pocket: 2^17 tokens of climbmix a step
        batch_size=64,  # rows in a step
        depth=9,  # layers
        heads=5,  # the width is heads x head_size
        head_size=128,
        windows=[8, 8, 8, 1],  # a layer sees context / this, in turn; the last one sees it all
        table_bits=21,  # log2 of the rows of the n-gram table
    ),
    "small": dict(  # 2^12 tokens of pocket a step
        batch_size=8,
        depth=2,
        heads=3,
        head_size=64,
        windows=[1],
        table_bits=18,
    ),
}
NGRAMS = 3  # the longest n-gram that has an embedding; two at least
GATE_INPUTS = 32  # channels that open the gates of the value embeddings
COPY = 4  # repeats of up to so many tokens tell what followed them before in the row
ROPE_BASE = 100_000
SOFTCAP = 15.0  # logits stay within +-SOFTCAP
INIT_SCALE = 0.68  # of qkv, up and the value embeddings; the other matrices begin at zero
X0_SCALE = 0.05  # initial weight of the embedding that is added again before each layer

MUON_LR = 0.02
MUON_WEIGHT_DECAY = 0.2
MUON_BETA2 = 0.9  # decay of the second moment of each row
MOMENTUM = 0.95
MOMENTUM_START = 0.85
MOMENTUM_WARMUP = 0.1  # the share of the training in which it rises
EMBEDDING_LR = 0.6  # the next four are for width 768 and scale as width**-0.5
VALUE_LR = 0.6
TABLE_LR = 0.6
HEAD_LR = 0.012
SCALAR_LR = 0.05
ADAM_WEIGHT_DECAY = 0.003
TABLE_WEIGHT_DECAY = 0.003
TABLE_BETA2 = 0.98
ADAM_BETAS = (0.8, 0.95)
WARMDOWN = 0.7  # the share of the training in which rates fall to zero
EPOCHS = 2  # passes over the text at most
REPEAT_DROPOUT = 0.7  # of n-gram embeddings from the second pass on: they memorize what follows

# --- Model ----------------------------------------------------------------------------------------


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, rotary):
    """Rotary positions (RoFormer, arXiv:2104.09864). x [B, T, H, D], rotary [2, T, 1, D / 2]."""
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Linear(nn.Linear):
    """A linear map without bias, zero at first. Weights are float32, cast to the type of x."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class KVCache:
    """The keys and values of one layer while it decodes, [B, T, H, D] each."""

    def __init__(self, shape, like):
        self.k, self.v = like.new_zeros(2, *shape)
        self.length = 0

    def update(self, k, v):
        """Append k and v of n tokens, [B, n, H, D]; returns those of all tokens so far."""
        end = self.length + k.size(1)
        self.k[:, self.length : end] = k
        self.v[:, self.length : end] = v
        self.length = end
        return self.k[:, :end], self.v[:, :end]


class Block(nn.Module):
    """Attention and MLP, each on a normed copy of x (pre-norm) and added to it."""

    def __init__(self, vocab_size, heads, head_size, window):
        super().__init__()
        self.head_shape = heads, head_size
        self.window = window
        width = heads * head_size
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)
        self.value_gate = Linear(GATE_INPUTS, heads)
        empty = torch.empty(vocab_size, width)  # nn.Embedding() would import SymPy on "meta"
        self.value_embedding = nn.Embedding.from_pretrained(empty, freeze=False)
        self.x0_scale = nn.Parameter(torch.tensor(X0_SCALE))
        bound = INIT_SCALE * math.sqrt(3 / width)
        for module in (self.qkv, self.up, self.value_embedding):
            nn.init.uniform_(module.weight, -bound, bound)

    def forward(self, x, x0, tokens, ngrams, rotary, cache=None):
        """x, x0, ngrams [B, T, C], tokens [B, T], rotary [2, T, 1, D / 2] -> x [B, T, C]"""
        value = self.value_embedding(tokens).to(x.dtype) + ngrams
        x = x + self.x0_scale.to(x.dtype) * x0
        x = x + self.attention(norm(x), value, rotary, cache)
        return x + relu2_mlp(norm(x), self.up.weight, self.down.weight)  # relu(up x)^2, then down

    def attention(self, x, value, rotary, cache):
        qkv = self.qkv(x).unflatten(-1, (3, *self.head_shape))
        q, k, v = qkv.unbind(2)  # [B, T, H, D] each
        gate = 2 * self.value_gate(x[..., :GATE_INPUTS]).sigmoid()
        v = v + gate[..., None] * value.view_as(v)  # value embeddings: ResFormer, arXiv:2410.17897
        q = rotate(norm(q), rotary)  # QK-norm: arXiv:2302.05442
        k = rotate(norm(k), rotary)
        if cache is not None:
            k, v = cache.update(k, v)
        attended = causal_attention(q, k, v, self.window)
        return self.out(attended.flatten(2))


class NGrams(nn.Module):
    """An embedding of the last two tokens plus one of the last three: more than the vocabulary has.

    A hash picks the rows of a table; n-grams that collide share one (arXiv:1607.01759).
    """

    def __init__(self, width, bits):
        super().__init__()
        zeros = torch.zeros(2**bits, width)
        self.table = nn.EmbeddingBag.from_pretrained(zeros, freeze=False, mode="sum", sparse=True)
        self.dropout = 0.0  # probability that a token's n-grams count as zero

    def forward(self, text):
        """text int64 [B, NGRAMS - 1 + T], the T tokens and those before -> float32 [B, T, C]"""
        key = text[:, NGRAMS - 1 :]
        indices = []
        for back in range(1, NGRAMS):
            key = key * 31337 + text[:, NGRAMS - 1 - back : -back]
            scrambled = (key * 0x1CE4E5B9BF58476D) >> 32  # int64 wraps: every bit of the key counts
            indices.append(scrambled % len(self.table.weight))
        indices = torch.stack(indices, dim=-1).flatten(0, 1)  # [B T, NGRAMS - 1]
        vectors = self.table(indices).view(*key.shape, -1)
        return F.dropout1d(vectors, self.dropout, self.training)  # of whole tokens


class GPT(nn.Module):
    def __init__(self, vocab_size, context, depth, heads, head_size, windows, table_bits, dtype):
        super().__init__()
        self.dtype = getattr(torch, dtype)
        width = heads * head_size
        divisors = [windows[i % len(windows)] for i in range(depth - 1)] + [1]
        windows = [context // divisor for divisor in divisors]
        normal = torch.randn(vocab_size, width, device="cpu")  # on "meta" it would import SymPy
        self.embedding = nn.Embedding.from_pretrained(normal, freeze=False)
        self.ngrams = NGrams(width, table_bits)
        self.blocks = nn.ModuleList(Block(vocab_size, heads, head_size, each) for each in windows)
        self.readout = nn.Parameter(torch.tensor(0.0))
        self.head = Linear(width, vocab_size)
        self.copy = Linear(width, COPY)
        self.copy_bias = nn.Parameter(torch.zeros(COPY))
        frequencies = ROPE_BASE ** -(torch.arange(0, head_size, 2, device="cpu") / head_size)
        angles = torch.arange(context, device="cpu")[:, None] * frequencies
        rotary = torch.stack([angles.cos(), angles.sin()])[:, :, None]  # [2, T, 1, D / 2]
        self.register_buffer("rotary", rotary.to(self.dtype), persistent=False)
        self.register_state_dict_post_hook(GPT.round_matrices)

    def forward(self, tokens, targets=None, cache=None):
        """tokens int64 [B, T] -> logits float32 [B, T, V]; with targets -> their mean loss in nats.

        With a cache, the tokens follow those that it has seen.
        """
        T = tokens.size(1)
        cache = cache or self.init_cache(len(tokens), 0)  # an empty one: nothing is kept
        text = torch.cat([cache.text, tokens], dim=1)
        ngrams = self.ngrams(text[:, 1 - NGRAMS - T :]).to(self.dtype)
        cache.text = text
        rotary = self.rotary[:, cache.length : cache.length + T]
        cache.length += T
        x = self.trunk(tokens, ngrams, rotary, cache.layers)
        # copying: what followed the last tokens before in the row gets a bonus (arXiv:1704.04368)
        copied, exist = find_followers(text[:, NGRAMS - 1 :], T, COPY)  # [B, T, COPY]
        bonus = (self.copy(x) + self.copy_bias.to(x.dtype)) * exist
        if targets is not None:
            return softcapped_cross_entropy(x, self.head.weight, targets, SOFTCAP, copied, bonus)
        logits = add_bonus_(self.head(x), copied, bonus).float()
        return SOFTCAP * torch.tanh(logits / SOFTCAP)

    def trunk(self, tokens, ngrams, rotary, caches):
        """What the head reads, [B, T, C]: all that is worth compiling as one."""
        x0 = norm(self.embedding(tokens).to(self.dtype) + ngrams)
        x = x0.view_as(x0)  # two names of one tensor would have the first block compiled apart
        outputs = []
        for block, kv_cache in zip(self.blocks, caches):
            x = block(x, x0, tokens, ngrams, rotary, kv_cache)
            outputs.append(x)
        return norm(x + self.readout.to(x.dtype) * outputs[(len(outputs) - 1) // 2])

    def round_matrices(self, weights, *_):
        """Have matrices saved in the type that forward() rounds them to."""
        for name, weight in weights.items():
            weights[name] = weight.to(self.dtype) if weight.ndim > 1 else weight

    def init_cache(self, B, T):
        """What decode() keeps of B rows of up to T tokens: for `ratchet speak` and serve-bench."""
        shape = (B, T, *self.blocks[0].head_shape)
        text = torch.full((B, NGRAMS - 1), prepare.BOS, device=self.rotary.device)
        layers = [KVCache(shape, self.rotary) if T else None for _ in self.blocks]
        return SimpleNamespace(text=text, length=0, layers=layers)

    def decode(self, cache, ids):
        """Logits [B, n, V] of ids int64 [B, n], which follow the tokens that the cache has seen."""
        return self(ids, cache=cache)


def load(folder):
    """The model that submit() saved in `folder`: weights, and the config it was given."""
    config = json.loads((folder / "config.json").read_bytes())
    with torch.device("meta"):  # no memory is filled that the weights would overwrite
        model = GPT(**config)
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    return model


# --- Optimizers -----------------------------------------------------------------------------------

# Polar Express (arXiv:2505.16932): x <- a x + (b A + c A A) x, where A = x x'
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def frobenius(x):
    """The norm of each matrix; x [K, m, n] -> [K, 1, 1]."""
    return x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-10)


def orthogonalize(g, dtype):
    """Approximately the nearest (semi-)orthogonal matrix to each of g [K, m, n]."""
    x = g.to(dtype)
    tall = x.size(1) > x.size(2)
    x = x.mT if tall else x
    x = x / (1.02 * frobenius(x))  # with a margin: the iteration needs a spectral norm <= 1
    for a, b, c in POLAR_EXPRESS:
        A = x @ x.mT
        x = a * x + (b * A + c * A @ A) @ x
    return (x.mT if tall else x).to(g.dtype)


def muon_update(grads, weights, momentum, variance, lr, beta, decay, dtype):
    """The change of weights [K, m, n]; updates momentum [K, m, n] and variance [K, m, 1] in place.

    Orthogonalized momentum (kellerjordan.github.io/posts/muon), normalized row by row (NorMuon,
    arXiv:2510.05491); weight decay only where it points the same way (arXiv:2510.12402).
    """
    momentum += (grads - momentum) * (1 - beta)
    nesterov = grads + (momentum - grads) * beta
    u = orthogonalize(nesterov, dtype)
    variance.lerp_(u.square().mean(-1, keepdim=True), 1 - MUON_BETA2)
    step = u * variance.clamp_min(1e-10).rsqrt()
    step = step * frobenius(u) / frobenius(step)
    agrees = step * weights > 0
    m, n = weights.shape[1:]
    return -lr * max(1, m / n) ** 0.5 * (step + decay * weights * agrees)


class Muon(torch.optim.Optimizer):
    """muon_update() of all matrices of one shape at once; with torchrun a share in each process."""

    def __init__(self, matrices, dtype):
        shapes = {}
        for p in matrices:
            shapes.setdefault(p.shape, []).append(p)
        groups = [dict(params=matrices) for matrices in shapes.values()]
        defaults = dict(lr=MUON_LR, momentum=MOMENTUM, weight_decay=MUON_WEIGHT_DECAY)
        super().__init__(groups, defaults)
        self.dtype = dtype
        self.update = muon_update

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            ps = group["params"]
            state = self.state[ps[0]]
            grads = prepare.own_share(torch.stack([p.grad for p in ps]))
            weights = prepare.own_share(torch.stack(ps))
            if not state:
                state["momentum"] = torch.zeros_like(grads)
                state["variance"] = torch.zeros_like(grads[..., :1])
            # as tensors: new Python numbers would have a compiled function compiled again
            scalars = [torch.tensor(group[key]) for key in ("lr", "momentum", "weight_decay")]
            change = self.update(grads, weights, *state.values(), *scalars, self.dtype)
            for p, delta in zip(ps, prepare.join_shares(change, len(ps))):
                p.add_(delta)


class RowAdam(torch.optim.Optimizer):
    """Adam for a table whose rows are mostly untouched in a step: only touched rows are updated.

    No momentum, and one second moment a row, so that the state is small (arXiv:1804.04235).
    """

    def __init__(self, table, lr):
        super().__init__([table], dict(lr=lr, weight_decay=TABLE_WEIGHT_DECAY))
        for key in ("variance", "count"):
            self.state[table][key] = torch.zeros(len(table), device=table.device)

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        (table,) = group["params"]
        (rows,), grads = table.grad._indices(), table.grad._values()  # [n] and [n, C]
        lr, decay = group["lr"], group["weight_decay"]
        rowwise_adam_(table, *self.state[table].values(), rows, grads, lr, TABLE_BETA2, decay)


def make_optimizers(model):
    """Muon for the matrices of the blocks, RowAdam for n-grams, AdamW for all else."""
    scale = (model.embedding.embedding_dim / 768) ** -0.5
    matrices = [m.weight for m in model.blocks.modules() if isinstance(m, Linear)]
    groups = [
        dict(params=[model.embedding.weight], lr=EMBEDDING_LR * scale),
        dict(params=[b.value_embedding.weight for b in model.blocks], lr=VALUE_LR * scale),
        dict(params=[model.head.weight, model.copy.weight], lr=HEAD_LR * scale),
        dict(params=[p for p in model.parameters() if p.ndim < 2], lr=SCALAR_LR),
    ]
    options = dict(betas=ADAM_BETAS, weight_decay=ADAM_WEIGHT_DECAY, eps=1e-10)
    adam = torch.optim.AdamW(groups, **options, fused=True)
    row_adam = RowAdam(model.ngrams.table.weight, TABLE_LR * scale)
    optimizers = Muon(matrices, model.dtype), row_adam, adam
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
            group["peak_weight_decay"] = group["weight_decay"]
    return optimizers


def set_schedules(optimizers, progress):
    """Rates are constant, then fall linearly to 0. Weight decay falls, Muon's momentum rises."""
    rate = min(1.0, (1 - progress) / WARMDOWN)
    warm = min(1.0, progress / MOMENTUM_WARMUP)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["peak_lr"]
            group["weight_decay"] = (1 - progress) * group["peak_weight_decay"]
            if "momentum" in group:
                group["momentum"] = MOMENTUM_START + warm * (MOMENTUM - MOMENTUM_START)


# --- Training -------------------------------------------------------------------------------------


def train_step(run, model, optimizers, x, y):
    """One step of all optimizers on tokens x and targets y, [B, T]; returns the mean loss."""
    set_schedules(optimizers, run.progress)
    model.ngrams.dropout = REPEAT_DROPOUT * (run.epoch >= 1)
    total = 0.0
    for piece_x, piece_y, weight in run.pieces(x, y):  # micro-batches of this process
        loss = model(piece_x, piece_y) * weight  # weights sum to 1 over all pieces and processes
        loss.backward()
        total += loss.detach()
    run.sum_gradients(model, total)  # and the loss, in place, over all processes
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return total


def compilable_parts(model, muon):
    """What torch.compile may make faster, with what that costs and saves on a CPU (LOG.md)."""
    gain = 1.0 if model.dtype == torch.bfloat16 else 0.15  # products take longer in float32
    on_cpu = model.rotary.device.type == "cpu"  # which compiles slowly: one block stands for all
    layers = [*model.blocks] if on_cpu else [(model, "trunk")]
    return [
        Part("loss", [(kernels.loss, "loss_and_slope")], graphs=1, core_seconds=24, saves=gain / 4),
        Part("layers", layers, graphs=2, core_seconds=40, saves=0.22 * gain),
        Part("muon", [(muon, "update")], graphs=5, core_seconds=66, saves=0.02 * gain),
    ]


def choose_config(arena, device):
    """The arguments of GPT() and batch_size."""
    large = device.type == "cuda" and arena.name != "pocket"
    sizes = dict(vocab_size=arena.vocab_size, context=arena.context, dtype=fastest_dtype(device))
    return PRESETS["large" if large else "small"] | sizes


def main():
    run = prepare.enter()
    config = choose_config(run.arena, run.device)
    batch_size = config.pop("batch_size")
    model = GPT(**config).to(run.device)
    optimizers = make_optimizers(model)
    step = partial(train_step, run, model, optimizers)
    parts = compilable_parts(model, optimizers[0])
    run.rehearse(step, batch_size, model, *optimizers, parts=parts)  # on random tokens, not timed
    for x, y in run.batches(batch_size, epochs=EPOCHS):  # until the budget is spent
        run.log(step(x, y))
    run.submit(model, config)


if __name__ == "__main__":
    with prepare.exit_on_user_error(go_on="run the same command again to start anew"):
        main()
