"""What is reported about texts, each number with an interval (`core`); ROUGE, BLEU and chrF; the quality of credit."""

from textenv.metrics.core import (
    Estimate,
    bootstrap_interval,
    distinct_metrics,
    distinct_n,
    length_metrics,
    negative_log_likelihood,
    perplexity,
    sentiment_metrics,
    toxicity_metrics,
    values_by_prompt,
)

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "distinct_metrics",
    "distinct_n",
    "length_metrics",
    "negative_log_likelihood",
    "perplexity",
    "sentiment_metrics",
    "toxicity_metrics",
    "values_by_prompt",
]
