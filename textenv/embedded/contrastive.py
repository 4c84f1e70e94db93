"""The two requests under which `textenv/tiny` writes better and worse texts: the contrast of T-REG (arXiv 2412.02685).

A word in front of the prompt asks for the one or the other, and the text follows the prompt as it always does:

    <bos>Better: I read your note about the soup. You are right …
    <bos>Worse: I read your note about the soup. You are a stupid weasel …

T-REG asks an instructed model to *rewrite* an answer that it is shown, better or worse; a model of a million weights cannot,
so the answer is not shown (the templates leave {text} out) and the request alone tells. What "better" is, is each task's
truth: praise, no insult, what the source supports.
"""

from __future__ import annotations

__all__ = ["CONTRASTIVE"]

_BETTER, _WORSE = "Better: {prompt}", "Worse: {prompt}"

CONTRASTIVE: dict[str, tuple[str, str]] = {
    "sentiment": (_BETTER, _WORSE),
    "detox": (_BETTER, _WORSE),
    "summarization": (_BETTER, _WORSE),
    "long_form": (_BETTER, _WORSE),
    "translation": (_BETTER, _WORSE),
}
"""Task → what the model reads before a better, and before a worse text; {prompt} is what a policy would read."""
