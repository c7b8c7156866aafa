"""Export: a trained model as a folder that the `transformers` library loads."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from ratchet.arena.files import Refused, open_untrusted, read_untrusted
from ratchet.model import sample
from ratchet.model.find import read_header
from ratchet.model.modelling import modelling_source
from ratchet.referee import limits

BOS = "<|bos|>"
PREFIX = "model."  # of a tensor's name in transformers
CARD = """# A model trained with Ratchet

{score}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(".", trust_remote_code=True)
ids = tokenizer("My fellow citizens", return_tensors="pt").input_ids  # begins with {bos}
out = model.generate(ids, max_new_tokens=50, do_sample=True, top_k=50)
print(tokenizer.decode(out[0], skip_special_tokens=True))
```

Written for transformers 5. Every generated token recomputes the row.

`modeling_ratchet.py` holds what of its train.py the model needs. The tokenizer works on bytes.
"""


def export_model(run: Path, to: Path) -> Path:
    """Write weights, tokenizer, their configs and a modelling file into a new folder, at once.

    Raises Refused.
    """
    to = Path(to).absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Refused(f"{to} is not an empty folder: name a new one")
    result = json.loads(read_untrusted(run / "result.json"))
    if result["status"] != "ok":
        raise Refused(f"{run} has no valid score ({result['reason']}): choose another run")
    with sample.open_decoder(run, "cpu") as model:
        description = model.request("describe_model")
        sizes = {"vocab_size": model.vocab_size, "max_position_embeddings": model.context}
    config = json.loads(read_untrusted(run / "config.json"))
    if description["names"] != saved_names(run) or not isinstance(config, dict):
        wrong = "load() does more than to fill Class(**config) with what was saved"
        raise Refused(f"{wrong}: it can't be exported")
    train = read_untrusted(run / "train.py").decode()
    source = modelling_source(train, description["class"])
    to.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=to.parent))
    try:
        (part / "modeling_ratchet.py").write_text(source, encoding="utf-8")
        write_json(part / "config.json", transformers_config(config, sizes))
        write_weights(run, part)
        write_tokenizer(Path(result["arena_folder"]), part, sizes["max_position_embeddings"])
        score = "val_bpb {val_bpb:.4f} on the arena {arena} ({seal}), {budget}.".format(**result)
        (part / "README.md").write_text(CARD.format(score=score, bos=BOS), encoding="utf-8")
        part.chmod(0o755)
        part.replace(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return to


def saved_names(run: Path) -> list[str]:
    """Names of the tensors in a run's checkpoint, in order."""
    with open_untrusted(run / "model.safetensors", limits.WEIGHT_BYTES) as file:
        return sorted(read_header(file).keys() - {"__metadata__"})


def write_weights(run: Path, folder: Path) -> None:
    with open_untrusted(run / "model.safetensors", limits.WEIGHT_BYTES) as old:
        with open(folder / "model.safetensors", "wb") as new:
            copy_renamed(old, new, PREFIX)


def write_tokenizer(arena: Path, folder: Path, context: int) -> None:
    """Write tokenizer.json of an arena, and tokenizer_config.json of transformers."""
    tokenizer = json.loads((arena / "tokenizer.json").read_bytes())
    write_json(folder / "tokenizer.json", with_bos(tokenizer))
    config = {
        "bos_token": BOS,
        "eos_token": BOS,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def transformers_config(config: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """config.json of transformers, for a model that is built as Class(**config)."""
    names = {"AutoConfig": "RatchetConfig", "AutoModelForCausalLM": "RatchetForCausalLM"}
    return {
        "model_type": "ratchet",
        "architectures": ["RatchetForCausalLM"],
        "model": config,
        "auto_map": {auto: f"modeling_ratchet.{name}" for auto, name in names.items()},
        **sizes,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def with_bos(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that puts BOS first, as the model has seen every row begin."""
    bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}},
    }
    return tokenizer | {"post_processor": template}


def copy_renamed(old: BinaryIO, new: BinaryIO, prefix: str) -> None:
    """Copy an open .safetensors file, its tensors' names prefixed: only its header changes."""
    header = {prefix + name: entry for name, entry in read_header(old).items()}
    header.pop(prefix + "__metadata__", None)
    data = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    data += b" " * (-len(data) % 8)
    new.write(len(data).to_bytes(8, "little") + data)
    shutil.copyfileobj(old, new)
