"""What the command says when it cannot do what was asked: what happened, where, and the next step."""


class CodelocError(Exception):
    """Shown to the user as it is, without a traceback."""


class CandidateError(CodelocError):
    """The new code does not load or does not stay up; what serves goes on."""
