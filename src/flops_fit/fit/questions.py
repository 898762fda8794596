"""`ask`: the answer at a budget, with answers to the questions that are asked next."""

from dataclasses import replace

from flops_fit.fit.accuracy import accuracy_at
from flops_fit.fit.answer import VERDICTS, Answer
from flops_fit.fit.limited_data import limited_at
from flops_fit.fit.prediction import predict
from flops_fit.fit.result import Fit
from flops_fit.fit.serving import served_at


def ask(
    fit: Fit,
    flops: float,
    *,
    params: float | None = None,
    tokens: float | None = None,
    serve: float | None = None,
    unique: float | None = None,
) -> Answer:
    """The `predict` of ``fit`` at C = ``flops``, with every question answered that is not None.

    ``params`` and ``tokens``: as `predict` takes them; ``serve``: the number of tokens that the model
    reads or writes once it is trained (``served`` of the answer); ``unique``: the number of different
    tokens that there are to train on (``limited``). A fit of an accuracy answers for it too
    (``accuracy``). Raises `FlopsFitError` for a number that is not positive.
    """
    answer = predict(fit, flops, params, tokens)
    answer = replace(answer, accuracy=accuracy_at(fit, answer))
    if serve is not None:
        answer = replace(answer, served=served_at(fit, answer, serve))
    if unique is not None:
        answer = replace(answer, limited=limited_at(fit, answer, unique))
    return answer


def weakest_verdict(answer: Answer) -> str:
    """The weakest verdict in ``answer``: of the optimum and of each question answered."""
    asked = [part for part in (answer.served, answer.limited, answer.accuracy) if part]
    verdicts = [answer.verdict, *(part.verdict for part in asked)]
    return min(verdicts, key=VERDICTS.index)
