"""Every error edgekit raises, in one tree.

    EdgekitError                     exit code
    |- InputError                    2   a model, a file, an argument or data is not usable
    |  |- UnsupportedError           2   an operator, attribute or dtype that edgekit does not compile
    |  |- ShapeError                 2   a dynamic or mismatched shape
    |  |- BundleError                2   a bundle is damaged, of another version, or not a bundle
    |  `- ExistsError                2   the output exists and `overwrite` was not given
    |- VerificationError             1   numbers differ from the reference by more than the tolerance
    |- BudgetError                   1   a budget was missed
    |- AccuracyError                 1   a pruned model is worse than a trivial predictor, or than was allowed
    |- MissingToolError              3   an optional package, tool or device is not there
    |- CompilerError                 3   the compiler failed or crashed
    `- RuntimeStatusError            2   the model's library returned a code other than EK_OK

Each says what was wrong, where (file, node, layer), and what to do about it.
"""


class EdgekitError(Exception):
    """what: one sentence. where: file, node or layer. fix: what the user can do. Any of the last two may be empty."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = ""):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        return (f"{self.where}: " if self.where else "") + self.what + (f"\n  fix: {self.fix}" if self.fix else "")

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(kind, what, where, fix):
    return kind(what, where=where, fix=fix)


class InputError(EdgekitError):
    """A model, a file, an argument or data that cannot be used."""


class UnsupportedError(InputError):
    """An operator, attribute or dtype that edgekit does not compile."""


class ShapeError(InputError):
    """A dynamic dimension without a value, or a shape that does not fit."""


class BundleError(InputError):
    """A bundle that is damaged, of another format version, or no bundle at all."""


class ExistsError(InputError):
    """The output exists and overwriting was not asked for."""


class VerificationError(EdgekitError):
    """Numbers differ from the reference by more than the tolerance."""

    exit_code = 1


class BudgetError(EdgekitError):
    """A budget was missed."""

    exit_code = 1


class AccuracyError(EdgekitError):
    """A pruned model is worse than a trivial predictor, or than was allowed."""

    exit_code = 1


class MissingToolError(EdgekitError):
    """An optional package, tool or device that is not there."""

    exit_code = 3


class CompilerError(EdgekitError):
    """The compiler refused a kernel or crashed."""

    exit_code = 3


class RuntimeStatusError(EdgekitError):
    """The model's library returned a status other than EK_OK; `status` is its name."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", status: str = ""):
        super().__init__(what, where=where, fix=fix)
        self.status = status
