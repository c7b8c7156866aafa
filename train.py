"""The contestant: a small GPT, trained with Muon and AdamW until the budget is spent. The file to
edit.

    uv run train.py

What must stay is the contract: load(folder) gives back a model that maps tokens [B, T] to logits
[B, T, V], causal and stateless; main() enters, rehearses, trains on run.batches(), submits. All
else is open to change.

A plain GPT (Block, GPT: rotary positions, relu^2, value embeddings) and what is unusual, with its
gain in val_bpb after 60 s on pocket: NGrams, vectors for pairs and triples of tokens (0.058);
repeats(), seen_bias, bonuses for what stood in the row before (0.026); Memory, what followed in the
training text (0.012, more in a second pass). prepare gives enter() the conditions, rehearse() the
compiling, batches() the clock, submit() the score.

Letters in shapes: B rows, T context, V vocabulary, C width, H heads, D head size, K matrices of one
shape.
"""

import itertools
import json
import logging
import math
import time
from collections import deque
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from safetensors.torch import load_model
from torch import nn

import prepare

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
# what torch.compile can make faster on a CPU: how many graphs a part has, seconds of one core that
# these take when nothing is cached, the shares of a step that they save in bfloat16 and in float32
# (LOG.md)
COMPILED = {
    "loss": (1, 24, 0.25, 0.03),
    "block": (4, 80, 0.22, 0.08),
    "norm": (2, 4, 0.01, 0.0),
    "muon": (3, 66, 0.02, 0.0),
}
REPEAT_DROPOUT = (
    0.7  # of the tables' vectors, from the second pass on: they know by heart what follows
)

# --------------------------------------------------------------------------------------------------
# Attention: q, k, v [B, T, H, D] -> [B, T, H, D]; a token sees itself and the window - 1 tokens before it

QUERIES = 256  # that blockwise() takes at a time: 128 are as fast, but twice the code to compile


def blockwise(q, k, v, window):
    """Some queries at a time against the keys they may see; compiled on a CPU it beats the fused
    kernel.
    """
    q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    T, out = q.size(2), []
    position = torch.arange(
        T, device=q.device, dtype=torch.float32
    )  # integers are slow in compiled code
    for start in range(0, T, QUERIES):
        first, end = max(0, start - window + 1) // QUERIES * QUERIES, min(start + QUERIES, T)
        distance = position[start:end, None] - position[first:end]
        scores = (q[:, :, start:end] @ k[:, :, first:end].mT).float() * q.size(-1) ** -0.5
        scores = scores.masked_fill((distance < 0) | (distance >= window), -torch.inf)
        out.append(scores.softmax(-1).to(v.dtype) @ v[:, :, first:end])
    return torch.cat(out, dim=2).transpose(1, 2)


def latest(q, k, v, window):
    """q [B, n, H, D] of the last n tokens alone, for decoding."""
    n, mask = q.size(1), None
    q, k, v = (t[:, -(window + n - 1) :].transpose(1, 2) for t in (q, k, v))
    if n > 1:
        position = torch.arange(k.size(2), device=q.device)
        distance = position[-n:, None] - position
        mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)


def varlen(q, k, v, window):
    """FlashAttention with exact windows (torch.nn.attention.varlen), CUDA only."""
    from torch.nn.attention.varlen import varlen_attn

    B, T = q.shape[:2]
    starts = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=q.device)
    q, k, v = (t.reshape(B * T, *t.shape[2:]) for t in (q, k, v))
    out = varlen_attn(q, k, v, starts, starts, T, T, window_size=(min(window, T) - 1, 0))
    return out.view(B, T, *out.shape[1:])


