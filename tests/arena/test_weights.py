"""hardware/weights.py: what is saved is what the library of safetensors loads, and it is fast."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from ratchet.arena.hardware import weights
from ratchet.arena.hardware.weights import rehearse_saving, save_weights


class Mixed(nn.Module):
    """Tensors of all kinds: odd sizes, no numbers, one number, views, two names of one."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 7)
        self.head = nn.Linear(7, 50)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.tensor(3.5))
        buffers = {
            "bits": torch.rand(13) > 0.5,
            "counts": torch.arange(5),
            "empty": torch.zeros(0, 3),
            "halved": torch.randn(3, 5).bfloat16(),
            "eighth": torch.randn(9).to(torch.float8_e4m3fn),
            "turned": torch.randn(4, 6).T,
            "waves": torch.randn(3, dtype=torch.complex64),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)


@pytest.mark.parametrize("piece", [2**25, 8])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(weights, "BUFFER_BYTES", piece)
    model, other = Mixed(), Mixed()
    save_weights(model, tmp_path)
    load_model(other, tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        loaded = other.state_dict()[name]
        assert loaded.dtype == tensor.dtype and loaded.shape == tensor.shape, name
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (loaded, tensor)]
        assert torch.equal(*bits), name
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_tensor_of_two_names_is_saved_once(tmp_path):
    save_weights(Mixed(), tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "head.weight" not in file.keys() and "table.weight" in file.keys()
        assert file.metadata() == {"head.weight": "table.weight"}


def test_each_tensor_begins_where_its_type_may(tmp_path):
    """Else a reader would have to copy what it could use in the file's own pages."""
    save_weights(Mixed(), tmp_path)
    loaded = load_file(tmp_path / "model.safetensors")
    assert all(tensor.data_ptr() % tensor.itemsize == 0 for tensor in loaded.values())


def test_the_rehearsals_file_is_written_over(tmp_path):
    model = nn.Linear(100, 100)
    assert rehearse_saving(model, tmp_path) >= 0
    (part,) = tmp_path.iterdir()
    assert part.suffix != ".safetensors", "weights of no training would pass for a result"
    number = part.stat().st_ino
    nn.init.ones_(model.weight)
    save_weights(model, tmp_path)
    (saved,) = tmp_path.iterdir()
    assert saved.name == "model.safetensors" and saved.stat().st_ino == number
    assert load_file(saved)["weight"].eq(1).all()


def test_a_smaller_model_leaves_nothing_of_a_larger_one(tmp_path):
    rehearse_saving(nn.Linear(100, 100), tmp_path)
    small = nn.Linear(3, 4)
    save_weights(small, tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["weight"], small.weight)


def test_a_hook_says_in_which_type_a_table_is_saved(tmp_path):
    """A table of gigabytes is saved on the clock, and its last digits are worth no second of it."""

    def round_table(module, state, prefix, metadata):
        state[prefix + "0.weight"] = state[prefix + "0.weight"].bfloat16()

    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    model.register_state_dict_post_hook(round_table)
    save_weights(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    types = {name: tensor.dtype for name, tensor in saved.items()}
    assert types == {
        "0.weight": torch.bfloat16,
        "1.weight": torch.float32,
        "1.bias": torch.float32,
    }
    assert model[0].weight.dtype == torch.float32
