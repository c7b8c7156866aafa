"""Export: a trained model as a folder that the `transformers` library loads."""

import ast
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.model import find as find_model
from ratchet.model import sample

BOS = "<|bos|>"
MODELLING = '''

# --------------------------------------------------------------------------------------------------
# For transformers

import torch  # noqa: E402
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel  # noqa: E402
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402


class RatchetConfig(PretrainedConfig):
    model_type = "ratchet"

    def __init__(self, model=None, **more):
        self.model = model or {}
        super().__init__(**more)


class RatchetForCausalLM(PreTrainedModel, GenerationMixin):
    """Every generated token recomputes the row: up to config.max_position_embeddings tokens, BOS first."""

    config_class = RatchetConfig

    def __init__(self, config):
        super().__init__(config)
        with torch.device("cpu"):
            self.model = {{class}}(**config.model)
        saved, buffers = self.model.state_dict(), self.model.named_buffers()
        # transformers empties what is not in the checkpoint
        self.fixed = {name: buffer.clone() for name, buffer in buffers if name not in saved}
        self.post_init()

    def _init_weights(self, module):
        pass  # all of them are in the checkpoint

    def forward(self, input_ids, labels=None, **ignored):
        if input_ids.size(1) > self.config.max_position_embeddings:
            raise ValueError(f"this model sees at most {self.config.max_position_embeddings} tokens")
        for name in [*self.fixed]:
            self.model.get_buffer(name).copy_(self.fixed.pop(name))
        logits, loss = self.model(input_ids), None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, **ignored):
        return {"input_ids": input_ids}
'''
CARD = """# A model trained with Ratchet

{score}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(".", trust_remote_code=True)
ids = tokenizer("My fellow citizens", return_tensors="pt").input_ids  # begins with {bos}, as all rows do
out = model.generate(ids, max_new_tokens=50, do_sample=True, top_k=50)
print(tokenizer.decode(out[0], skip_special_tokens=True))
```

Written for transformers 5. Every generated token recomputes the row.

`modeling_ratchet.py` holds what of its train.py the model needs. The tokenizer works on bytes.
"""


