"""export.py: `transformers` loads what it wrote, offline, and says the same."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_speak import write_run

import train
from ratchet.arena.files import Refused
from ratchet.arena.tokenizer import BOS, load_tokenizer
from ratchet.model import export
from ratchet.model.modelling import modelling_source

LOADED = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, given, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
tokens = load_file(given)["tokens"]
text = tokenizer("The people of a café", return_tensors="pt").input_ids
with torch.no_grad():
    logits, loss = model(tokens).logits, model(tokens, labels=tokens).loss
    spoken = model.generate(tokens[:1, :9], max_new_tokens=20, do_sample=False, eos_token_id=None)
save_file({"logits": logits, "spoken": spoken.clone(), "text": text, "loss": loss}, out)
"""


@pytest.fixture(scope="module")
def run(arena, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", arena)


@pytest.fixture(scope="module")
def exported(run, cache, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_CACHE", str(cache))
        return export.export_model(run, tmp_path_factory.mktemp("exported") / "model")


def test_transformers_load_it_and_say_the_same(run, exported, arena, tmp_path):
    tokens = torch.randint(4, 512, (2, 64))
    save_file({"tokens": tokens}, tmp_path / "given.safetensors")
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PYTHONPATH")
    }
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    arguments = [exported, tmp_path / "given.safetensors", tmp_path / "out.safetensors"]
    command = [
        sys.executable,
        "-I",
        "-c",
        LOADED,
        *map(str, arguments),
    ]  # nothing of ours is importable there
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    out, model = load_file(tmp_path / "out.safetensors"), train.load(run).eval()
    with torch.no_grad():
        expected = model(tokens)
        torch.testing.assert_close(out["logits"], expected, atol=1e-4, rtol=1e-4)
        said = tokens[:1, :9]
        for _ in range(20):
            said = torch.cat([said, model(said)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(out["spoken"], said)
    loss = torch.nn.functional.cross_entropy(
        expected[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    torch.testing.assert_close(out["loss"], loss, atol=1e-4, rtol=1e-4)
    tokenizer = load_tokenizer(arena.folder)
    ours = tokenizer.encode("The people of a café", add_special_tokens=False).ids
    assert out["text"][0].tolist() == [BOS, *ours]


def test_the_modelling_file_needs_nothing_of_the_harness(exported):
    tree = ast.parse((exported / "modeling_ratchet.py").read_text(encoding="utf-8"))
    imported = {
        n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names
    }
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in imported}
    standard = {"collections", "functools", "importlib", "math", "types", "typing"}
    assert roots <= {"torch", "transformers"} | standard
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert {"GPT", "NGrams", "causal_attention", "RatchetForCausalLM"} <= names
    assert not {"Muon", "main", "Part", "plain_cross_entropy"} & names


def test_a_folder_with_something_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(Refused, match="is not an empty folder"):
        export.export_model(run, tmp_path)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


def test_a_model_that_needs_the_harness_stays_there(arena, tmp_path):
    source = (
        (ROOT / "train.py")
        .read_text(encoding="utf-8")
        .replace("prepare.BOS", "prepare.SPECIALS.index('<|bos|>')")
    )
    with pytest.raises(Refused, match="the model uses prepare.SPECIALS"):
        export.export_model(write_run(tmp_path / "run", arena, source), tmp_path / "out")
    wrapped = (
        (ROOT / "train.py")
        .read_text(encoding="utf-8")
        .replace("    return model\n\n\n", "    return nn.Sequential(model)\n\n\n", 1)
    )
    with pytest.raises(Refused, match="load.. does more"):
        export.export_model(write_run(tmp_path / "wrapped", arena, wrapped), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_from_elsewhere_stays_there():
    with pytest.raises(Refused, match="a Sequential, which is no class of train.py"):
        modelling_source("import torch\nSequential = torch.nn.Sequential\n", "Sequential")


def test_names_are_prefixed_and_data_stays(run, tmp_path):
    with (
        open(run / "model.safetensors", "rb") as old,
        open(tmp_path / "renamed.safetensors", "wb") as new,
    ):
        export.copy_renamed(old, new, "model.")
    old, new = load_file(run / "model.safetensors"), load_file(tmp_path / "renamed.safetensors")
    assert {f"model.{name}" for name in old} == {*new}
    assert all(torch.equal(value, new[f"model.{name}"]) for name, value in old.items())
    assert json.loads((run / "config.json").read_bytes())["depth"] == 3
