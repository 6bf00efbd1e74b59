"""The project's own error types: whatever a user, a file or a message can do wrong ends in one of these.

Each is a ValueError whose text is one line: what was given, what is allowed, what to do. The command line prints
that line and exits with code 2; a server maps the type to a status.
"""


class CpmvError(ValueError):
    """Base of every mistake that is the caller's or the file's, not ours."""


class MediaError(CpmvError):
    """An image, video or PDF that is missing, unsupported, corrupt, or too large to open safely."""


class MessageError(CpmvError):
    """A conversation that is malformed: roles, parts, temporal ids, options."""


class ContextLengthError(CpmvError):
    """A prompt that does not fit the context."""

    def __init__(self, num_tokens: int, limit: int, what: str = "the context") -> None:
        super().__init__(
            f"the prompt has {num_tokens} tokens but {what} allows {limit}; send fewer or smaller images, "
            f"fewer frames, a higher packing, or shorter text"
        )
        self.num_tokens, self.limit = num_tokens, limit


class CheckpointError(CpmvError):
    """A checkpoint that cannot be found, is not MiniCPM-V 4.5, or whose tensors are missing, extra or misshapen."""


class OutOfMemoryError(CpmvError):
    """A model or request that, by calculation, will not fit in memory; raised before anything is loaded."""