def export_model(run, to):
    """Write model.safetensors, tokenizer.json, their configs and a modelling file into a folder, at
    once.
    """
    to, facts = Path(to).absolute(), json.loads((run / "result.json").read_bytes())
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Refused(f"{to} is not an empty folder: name a new one")
    if facts["status"] != "ok":
        raise Refused(f"{run} has no valid score ({facts['reason']}): choose another run")
    own = json.loads((run / "config.json").read_bytes())
    with sample.open_decoder(run, "cpu") as model:
        about = model.request("describe_model")
        sizes = {"vocab_size": model.vocab_size, "max_position_embeddings": model.context}
    with open(run / "model.safetensors", "rb") as file:
        saved = sorted(find_model.read_header(file).keys() - {"__metadata__"})
    if about["names"] != saved or not isinstance(own, dict):
        raise Refused(
            "load() does more than to fill Class(**config) with what was saved: it can't be exported"
        )
    source = modelling_source((run / "train.py").read_text(encoding="utf-8"), about["class"])
    tokenizer = json.loads((Path(facts["arena_folder"]) / "tokenizer.json").read_bytes())
    to.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=to.parent))
    try:
        (part / "modeling_ratchet.py").write_text(source, encoding="utf-8")
        with (
            open(run / "model.safetensors", "rb") as old,
            open(part / "model.safetensors", "wb") as new,
        ):
            copy_renamed(old, new, "model.")
        write_json(part / "config.json", transformers_config(own, sizes))
        write_json(part / "tokenizer.json", with_bos(tokenizer))
        write_json(part / "tokenizer_config.json", tokenizer_config(model.context))
        score = "val_bpb {val_bpb:.4f} on the arena {arena} ({seal}), {budget}.".format(**facts)
        (part / "README.md").write_text(CARD.format(score=score, bos=BOS), encoding="utf-8")
        part.chmod(0o755)
        part.replace(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return to


def tokenizer_config(context):
    """tokenizer_config.json of transformers."""
    named = {"bos_token": BOS, "eos_token": BOS, "model_max_length": context}
    return named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def transformers_config(own, sizes):
    """config.json of transformers, for a model that is built as Class(**own)."""
    names = {"AutoConfig": "RatchetConfig", "AutoModelForCausalLM": "RatchetForCausalLM"}
    return {
        "model_type": "ratchet",
        "architectures": ["RatchetForCausalLM"],
        "model": own,
        "auto_map": {auto: f"modeling_ratchet.{name}" for auto, name in names.items()},
        **sizes,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def with_bos(tokenizer):
    """A tokenizer.json that puts BOS first, as the model has seen every row begin."""
    first, own = (
        {"SpecialToken": {"id": BOS, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    other = {"Sequence": {"id": "B", "type_id": 1}}
    special = {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}}
    template = {"single": [first, own], "pair": [first, own, other], "special_tokens": special}
    return tokenizer | {"post_processor": {"type": "TemplateProcessing"} | template}


def copy_renamed(old, new, prefix):
    """Copy an open .safetensors file, its tensors' names prefixed: only its header changes."""
    header = {
        prefix + name: facts
        for name, facts in find_model.read_header(old).items()
        if name != "__metadata__"
    }
    data = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    data += b" " * (-len(data) % 8)
    new.write(len(data).to_bytes(8, "little") + data)
    shutil.copyfileobj(old, new)


# --------------------------------------------------------------------------------------------------
# What of train.py a model needs


def modelling_source(text, name):
    """The source of a modelling file around the class `name` of a train.py. Raises Refused."""
    kept = needed_statements(ast.parse(text).body, {name})
    used = {
        n.attr
        for node in kept
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute) and is_prepare(n)
    }
    if used - {"BOS"}:
        raise Refused(
            f"the model uses prepare.{', prepare.'.join(sorted(used))}: it can't leave the harness"
        )
    if name not in {node.name for node in kept if isinstance(node, ast.ClassDef)}:
        raise Refused(f"the model is a {name}, which is no class of train.py: it can't be exported")
    imports, rest = sources_of(text, {name})
    stub = ["class prepare:\n    BOS = 0"] if used else []
    title = '"""The model, as its train.py had it, and what transformers wants around it."""'
    heads = "\n".join(dict.fromkeys(imports))
    return (
        f"{title}\n\n{heads}\n\n"
        + "\n\n\n".join(stub + rest)
        + MODELLING.replace("{{class}}", name)
    )


def sources_of(text, names):
    """(imports, other statements) of a file that `names` need, each as text; kernels are copied in."""
    lines, imports, rest = text.splitlines(), [], []
    for node in needed_statements(ast.parse(text).body, names):
        source = "\n".join(lines[first_line(node) - 1 : node.end_lineno])
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ratchet.arena."):
            kernels = Path(importlib.util.find_spec(node.module).origin).read_text(encoding="utf-8")
            inner = sources_of(kernels, {alias.name for alias in node.names})
            imports, rest = imports + inner[0], rest + inner[1]
        else:
            (imports if isinstance(node, ast.Import | ast.ImportFrom) else rest).append(source)
    return imports, rest


def is_prepare(node):
    return isinstance(node.value, ast.Name) and node.value.id == "prepare"


def first_line(node):
    return min(
        [node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]
    )


def defined_names(node):
    """The names that a statement at the top of a file gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def needed_statements(body, names):
    """The statements of a file that `names` need, in their order, without those that import
    prepare.
    """
    wanted, seen = set(names), set()
    while wanted - seen:
        seen |= wanted
        for node in body:
            if defined_names(node) & wanted:
                wanted |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    own = [node for node in body if defined_names(node) & wanted]
    return [node for node in own if "prepare" not in defined_names(node)]
