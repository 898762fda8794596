"""What is known of one size of the model."""

from dataclasses import dataclass, field

from flops_fit.fit.plain import OMITTED


@dataclass(frozen=True)
class Size:
    """A size of the model: its parameters, counted in every known way, and FLOPs per token.

    ``size`` is the value of the size parameter, None where the table names none; ``params`` is N as
    fitted; ``params_matmul``, ``params_nonembedding`` and ``params_total`` count it otherwise;
    ``flops_per_token``: FLOPs per token, forward and backward.
    """

    size: int | float | str | None = None
    params: float = 0.0
    params_matmul: float | None = field(default=None, metadata=OMITTED)  # in matrix products
    params_nonembedding: float | None = field(default=None, metadata=OMITTED)  # without embeddings
    params_total: float | None = field(default=None, metadata=OMITTED)  # all
    flops_per_token: float | None = field(default=None, metadata=OMITTED)  # forward and backward
