"""A contestant that remembers: a GPT that copies from its row and looks up the training text.

    uv run ratchet compare HEAD examples/contestants/memory.py

It is train.py's GPT and optimizers, and two things more, with their gain in val_bpb after 60 s on
pocket: repeats() and seen_bias, bonuses for what stood in the row before (0.026); Memory, what
followed in the training text (0.012, more in a second pass).

Letters in shapes: B rows, T context, V vocabulary, C width, H heads, D head size, K matrices of one
shape.
"""

import json
import math
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import nn

import prepare
from ratchet.arena.hardware.compiling import Part
from ratchet.arena.hardware.device import fastest_dtype
from ratchet.arena.kernels import causal_attention

# --------------------------------------------------------------------------------------------------
# Knobs

# One dial, depth, sets the size of the model. rows: those of one step. windows: one letter a layer,
# repeated; the last layer is L. tables: log2 of the rows of the table of token pairs, of that of
# triples, and so on. memory: log2 of the places for what followed in the training text, 0 for none.
# "large" is for CUDA and any arena but pocket.
PRESETS = {
    "large": dict(
        depth=9, rows=64, windows="SSSL", tables=(20, 20), memory=0
    ),  # 2^17 tokens of climbmix
    "small": dict(
        depth=3, rows=8, windows="L", tables=(17, 17), memory=21
    ),  # 2^12 tokens of pocket a step
}
SPANS = {"S": 4, "H": 2, "L": 1}  # a layer sees the context divided by this
ASPECT = 64  # width = depth x ASPECT, rounded up to whole heads
HEAD_SIZE = 128  # 64 for narrow models
ROPE_BASE = 100_000
COPY = 4  # repeats of 1, 2, ... COPY tokens tell the head what followed them before in the row
RECALL, WAYS = (
    5,
    2,
)  # ... of 1 to RECALL tokens what followed in the training text, the last WAYS times
TRACE = 12  # tokens by which a row in its second pass knows what it left itself
SOFTCAP = 15.0  # logits stay within +-SOFTCAP
INIT_SCALE = 0.68  # of the trunk's matrices
X0_INIT = 0.05  # how much of the embedding is added again before each layer

MATRIX_LR, MATRIX_WEIGHT_DECAY, MOMENTUM, MOMENTUM_START, BETA2 = 0.02, 0.2, 0.95, 0.85, 0.9
EMBEDDING_LR, VALUE_LR, HEAD_LR, SCALAR_LR = (
    0.6,
    0.6,
    0.012,
    0.05,
)  # at width 768; 1-3 ~ width**-0.5
TABLE_LR, TABLE_BETA2, TABLE_WEIGHT_DECAY = 0.6, 0.98, 0.003  # at width 768, ~ width**-0.5
ADAM_BETAS, EMBEDDING_WEIGHT_DECAY, HEAD_WEIGHT_DECAY = (0.8, 0.95), 0.002, 0.01
WARMDOWN, FINAL_LR = 0.7, 0.05  # the share of the budget in which rates fall, last rate / top rate
MOMENTUM_WARMUP = 0.1  # the share of the budget in which the momentum rises
EPOCHS = 2  # passes over the text at most
REPEAT_DROPOUT = (
    0.7  # of the tables' vectors, from the second pass on: they know by heart what follows
)

