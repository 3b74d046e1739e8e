"""What the runtime raises besides ValueError and TypeError for bad arguments."""

from __future__ import annotations


class BundleError(ValueError):
    """A bundle is refused: the message says what was found, what was expected and what to do."""


class BackendMissingError(RuntimeError):
    """A backend cannot run here: the message names the command that installs what is missing."""


class EngineError(RuntimeError):
    """An engine could not load or run a graph: the message names the graph's file."""


class NonFiniteError(ArithmeticError):
    """A graph gave NaN or infinity where a finite value is needed: nothing is drawn from it."""