def choose_attention(device, dtype):
    """varlen() if it runs here, forward and backward, and agrees with blockwise()."""
    if device.type != "cuda":
        return blockwise
    q, k, v = (
        torch.randn(2, 256, 2, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    try:
        out = varlen(q, k, v, 100)
        out.backward(v)
        torch.testing.assert_close(out, blockwise(q, k, v, 100), atol=2e-2, rtol=2e-2)
        return varlen
    except Exception as error:
        print(
            f"varlen_attn does not work here, slower attention instead: {prepare.describe_error(error):.100}"
        )
        return blockwise


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
        self.head_size, self.window, self.attend = head_size, window, blockwise
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
        if past is None:
            return self.attend(q, k, v, self.window).flatten(2)
        return latest(q, *past(k, v), self.window).flatten(2)


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

        A test and `ratchet serve-bench` hold it against forward().
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
        rank, processes = prepare.peers()
        self.own = slice(rank, None, processes)  # of each stack: several processes share the work
        for ps in shapes.values():
            stack = torch.zeros(len(ps[self.own]), *ps[0].shape, device=ps[0].device)
            self.state[ps[0]] = {"momentum": stack, "variance": torch.zeros_like(stack[..., :1])}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            ps, state = group["params"], self.state[group["params"][0]]
            stacks = [
                torch.stack(ts)[self.own] for ts in ([p.grad for p in ps], [p.data for p in ps])
            ]
            numbers = [torch.tensor(group[key]) for key in ("lr", "momentum", "weight_decay")]
            change = self.update(*stacks, *state.values(), *numbers, self.dtype)
            torch._foreach_add_(ps, list(prepare.shared(change, self.own, len(ps)).unbind()))


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


def spent(run):
    """The share of the training that is over, in [0, 1]: of the budget or, if they end sooner, of
    EPOCHS.
    """
    return max(run.progress, min(1.0, run.tokens / (EPOCHS * run.arena.train_tokens)))


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


class Log:
    """Loss, speed, time left: a live line in a terminal, else a line every 10 seconds; curve.jsonl;
    wandb.
    """

    def __init__(self, run, config, wandb=None):
        self.run, self.pending, self.smooth, self.next_line, self.wandb = (
            run,
            deque(),
            None,
            0.0,
            wandb,
        )
        self.limit = 2 * math.log(config["vocab_size"])
        self.curve = open(run.folder / "curve.jsonl", "w", encoding="utf-8")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        self.live = (
            Progress(*columns, console=prepare.console) if prepare.console.is_terminal else None
        )
        if self.live:
            self.live.start()
            self.task = self.live.add_task("training", total=1.0)

    def __call__(self, loss):
        """Note the loss of a step. On a GPU it is read some steps later, when it is there: nothing
        waits.
        """
        self.pending.append((self.run.steps, self.run.tokens, self.run.seconds, loss))
        if len(self.pending) > prepare.QUEUED_STEPS * (loss.device.type != "cpu"):
            self.note(*self.pending.popleft())

    def note(self, step, tokens, seconds, loss):
        loss = loss.item()
        if not loss < self.limit:
            self.pending.clear()
            self.close()
            self.run.fail(
                f"the loss is {loss:.3g} at step {step}, it should stay below {self.limit:.1f}"
            )
        self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        point = {"step": step, "tokens": tokens, "seconds": round(seconds, 3), "loss": loss}
        self.curve.write(json.dumps(point) + "\n")
        if self.wandb:
            self.wandb.log(point, step=step)
        if step and seconds >= self.next_line:
            self.next_line = seconds + (0.2 if self.live else 10)
            self.show(step, tokens / seconds)

    def show(self, step, rate):
        mfu = 100 * rate * self.run.flops_per_token / (self.run.peak_flops or math.inf)
        line = f"step {step}  loss {self.smooth:.4f}  {rate:,.0f} tokens/s  mfu {mfu:.1f}%"
        done = spent(self.run)
        if self.live:
            self.live.update(self.task, completed=done, description=line)
        else:
            left = self.run.seconds * (1 / max(done, 1e-9) - 1)
            print(f"{100 * done:5.1f}%  {line}  {left:.0f} s left", flush=True)

    def close(self):
        while self.pending:
            self.note(*self.pending.popleft())
        if self.live:
            self.live.stop()
        self.curve.close()


def fastest_dtype(device):
    """bfloat16 where the hardware has it: a CPU is asked by trying."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    seconds = dict.fromkeys((torch.bfloat16, torch.float32), math.inf)
    for dtype in [*seconds] * 5:
        a = torch.randn(512, 512, device=device).to(dtype)
        begin = time.perf_counter()
        (a @ a).sum().item()
        seconds[dtype] = min(seconds[dtype], time.perf_counter() - begin)
    return "bfloat16" if seconds[torch.bfloat16] < seconds[torch.float32] else "float32"


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


def worth_compiling(run, dtype):
    """Names of the parts that the budget earns back: what compiling costs is less than what it
    saves.

    It depends on the budget and the processor alone, not on the cache or on a stopwatch: all runs
    of a comparison compile the same.
    """
    if run.device.type != "cpu":
        return [*COMPILED]
    seconds, cores = run.time_limit or run.arena.seconds, torch.get_num_threads()
    shares = {name: row[2 + (dtype == torch.float32)] for name, row in COMPILED.items()}
    return [name for name, row in COMPILED.items() if shares[name] * seconds > row[1] / cores]


def compile_parts(parts, model, muon):
    """Compile one block for all, head, Muon: seconds instead of a minute for the whole model at
    once.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of no GPU
    if "loss" in parts:
        model.head.loss_of = torch.compile(capped_loss, dynamic=False)
    if "block" in parts:
        for block in model.blocks:
            block.compile(dynamic=False)
    if "norm" in parts:
        model.norm = model.head.norm = torch.compile(norm, dynamic=False)
    if "muon" in parts:
        muon.update = torch.compile(muon_update, dynamic=False)


def compiler_works(device):
    """Whether torch.compile can do anything here."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
        return True
    except Exception:  # a compiler has a hundred types of them
        return False


def compile_nothing(model, muon):
    """Undo compile_parts()."""
    torch._dynamo.reset()
    model.norm = model.head.norm = norm
    model.head.loss_of, muon.update = capped_loss, muon_update
    for block in model.blocks:
        block._compiled_call_impl = None


def make_step(run, model, optimizers, rows):
    """step(x, y) -> mean loss: one step of the optimizers, through parts of `rows` rows.

    Of several processes each takes its share of the parts.
    """
    rank, processes = prepare.peers()

    def step(x, y):
        set_schedules(optimizers, spent(run))
        model.ngrams.dropout = REPEAT_DROPOUT * (run.tokens >= run.arena.train_tokens)
        total, share = 0.0, rows / len(x)
        for part_x, part_y in itertools.islice(
            zip(x.split(rows), y.split(rows)), rank, None, processes
        ):
            loss = model(part_x, part_y) * share
            loss.backward()
            total = total + loss.detach()
        prepare.add_gradients(model, total)
        model.head.memory.learn(x, y)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total

    return step


def rehearse(run, model, optimizers, rows):
    """A step that fits into memory, with what is worth it compiled."""
    _, processes = prepare.peers()
    if rows % processes:
        raise prepare.Refused(
            f"{rows} rows of a step can't be shared by {processes} processes: start another number"
        )
    parts, part = worth_compiling(run, model.dtype), rows // processes
    if eager := ", ".join(name for name in COMPILED if name not in parts):
        print(f"not compiled, as a budget of {run.budget} does not earn it back here: {eager}")
    compile_parts(parts, model, optimizers[0])
    while True:
        step = make_step(run, model, optimizers, part)
        try:
            run.rehearse(
                step, rows, model, *optimizers, parts=sum(COMPILED[name][0] for name in parts)
            )
            return step
        except torch.OutOfMemoryError:
            if part == 1 or processes > 1:
                raise
            part //= 2
            print(
                f"no memory for {2 * part} rows at once: a step goes through {part} rows at a time"
            )
        except Exception as error:  # of this code, or as there is no C++ compiler
            if not parts or compiler_works(run.device):
                raise
            why = f"{type(error).__name__}; is there a C++ compiler, like g++?"
            print(f"torch.compile does not work here, running without ({why})")
            compile_nothing(model, optimizers[0])
            parts = []


def main():
    run = prepare.enter()
    config, rows = make_config(run.arena, run.device)
    wandb = prepare.wandb_run(run, config)
    model = GPT(**config)
    model.init_weights()
    model.to(run.device)
    attend = choose_attention(run.device, model.dtype)
    for block in model.blocks:
        block.attend = attend
    optimizers = make_optimizers(model)
    step = rehearse(run, model, optimizers, rows)
    log = Log(run, config, wandb)
    for x, y in run.batches(rows):
        if run.tokens >= EPOCHS * run.arena.train_tokens:
            print(f"the text has been seen {EPOCHS} times: training ends before the budget")
            break
        log(step(x, y))
    log.close()
    result = run.submit(model, config)
    if log.wandb:
        log.wandb.summary["val_bpb"] = result["val_bpb"]
        log.wandb.finish()


if __name__ == "__main__":
    with prepare.exit_on_user_error(go_on="run the same command again to start anew"):
        main()
