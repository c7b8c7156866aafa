"""kernels/: every fused kernel against its plain twin, and that against a loop."""

import itertools
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from ratchet.arena.kernels import attention, copying, flash4, loss, mlp, tables, trial


@pytest.mark.parametrize("window", [1, 5, 16, 40])
def test_attention_equals_a_loop_over_positions(window, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 6)  # three blocks, the last one shorter
    q, k, v = torch.randn(3, 2, 16, 3, 8)
    plain = attention.plain_attention(q, k, v, window)
    for t in range(16):
        seen = slice(max(0, t - window + 1), t + 1)
        scores = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, seen]) / math.sqrt(8)
        expected = torch.einsum("bhs,bshd->bhd", scores.softmax(-1), v[:, seen])
        torch.testing.assert_close(plain[:, t], expected)
    torch.testing.assert_close(attention.causal_attention(q, k, v, window), plain)


@pytest.mark.parametrize("window", [1, 5, 16, 40])
@pytest.mark.parametrize("latest", [1, 3, 15])
def test_attention_of_the_latest_tokens_is_the_end_of_that_of_all(window, latest):
    q, k, v = torch.randn(3, 2, 16, 3, 8)
    whole = attention.causal_attention(q, k, v, window)
    some = attention.causal_attention(q[:, -latest:], k, v, window)
    torch.testing.assert_close(some, whole[:, -latest:])
    torch.testing.assert_close(attention.plain_attention(q[:, -latest:], k, v, window), some)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("window", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_compiled_attention_has_the_gradients_of_its_twin(window):
    inputs, grads = torch.randn(3, 2, 200, 2, 16), []
    compiled = torch.compile(attention.causal_attention, dynamic=False)
    for attend in (compiled, attention.plain_attention):
        leaves = [t.clone().requires_grad_() for t in inputs]
        attend(*leaves, window).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "rows, context, vocab_size, piece, compiled",
    [
        (1, 1, 5, 8, False),
        (3, 37, 501, 50, False),
        (3, 37, 501, 50, True),
        pytest.param(1, 1, 5, 8, True, marks=pytest.mark.slow),
    ],
)
def test_the_loss_and_its_gradients_are_those_of_its_twin(
    rows, context, vocab_size, piece, compiled, monkeypatch
):
    torch.manual_seed(0)
    monkeypatch.setitem(loss.LOSS_TOKENS, "cpu", piece)
    if compiled:
        made = torch.compile(loss.loss_and_slope, dynamic=False)
        monkeypatch.setattr(loss, "loss_and_slope", made)
    inputs = torch.randn(rows, context, 24), torch.randn(vocab_size, 24)
    inputs[1][0] *= 100  # logits far beyond the cap
    inputs += (torch.randn(rows, context, 3),)  # the bonus of three tokens, one maybe twice
    targets, *tokens = torch.randint(vocab_size, (4, rows, context))
    results = []
    for loss_of in (loss.softcapped_cross_entropy, loss.plain_cross_entropy):
        x, weight, bonus = (t.clone().requires_grad_() for t in inputs)
        mean = loss_of(x, weight, targets, 15.0, torch.stack(tokens, -1), bonus)
        (3 * mean).backward()
        results.append((mean.detach(), x.grad, weight.grad, bonus.grad))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n", [17, 5, 1])
def test_followers_are_those_of_their_twin(n):
    torch.manual_seed(0)
    tokens = torch.randint(6, (3, 17))
    followers, exist = copying.find_followers(tokens, n, 4)
    known, known_exist = copying.plain_followers(tokens, n, 4)
    assert torch.equal(exist, known_exist) and exist.any() and not exist.all()
    assert torch.equal(followers[exist], known[exist])


def test_a_follower_worked_by_hand():
    followers, exist = copying.find_followers(torch.tensor([[5, 7, 9, 5]]), 4, 2)
    assert followers[0, -1, 0] == 7 and exist[0].tolist() == [[False, False]] * 3 + [[True, False]]


def test_a_table_moves_by_adam_with_one_second_moment_a_row():
    torch.manual_seed(0)
    table, variance, count = torch.randn(10, 4), torch.zeros(10), torch.zeros(10)
    expected, mean, steps = table.clone(), [0.0] * 10, [0] * 10
    for rows in ([1, 3, 3], [3, 7, 7], [1, 1, 1]):
        grads = torch.randn(3, 4)
        for row in {*rows}:
            grad = sum(grads[i] for i in range(3) if rows[i] == row)
            steps[row] += 1
            share = max(1 - 0.6, 1 / steps[row])
            mean[row] = (1 - share) * mean[row] + share * grad.square().mean()
            expected[row] -= 0.1 * (grad / mean[row].sqrt() + 0.01 * expected[row])
        tables.rowwise_adam_(table, variance, count, torch.tensor(rows), grads, 0.1, 0.6, 0.01)
        torch.testing.assert_close(table, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bonuses_are_added_in_the_order_of_their_columns(dtype):
    torch.manual_seed(0)
    logits, tokens = torch.randn(3, 7, 5, dtype=dtype), torch.randint(5, (3, 7, 4))  # many twice
    bonus = torch.randn(3, 7, 4, dtype=dtype)
    expected = logits.clone()
    for b, t, i in itertools.product(range(3), range(7), range(4)):
        expected[b, t, tokens[b, t, i]] += bonus[b, t, i]
    assert torch.equal(copying.add_bonus_(logits, tokens, bonus), expected)


def test_an_mlp_worked_by_hand():
    up, down = torch.tensor([[1.0, 2.0], [-1.0, 0.0]]), torch.tensor([[10.0, 1.0], [0.0, 1.0]])
    x = torch.tensor([[[1.0, 1.0], [-3.0, 0.0]]])  # 3 and -1 after `up`, then -3 and 3
    assert mlp.relu2_mlp(x, up, down).tolist() == [[[90.0, 0.0], [9.0, 9.0]]]


@pytest.fixture
def flash4_on_cpu(monkeypatch):
    """flash-attn-4 is there, as it computes: it gets what it may get and returns as much."""

    def weights(q, k, left, right):
        assert right == 0
        position = torch.arange(q.size(1))
        distance = position[:, None] - position
        unseen = (distance < 0) | (distance > (q.size(1) if left is None else left))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.size(-1))
        return scores.masked_fill(unseen, -torch.inf).softmax(-1)

    def forward(q, k, v, return_lse, window_size_left, window_size_right):
        p = weights(q, k, window_size_left, window_size_right)
        return torch.einsum("bhts,bshd->bthd", p, v), p.new_zeros(p.shape[:3]), None, None, None

    def backward(q, k, v, out, grad, lse, window_size_left, window_size_right):
        p = weights(q, k, window_size_left, window_size_right)
        dp = torch.einsum("bthd,bshd->bhts", grad, v)
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / math.sqrt(q.size(-1))
        terms = ("bhts,bshd->bthd", ds, k), ("bhts,bthd->bshd", ds, q), ("bhts,bthd->bshd", p, grad)
        return tuple(torch.einsum(*term) for term in terms)

    module = SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)
    monkeypatch.setitem(sys.modules, flash4.INTERFACE, module)
    for operator in (flash4.flash4, flash4.flash4_backward):
        operator.register_kernel("cpu")(operator._init_fn)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("window", [3, 16])