# --------------------------------------------------------------------------------------------------
# Model


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):
    """Rotary position embedding (RoFormer, arXiv:2104.09864). x [B, T, H, D], cos and sin [T, 1, D
    / 2].
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Linear(nn.Linear):
    """A linear map without bias: weights in float32, products in the type of x."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class Block(nn.Module):
    """Attention and MLP, each on a normed copy of the stream (pre-norm), each added to it."""

    def __init__(self, width, head_size, window, has_value):
        super().__init__()
        self.head_size, self.window = head_size, window
        self.readout = nn.Parameter(torch.zeros(1))
        self.stream_scale = nn.Parameter(torch.ones(1))
        self.x0_scale = nn.Parameter(torch.full((1,), X0_INIT))
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.up = Linear(width, 4 * width)
        self.down = Linear(4 * width, width)
        self.gate = Linear(32, width // head_size) if has_value else None
        self.temperature = nn.Parameter(torch.ones(width // head_size))

    def forward(self, x, x0, out, value, cos, sin, past=None):
        """The stream x after this layer, and `out`, to which a learned share of it is added."""
        x = self.stream_scale.to(x.dtype) * x + self.x0_scale.to(x.dtype) * x0
        x = x + self.out(self.attention(norm(x), value, cos, sin, past))
        x = x + self.down(F.relu(self.up(norm(x))).square())  # relu^2: Primer, arXiv:2109.08668
        return x, out + self.readout.to(x.dtype) * x

    def attention(self, x, value, cos, sin, past):
        heads = (-1, self.head_size)
        q, k, v = (t.unflatten(-1, heads) for t in self.qkv(x).chunk(3, dim=-1))  # [B, T, H, D]
        if self.gate is not None:  # value embeddings: ResFormer, arXiv:2410.17897
            v = v + 2 * self.gate(x[..., :32]).sigmoid()[..., None] * value.unflatten(-1, heads)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))  # QK-norm: arXiv:2302.05442
        q = q * self.temperature[:, None].to(q.dtype)
        if past is not None:
            k, v = past(k, v)
        return causal_attention(q, k, v, self.window).flatten(2)


class Past:
    """The keys and values of a layer, of up to T tokens: decoding needs no more of what was said."""

    def __init__(self, B, T, block, dtype):
        heads, device = len(block.temperature), block.temperature.device
        self.kv = [
            torch.zeros(B, heads, T, block.head_size, device=device, dtype=dtype) for _ in range(2)
        ]
        self.length = 0

    def __call__(self, k, v):
        """Those of all tokens so far, [B, T, H, D] each, given those of the latest."""
        start, self.length = self.length, self.length + k.size(1)
        for kept, new in zip(self.kv, (k, v)):
            kept[:, :, start : self.length] = new.transpose(1, 2)
        return [kept[:, :, : self.length].transpose(1, 2) for kept in self.kv]


def grams(tokens, n):
    """Keys int64 [B, T] of the last 2, 3, ... n tokens; what stands before a row counts as BOS."""
    key = tokens
    for back in range(1, n):
        key = key * 31337 + F.pad(tokens, (back, 0), value=prepare.BOS)[:, :-back]
        yield key


def scrambled(key):
    """int64, every bit of which depends on every bit of the key."""
    key = (key ^ (key >> 31)) * 0x1CE4E5B9BF58476D
    return key ^ (key >> 29)


class NGrams(nn.Module):
    """A vector for the last two tokens, plus one for the last three, ...: what a small vocabulary
    lacks.

    A table's row is chosen by a hash; rows that collide share a vector (arXiv:1607.01759).
    """

    def __init__(self, width, tables):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(2**bits, width, sparse=True) for bits in tables)
        self.dropout = 0.0  # the share of tokens that get no vector

    def forward(self, tokens):
        """tokens int64 [B, T] -> float32 [B, T, C]"""
        total = 0.0
        for key, table in zip(grams(tokens, len(self.tables) + 1), self.tables):
            total = total + table(scrambled(key) % len(table.weight))
        if self.dropout:
            total = total * F.dropout(
                torch.ones(*tokens.shape, 1, device=tokens.device), self.dropout
            )
        return total


def last_place(keys, n):
    """keys int64 [B, T] -> [B, n], for the last n: the latest earlier position of the same key, or
    -1.
    """
    if n == 1:
        position = torch.arange(keys.size(1) - 1, device=keys.device)
        places = torch.where(keys[:, :-1] == keys[:, -1:], position, -1)
        return F.pad(places, (1, 0), value=-1).amax(1, keepdim=True)
    order = keys.argsort(
        dim=1, stable=True
    )  # what is equal stands together, in the order of the row
    ordered = keys.gather(1, order)
    same = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    return torch.empty_like(order).scatter_(1, order, torch.where(same, order.roll(1, 1), -1))[
        :, -n:
    ]


