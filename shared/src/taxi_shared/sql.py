"""Texts and names as SQL writes them, for statements and places that take no bound parameters."""


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as SQL writes it, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'
