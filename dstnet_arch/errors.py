"""Errors that end a command with one message and exit status 2, without a traceback.

A message has three parts: what was given, what is allowed, how to mend it.
"""

from __future__ import annotations

EXIT_STATUS = 2


class DSTNetError(Exception):
    """Something that the user can mend. Catch this one to catch them all."""


class OptionsError(DSTNetError):
    """The options file, or a value forced on the command line, is wrong."""


class DataError(DSTNetError):
    """Pictures, videos or data bases on disk are missing, damaged or do not fit together."""


class CheckpointError(DSTNetError):
    """A file of weights or a training state is missing, damaged or does not fit the network."""


class TrainingError(DSTNetError):
    """A training run cannot go on, for instance because its loss is no longer finite."""