def repeats(tokens, n):
    """What followed the last 1, 2, ... COPY tokens when they stood in the row before: int64 [B, n,
    COPY].

    And whether they did; both for the last n tokens of the row. Induction heads (arXiv:2209.11895)
    learn this in time; five minutes on a CPU are not enough for it.
    """
    places = torch.stack([last_place(keys, n) for keys in (tokens, *grams(tokens, COPY))], dim=-1)
    following = F.pad(tokens, (0, 1))[..., None].expand(-1, -1, COPY)
    return following.gather(
        1, places + 1
    ), places >= 0  # where they did not: the first token, which is BOS


class Memory(nn.Module):
    """What followed the last 1, 2, ... RECALL tokens in the training text: a nearest-neighbour
    model of it.

    Nothing of it is learnt by gradients (arXiv:1911.00172). An entry is a check of the key, a trace
    of the last TRACE tokens, and what followed: 22, 22 and 18 bits. One row in WAYS writes to the
    same places.
    """

    def __init__(self, bits):
        super().__init__()
        self.bits, number = bits, RECALL * WAYS if bits else 0
        self.register_buffer("entries", torch.zeros(number, 2**bits, dtype=torch.int64))

    def keys(self, tokens):
        """(places in entries.view(-1), checks): [RECALL x WAYS, B, T], traces [B, T]."""
        longest = TRACE if self.training else RECALL + 1
        *keys, trace = (scrambled(key) for key in (tokens, *grams(tokens, longest)))
        keys = torch.stack(keys[:RECALL]).repeat_interleave(WAYS, 0)[: len(self.entries)]
        first = torch.arange(0, self.entries.numel(), 2**self.bits, device=tokens.device)
        return (
            first[:, None, None] + keys % 2**self.bits,
            keys >> 42 & 0x3FFFFF | 1,
            trace >> 42 & 0x3FFFFF,
        )

    def forward(self, tokens):
        """What followed, whether anything did: each [B, T, RECALL x WAYS]."""
        places, checks, traces = self.keys(tokens)
        entries = self.entries.view(-1)[places]
        known = entries >> 40 == checks
        if self.training:  # a row must not find itself
            known &= (entries >> 18 & 0x3FFFFF) != traces
        return torch.where(known, entries & 0x3FFFF, 0).movedim(0, -1), known.movedim(0, -1)

    @torch.no_grad()
    def learn(self, tokens, targets):
        places, checks, traces = self.keys(tokens)
        way, row = torch.arange(len(places)) % WAYS, torch.arange(len(tokens)) % WAYS
        mine = (way[:, None] == row).to(tokens.device)
        places, entries = (
            places[mine].view(-1),
            (checks << 40 | traces << 18 | targets)[mine].view(-1),
        )
        self.entries.view(-1)[places] = (
            0  # of several entries for a place the largest stays, in any order
        )
        self.entries.view(-1).scatter_reduce_(0, places, entries, "amax")


def first_place(tokens, vocab_size):
    """tokens int64 [B, T] -> float32 [B, V]: where in its row a token stands first, inf where it
    does not.
    """
    place = torch.arange(tokens.size(1), device=tokens.device, dtype=torch.float32).expand(
        tokens.shape
    )
    nowhere = torch.full((len(tokens), vocab_size), torch.inf, device=tokens.device)
    return nowhere.scatter_reduce(1, tokens, place, "amin")


def add_at(logits, tokens, bonus):
    """Add bonus [..., n] to logits [..., V] at tokens [..., n], in place: scatter_add_ copies all
    of them.
    """
    starts = torch.arange(0, logits.numel(), logits.size(-1), device=logits.device)
    return logits.put_(starts.view(*tokens.shape[:-1], 1) + tokens, bonus, accumulate=True)


def cap(logits, gate, seen_bias, first):
    """Logits [B, T, V] as they are scored, in float32, and which tokens stand in the row so far,
    bool.

    These get gate x seen_bias, [B, T, 1] x [V]: what was said is said again (arXiv:1612.04426).
    Then comes SOFTCAP tanh(logits / SOFTCAP), in a form that is fast in compiled code.
    """
    position = torch.arange(logits.size(1), device=logits.device, dtype=torch.float32)
    seen = first[:, None] <= position[:, None]
    raw = logits.float() + torch.where(seen, gate.float() * seen_bias, 0.0)
    return SOFTCAP - 2 * SOFTCAP / (1 + (raw * (2 / SOFTCAP)).exp()), seen