@pytest.mark.parametrize("compiled", [False, True])
def test_flash_attention_4_is_called_as_it_expects(window, compiled, flash4_on_cpu):
    torch.manual_seed(0)
    inputs, upstream = torch.randn(3, 2, 16, 3, 8), torch.randn(2, 16, 3, 8)
    fused = torch.compile(attention.flash4_attention, fullgraph=True, backend="aot_eager")
    results = []
    for attend in (fused if compiled else attention.flash4_attention, attention.plain_attention):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = attend(*leaves, window)
        out.backward(upstream)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results)


# --------------------------------------------------------------------------------------------------
# Trying kernels


def square_with_gradient(square):
    x = torch.arange(3.0).requires_grad_()
    square(x).sum().backward()
    return x.detach() ** 2, x.grad


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_kernel_that_agrees_with_its_twin_is_taken_wherever_it_is_asked_for(around, capsys):
    with around():
        assert trial.kernel_works(torch.square, lambda x: x * x, square_with_gradient)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("wrong", [torch.sin, torch.linalg.inv])
def test_a_kernel_that_fails_or_computes_something_else_is_left_out(wrong, capsys):
    assert not trial.kernel_works(wrong, torch.square, square_with_gradient)
    assert " does not work on this GPU and is left out: " in capsys.readouterr().out


@pytest.fixture(params=range(5))
def random_on_cpu(request, monkeypatch):
    """What kernels are tried with, with other seeds too; the GPU that they are tried on is new."""

    def random_tensors(count, *shape, dtype):
        generator = torch.Generator().manual_seed(request.param)
        return torch.randn(count, *shape, generator=generator).to(dtype).unbind()

    for module in (attention, loss, mlp):
        monkeypatch.setattr(module, "random_tensors", random_tensors)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def in_float32(function):
    """What a kernel with exact sums computes."""

    def call(*tensors):
        floats = [t.float() if isinstance(t, torch.Tensor) else t for t in tensors]
        return function(*floats).to(tensors[0].dtype)

    return call


@pytest.mark.parametrize("whole", [False, True])
def test_exact_attention_is_taken(whole, random_on_cpu):
    exact = in_float32(attention.plain_attention)
    assert attention.attention_works(exact, torch.bfloat16, 128, whole)
    wrong = in_float32(lambda q, k, v, window: attention.plain_attention(q, k, v, window - 1))
    assert whole or not attention.attention_works(wrong, torch.bfloat16, 128, whole)


def test_an_exact_mlp_is_taken(random_on_cpu, monkeypatch):
    monkeypatch.setattr(mlp, "fused_relu2_mlp", in_float32(mlp.plain_relu2_mlp))
    monkeypatch.setattr(mlp, "triton_op", lambda name: True)
    assert mlp.fused_mlp_works.__wrapped__(torch.bfloat16)


def test_an_exact_loss_is_taken(random_on_cpu, monkeypatch):
    def exact(logits, targets, cap, scale):
        nats, slope = loss.loss_and_slope(logits.double(), targets, cap, scale)
        return nats.float(), slope.to(logits.dtype)

    monkeypatch.setattr(loss, "fused_loss_and_slope", exact)
    monkeypatch.setattr(loss, "triton_op", lambda name: True)
    assert loss.fused_loss_works.__wrapped__(torch.bfloat16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_takes_what_was_decided_once():
    asked = []

    @trial.once
    def is_large(number):
        asked.append(number)
        return number > 10

    def double_if_large(x):
        return 2 * x if is_large(len(x)) else x

    compiled = torch.compile(double_if_large, fullgraph=True, dynamic=False, backend="eager")
    assert compiled(torch.ones(11)).sum() == 22 and compiled(torch.ones(2)).sum() == 2
    assert double_if_large(torch.ones(11)).sum() == 22 and asked == [11, 2]


def test_the_compiler_is_loaded_by_nobody_who_compiles_nothing():
    """It takes a second or two, of each of a run's processes."""
    code = "import sys, train; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
