"""What the command says when it cannot do what was asked: what happened, where, and the next step."""


class CodelocError(Exception):
    """Shown to the user as it is, without a traceback."""