def capped_loss(logits, gate, seen_bias, first, targets, scale):
    """(summed loss in nats, its gradients x scale in logits, gate and seen_bias); targets [B, T]."""
    z, seen = cap(logits, gate, seen_bias, first)
    lse = z.exp().sum(-1, keepdim=True).log()  # the cap keeps exp() in range
    hit = (
        torch.arange(z.size(-1), device=z.device, dtype=torch.float32) == targets[..., None].float()
    )
    slope = ((z - lse).exp() - hit.float()) * (1 - (z / SOFTCAP).square()) * scale
    seen_slope = torch.where(seen, slope, 0.0)
    dgate, dbias = (
        (seen_slope * seen_bias).sum(-1, keepdim=True),
        (seen_slope * gate.float()).sum((0, 1)),
    )
    return (
        (lse - z.gather(-1, targets[..., None])).sum(),
        slope.to(logits.dtype),
        dgate.to(gate.dtype),
        dbias,
    )


class HeadLoss(torch.autograd.Function):
    """Mean loss of the capped logits x weight' + copied bonus, some rows at a time: they are never
    whole.

    x [B, T, C], weight [V, C], bonus [B, T, n + 1], the last of it the gate, copied [B, T, n],
    seen_bias [V], first [B, V], targets [B, T]. Forward makes the gradients too, from logits that
    are still in the cache.
    """

    @staticmethod
    def forward(ctx, x, weight, bonus, copied, seen_bias, first, targets, loss_of, rows):
        w, loss, scale = weight.to(x.dtype), 0.0, 1 / targets.numel()
        grads = [torch.zeros_like(t) for t in (x, weight, bonus, seen_bias)]
        inputs = (t.split(rows) for t in (x, bonus, copied, first, targets, grads[0], grads[2]))
        for part, extra, tokens, places, target, dx, dextra in zip(*inputs):
            logits = add_at(part @ w.mT, tokens, extra[..., :-1])
            nats, slope, dgate, dbias = loss_of(
                logits, extra[..., -1:], seen_bias, places, target, scale
            )
            torch.matmul(slope, w, out=dx)
            dextra.copy_(torch.cat([slope.gather(-1, tokens), dgate], dim=-1))
            grads[1].add_(slope.flatten(0, 1).mT @ part.flatten(0, 1))
            grads[3].add_(dbias)
            loss = loss + nats
        ctx.save_for_backward(*grads)
        return loss * scale

    @staticmethod
    def backward(ctx, upstream):
        dx, dweight, dbonus, dbias = (upstream.to(grad.dtype) * grad for grad in ctx.saved_tensors)
        return dx, dweight, dbonus, None, dbias, None, None, None, None


