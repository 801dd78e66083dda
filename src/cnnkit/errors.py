"""What a person is told when something cannot be done: one sentence that names the value and the remedy.

The command line prints these without a traceback and exits with `code`; anything else that is raised is a
defect.
"""


class Failure(ValueError):
    """The work could not be done: data, disk, memory or numbers."""

    code = 1


class Misuse(Failure):
    """The request was wrong: a flag, a name, a path."""

    code = 2


class Stopped(BaseException):
    """The person asked to stop, and what there was has been saved."""

    code = 130
