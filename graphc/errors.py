"""The exceptions of graphc: each derives from `GraphcError` and from the built-in it refines."""


class GraphcError(Exception):
    """Base of all errors that graphc raises on purpose."""


class ShapeError(GraphcError, ValueError):
    """Shapes, axes or sizes that do not fit an op."""


class DTypeError(GraphcError, TypeError):
    """A dtype that an op does not take, or two that do not mix."""


class GradientError(GraphcError, ValueError):
    """A derivative that does not exist or was asked for in a way that has no meaning."""


class InputError(GraphcError, ValueError):
    """What was passed to a compiled program does not fit its inputs; nothing was run or changed."""


class CompileError(GraphcError, RuntimeError):
    """A graph, rule or stage that cannot be compiled or looked at as asked."""


class BackendUnavailable(GraphcError, RuntimeError):
    """A backend was asked for by name and cannot run here."""


class DeviceMemoryError(GraphcError, MemoryError):
    """The device has not as many free bytes as a program needs; nothing has run."""


class DeviceError(GraphcError, RuntimeError):
    """The device, or a library of its, has failed; what was being computed is lost.

    `late`: not what was asked for now has failed, but work that was asked for before.
    """

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class EmulatorError(GraphcError, RuntimeError):
    """A kernel, or another work of the emulated device, did what it must not do."""


class NonFiniteError(GraphcError, ArithmeticError):
    """A NaN or an infinity appeared while checking was on."""


class CheckpointError(GraphcError, OSError):
    """A checkpoint file that cannot be read, trusted or applied."""
