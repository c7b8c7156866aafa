"""The modelling file of an exported model: what of its train.py the model needs."""

import ast
import importlib.util
from pathlib import Path

from ratchet.arena.files import Refused

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
    """Every generated token recomputes the row, BOS first."""

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
        most = self.config.max_position_embeddings
        if input_ids.size(1) > most:
            raise ValueError(f"this model sees at most {most} tokens")
        for name in [*self.fixed]:
            self.model.get_buffer(name).copy_(self.fixed.pop(name))
        logits, loss = self.model(input_ids), None
        if labels is not None:
            predicted, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            loss = torch.nn.functional.cross_entropy(predicted, targets)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, **ignored):
        return {"input_ids": input_ids}
'''
TITLE = '"""The model, as its train.py had it, and what transformers wants around it."""'
PREPARE_STUB = "class prepare:\n    BOS = 0"


def modelling_source(text: str, class_name: str) -> str:
    """The source of a modelling file around a class of a train.py. Raises Refused."""
    statements = needed_statements(ast.parse(text).body, {class_name})
    used = {name for statement in statements for name in prepare_names(statement)}
    if used - {"BOS"}:
        names = ", prepare.".join(sorted(used))
        raise Refused(f"the model uses prepare.{names}: it can't leave the harness")
    if class_name not in {node.name for node in statements if isinstance(node, ast.ClassDef)}:
        wrong = f"the model is a {class_name}, which is no class of train.py"
        raise Refused(f"{wrong}: it can't be exported")
    imports, others = needed_sources(text, {class_name})
    parts = ["\n".join(dict.fromkeys(imports)), *([PREPARE_STUB] if used else []), *others]
    ending = MODELLING.replace("{{class}}", class_name)
    return f"{TITLE}\n\n" + "\n\n\n".join(parts) + ending


def needed_sources(text: str, names: set[str]) -> tuple[list[str], list[str]]:
    """(imports, other statements) of a file that `names` need, each as text.

    What it imports from modules of ratchet.arena, such as kernels, is copied in. Raises Refused.
    """
    lines, imports, others = text.splitlines(), [], []
    for node in needed_statements(ast.parse(text).body, names):
        source = "\n".join(lines[first_line(node) - 1 : node.end_lineno])
        if is_of_harness(node):
            more_imports, more_others = copied_sources(node)
            imports += more_imports
            others += more_others
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(source)
        else:
            others.append(source)
    return imports, others


def is_of_harness(node: ast.stmt) -> bool:
    """Whether a statement imports something of ratchet."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == "ratchet"
    return isinstance(node, ast.Import) and node.names[0].name.split(".")[0] == "ratchet"


def copied_sources(node: ast.stmt) -> tuple[list[str], list[str]]:
    """What stands in for `from ratchet.arena.kernels import causal_attention`. Raises Refused."""
    by_name = isinstance(node, ast.ImportFrom) and node.module.startswith("ratchet.arena.")
    if not by_name or any(alias.asname for alias in node.names):
        wrong = f"the model needs `{ast.unparse(node)}`, which can't be copied"
        raise Refused(f"{wrong}: have train.py import the functions by their names")
    path = Path(importlib.util.find_spec(node.module).origin)
    return needed_sources(path.read_text(encoding="utf-8"), {alias.name for alias in node.names})


def prepare_names(statement: ast.stmt) -> set[str]:
    """What a statement uses of prepare. Example: `x == prepare.BOS` -> {"BOS"}."""
    attributes = [node for node in ast.walk(statement) if isinstance(node, ast.Attribute)]
    return {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id == "prepare"
    }


def first_line(node: ast.stmt) -> int:
    """The line at which a statement begins, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def defined_names(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a file gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def needed_statements(body: list[ast.stmt], names: set[str]) -> list[ast.stmt]:
    """The statements of a file that `names` need, in their order, but not `import prepare`."""
    wanted, seen = set(names), set()
    while wanted - seen:
        seen |= wanted
        for node in body:
            if defined_names(node) & wanted:
                wanted |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    needed = [node for node in body if defined_names(node) & wanted]
    return [node for node in needed if "prepare" not in defined_names(node)]
