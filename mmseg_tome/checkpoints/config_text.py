"""The config text that mm checkpoints carry, read without running it."""

import ast


def read_model(text) -> dict:
    """The `model` of a config's text, as far as it is made of plain values.

    Args:
        text: What mmcv 1.x (`meta["config"]`) and mmengine (`meta["cfg"]`) save: assignments of
            constants, lists, tuples and `dict(...)` calls.

    Returns:
        The dictionary; empty if there is none, or the text is something else.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return {}
    for statement in statements:
        names = [getattr(t, "id", None) for t in getattr(statement, "targets", ())]
        if names == ["model"]:
            model = _value(statement.value)
            return model if isinstance(model, dict) else {}
    return {}


def section(model: dict, name: str) -> dict:
    """A dictionary within `model`; empty if there is none."""
    found = model.get(name)
    return found if isinstance(found, dict) else {}


def _value(node: ast.AST):
    """A plain value; None in place of anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