class Head(nn.Module):
    """The stream to logits [B, T, V] in float32 or, given targets [B, T], to their mean loss in
    nats.

    What followed the same tokens before gets a bonus, as large as the stream says
    (arXiv:1704.04368), and so does what stood in the row before.
    """

    def __init__(self, width, vocab_size, memory):
        super().__init__()
        self.out, self.norm, self.loss_of = Linear(width, vocab_size), norm, capped_loss
        self.memory = Memory(memory)
        number = COPY + len(self.memory.entries)
        self.bonus = Linear(width, number + 1)
        self.bonus_bias = nn.Parameter(F.one_hot(torch.tensor(number), number + 1).float())
        self.seen_bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x, tokens, targets=None):
        n, past = x.size(1), tokens.size(1) - x.size(1)
        x, both = (
            self.norm(x),
            zip(repeats(tokens, n), self.memory(tokens[:, max(0, past - TRACE) :])),
        )
        copied, there = (torch.cat([part[:, -n:] for part in pair], dim=-1) for pair in both)
        bonus = (self.bonus(x) + self.bonus_bias.to(x.dtype)) * F.pad(there, (0, 1), value=True)
        seen = self.seen_bias, first_place(tokens, len(self.seen_bias)) - past
        if targets is None:
            return cap(add_at(self.out(x), copied, bonus[..., :-1]), bonus[..., -1:], *seen)[0]
        rows = max(1, (2**10 if x.device.type == "cpu" else 2**14) // tokens.size(1))
        return HeadLoss.apply(x, self.out.weight, bonus, copied, *seen, targets, self.loss_of, rows)


class GPT(nn.Module):
    def __init__(
        self, vocab_size, context, depth, width, head_size, windows, tables, memory, dtype
    ):
        super().__init__()
        self.dtype, self.norm = getattr(torch, dtype), norm
        self.embedding, self.ngrams = nn.Embedding(vocab_size, width), NGrams(width, tables)
        with_values = range(depth - 1, -1, -2)  # every second layer, the last one among them
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocab_size, width) for i in with_values})
        letters = (windows * depth)[: depth - 1] + "L"
        spans = [context // SPANS[letter] for letter in letters]
        self.blocks = nn.ModuleList(
            Block(width, head_size, spans[i], i in with_values) for i in range(depth)
        )
        self.head = Head(width, vocab_size, memory)
        frequencies = ROPE_BASE ** -(torch.arange(head_size // 2) / (head_size // 2))
        angles = torch.arange(context)[:, None] * frequencies  # [T, D / 2]
        self.register_buffer("cos", angles.cos()[:, None].to(self.dtype), persistent=False)
        self.register_buffer("sin", angles.sin()[:, None].to(self.dtype), persistent=False)

    @torch.no_grad()
    def init_weights(self):
        """Uniform matrices; zero where a branch ends, so that training starts from the identity."""
        bound = INIT_SCALE * math.sqrt(3 / self.embedding.embedding_dim)
        nn.init.normal_(self.embedding.weight)
        nn.init.ones_(self.blocks[-1].readout)
        for weight in (self.head.out.weight, self.head.bonus.weight, *self.ngrams.parameters()):
            nn.init.zeros_(weight)
        for block in self.blocks:
            for matrix in (block.qkv, block.up):
                nn.init.uniform_(matrix.weight, -bound, bound)
            for matrix in (block.out, block.down, *filter(None, [block.gate])):
                nn.init.zeros_(matrix.weight)
        for table in self.values.values():
            nn.init.uniform_(table.weight, -bound, bound)

    def forward(self, tokens, targets=None, cache=None):
        """tokens int64 [B, T] -> logits float32 [B, T, V]; with targets [B, T] -> their mean loss
        in nats.

        With what a cache holds of the first of these tokens -> the logits of the others.
        """
        past, T = cache[0].length if cache else 0, tokens.size(1)
        new, cos, sin = tokens[:, past:], self.cos[past:T], self.sin[past:T]
        ngrams = self.ngrams(tokens[:, max(0, past - TRACE) :])[:, past - T :]
        x0 = self.norm((self.embedding(new) + ngrams).to(self.dtype))
        # an alias, or a sum without a gradient, would have the first block compiled apart
        x, out = x0.clone(), x0 * 0
        for i, block in enumerate(self.blocks):  # the n-grams are on the way of the values, too
            value = (
                (self.values[str(i)](new) + ngrams).to(x.dtype) if str(i) in self.values else None
            )
            x, out = block(x, x0, out, value, cos, sin, cache and cache[i])
        return self.head(out, tokens, targets)

    def init_cache(self, B, T):
        """What decode() keeps of up to T tokens: themselves, in each layer their keys and values."""
        tokens = torch.zeros(B, 0, dtype=torch.int64, device=self.cos.device)
        return SimpleNamespace(
            tokens=tokens, layers=[Past(B, T, block, self.dtype) for block in self.blocks]
        )

    def decode(self, cache, ids):
        """ids int64 [B, n], which follow what the cache holds -> forward()'s logits of them [B, n,
        V].

        A test holds it against forward().
        """
        cache.tokens = torch.cat([cache.tokens, ids], dim=1)
        return self(cache.tokens, cache=cache.layers)


def load(folder):
    """The model that submit() saved in `folder`: weights, and the config it was given."""
    model = GPT(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    load_model(model, str(folder / "model.safetensors"))
    for part in (model.blocks, model.head.out, model.head.bonus):
        part.to(model.dtype)  # as they are used: half of what a decoded token has to read
    return model


# --------------------------------------------------------------------------------------------------
# Optimizer

# Polar Express (arXiv:2505.16932): x <- a x + (b A + c A A) x, A = x x', goes to the nearest
# orthogonal x
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def orthogonalize(g, dtype):
    """The nearest orthogonal matrix of each, about; g [K, m, n]."""
    x = g.to(dtype)
    tall = x.size(1) > x.size(2)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        A = x @ x.mT
        x = a * x + torch.baddbmm(b * A, A, A, beta=1.0, alpha=c) @ x
    return (x.mT if tall else x).to(g.dtype)


def muon_update(grads, weights, momentum, variance, rate, share, decay, dtype):
    """What is added to weights [K, m, n]; variance is [K, m, 1]; rate, share (of momentum), decay:
    scalars.

    Momentum, orthogonalised (kellerjordan.github.io/posts/muon), with a variance for each row
    (NorMuon, arXiv:2510.05491) and weight decay only where it agrees with the step
    (arXiv:2510.12402).
    """
    momentum.add_((grads - momentum) * (1 - share))
    u = orthogonalize(grads + (momentum - grads) * share, dtype)  # Nesterov
    variance.lerp_(u.square().mean(-1, keepdim=True), 1 - BETA2)
    v = u * variance.clamp_min(1e-10).rsqrt()
    v = v * (u.norm(dim=(1, 2), keepdim=True) / v.norm(dim=(1, 2), keepdim=True).clamp_min(1e-10))
    return -rate * (v + decay * weights * (v * weights > 0))


class Muon(torch.optim.Optimizer):
    """muon_update() for all matrices of one shape at once: they are a group, and are stacked [K, m,
    n].
    """

    def __init__(self, parameters, dtype):
        shapes = {}
        for p in parameters:
            shapes.setdefault(p.shape, []).append(p)
        groups = [
            {"params": ps, "lr": MATRIX_LR * max(1, m / n) ** 0.5} for (m, n), ps in shapes.items()
        ]
        super().__init__(groups, dict(momentum=MOMENTUM, weight_decay=MATRIX_WEIGHT_DECAY))
        self.dtype, self.update = dtype, muon_update
        for ps in shapes.values():  # of several processes each has its share of a stack
            stack = torch.zeros_like(prepare.own_share(torch.stack(ps)).detach())
            self.state[ps[0]] = {"momentum": stack, "variance": torch.zeros_like(stack[..., :1])}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            ps, state = group["params"], self.state[group["params"][0]]
            stacks = ([p.grad for p in ps], [p.data for p in ps])
            stacks = [prepare.own_share(torch.stack(stack)) for stack in stacks]
            numbers = [torch.tensor(group[key]) for key in ("lr", "momentum", "weight_decay")]
            change = self.update(*stacks, *state.values(), *numbers, self.dtype)
            torch._foreach_add_(ps, list(prepare.join_shares(change, len(ps)).unbind()))


class RowAdam(torch.optim.Optimizer):
    """Adam for tables of which a step touches few rows: these alone are read and moved.

    Without momentum, and with one second moment for a row, so that the state is small
    (arXiv:1804.04235).
    """

    def __init__(self, parameters, lr):
        super().__init__(parameters, dict(lr=lr, weight_decay=TABLE_WEIGHT_DECAY))
        for p in self.param_groups[0]["params"]:
            self.state[p] = {
                key: torch.zeros(len(p), device=p.device) for key in ("variance", "count")
            }

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                grad, state = p.grad.coalesce(), self.state[p]
                rows, grad = grad.indices()[0], grad.values()  # [n], [n, C]
                count = state["count"][rows] + 1
                variance = state["variance"][rows].lerp(grad.square().mean(1), 1 - TABLE_BETA2)
                state["count"][rows], state["variance"][rows] = count, variance
                size = (variance / (1 - TABLE_BETA2**count)).sqrt() + 1e-10
                step = grad / size[:, None] + group["weight_decay"] * p[rows]
                p.index_add_(0, rows, step, alpha=-group["lr"])


def make_optimizers(model):
    """Muon for the matrices of the blocks, AdamW for embeddings, head and scalars, RowAdam for the
    tables.
    """
    scale = (model.embedding.embedding_dim / 768) ** -0.5
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    scalars = [p for p in (*model.head.parameters(), *model.blocks.parameters()) if p.ndim == 1]
    head = [p for p in model.head.parameters() if p.ndim == 2]
    groups = [
        dict(
            params=[model.embedding.weight],
            lr=EMBEDDING_LR * scale,
            weight_decay=EMBEDDING_WEIGHT_DECAY,
        ),
        dict(
            params=[*model.values.parameters()],
            lr=VALUE_LR * scale,
            weight_decay=EMBEDDING_WEIGHT_DECAY,
        ),
        dict(params=head, lr=HEAD_LR * scale, weight_decay=HEAD_WEIGHT_DECAY),
        dict(params=scalars, lr=SCALAR_LR, weight_decay=0.0),
    ]
    adam = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=1e-10, fused=True)
    optimizers = [Muon(matrices, model.dtype), adam]
    if model.ngrams.tables:
        optimizers.append(RowAdam(model.ngrams.parameters(), TABLE_LR * scale))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["top_lr"], group["top_weight_decay"] = group["lr"], group["weight_decay"]
    return optimizers


def set_schedules(optimizers, progress):
    """Rates are constant, then fall linearly to FINAL_LR; weight decay falls to 0; momentum rises."""
    rate = FINAL_LR + (1 - FINAL_LR) * min(1.0, (1 - progress) / WARMDOWN)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate * group["top_lr"]
        group["weight_decay"] = (1 - progress) * group["top_weight_decay"]
        if "momentum" in group:
            rise = (MOMENTUM - MOMENTUM_START) * min(1.0, progress / MOMENTUM_WARMUP)
            group["momentum"] = MOMENTUM_START + rise


# --------------------------------------------------------------------------------------------------
# Training


def make_config(arena, device):
    """(config of GPT, rows of a step)."""
    preset = dict(PRESETS["large" if device.type == "cuda" and arena.name != "pocket" else "small"])
    head_size = HEAD_SIZE if preset["depth"] * ASPECT >= 512 else 64
    width = -(-preset["depth"] * ASPECT // head_size) * head_size
    sizes = dict(
        vocab_size=arena.vocab_size, context=arena.context, width=width, head_size=head_size
    )
    rows = preset.pop("rows")
    return sizes | preset | dict(dtype=fastest_dtype(device)), rows


def train_step(run, model, optimizers, x, y):
    """One step of the optimizers; returns the mean loss."""
    set_schedules(optimizers, run.progress)
    model.ngrams.dropout = REPEAT_DROPOUT * (run.epoch >= 1)
    total = 0.0
    for part_x, part_y, share in run.pieces(x, y):
        loss = model(part_x, part_y) * share
        loss.backward()
        total = total + loss.detach()
    run.sum_gradients(model, total)
    model.head.memory.learn(x, y)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def compilable_parts(model, muon):
    """One block for all, head, norms, Muon: graphs, seconds of a core, the share of a step saved."""
    bfloat16 = model.dtype == torch.bfloat16
    norms = [(model, "norm"), (model.head, "norm")]
    return [
        Part("loss", [(model.head, "loss_of")], 1, 24, 0.25 if bfloat16 else 0.03),
        Part("block", [*model.blocks], 4, 80, 0.22 if bfloat16 else 0.08),
        Part("norm", norms, 2, 4, 0.01 if bfloat16 else 0.0),
        Part("muon", [(muon, "update")], 3, 66, 0.02 if bfloat16 else 0.0),
    ]


def main():
    run = prepare.enter()
    config, rows = make_config(run.arena, run.device)
    model = GPT(**config)
    model.init_weights()
    model.to(run.device)
    optimizers = make_optimizers(model)
    step = partial(train_step, run, model, optimizers)
    parts = compilable_parts(model, optimizers[0])
    run.rehearse(step, rows, model, *optimizers, parts=parts)
    for x, y in run.batches(rows, epochs=EPOCHS):
        run.log(step(x, y))
    run.submit(model, config)


if __name__ == "__main__":
    with prepare.exit_on_user_error(go_on="run the same command again to start anew"):
        main()
