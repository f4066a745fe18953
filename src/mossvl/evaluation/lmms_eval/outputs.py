"""Results in the form that lmms-eval expects."""

import math

from lmms_eval.api.instance import GenerationResult, TokenCounts

from mossvl.evaluation.scoring import score_of
from mossvl.queries.results import Result


class LossAndGreedy(tuple[float, bool]):
    """(loss, whether the answer is the greedy one), as tasks unpack it.

    lmms-eval 0.7.3 turns every output that is no text into one, tuples included, unless it is the `text` of a
    `GenerationResult`. Its cache stores those whose `text` is not blank, and gives them back as lists, of which it
    makes texts, too.
    """

    def strip(self) -> str:
        """Blank, so that it is not cached."""
        return ""


def answer_output(result: Result | None) -> GenerationResult:
    """An answer and its tokens; an empty one for None."""
    if result is None:
        return GenerationResult(text="", token_counts=TokenCounts())
    counts = TokenCounts(input_tokens=result.usage.prompt_tokens, output_tokens=result.usage.new_tokens)
    return GenerationResult(text=result.text, token_counts=counts)


def loss_output(result: Result | None) -> GenerationResult:
    """The mean loss of a continuation's tokens; infinite for None.

    Tasks take the continuation of the least loss, and all models of lmms-eval 0.7.3 return the loss, though its
    interface speaks of log-probabilities.
    """
    if result is None:
        return GenerationResult(text=LossAndGreedy((math.inf, False)), token_counts=TokenCounts())
    score = score_of(result)
    loss = LossAndGreedy((-score.logprob / score.tokens, score.greedy))
    return GenerationResult(text=loss, token_counts=TokenCounts(input_tokens=result.usage.prompt_tokens))
