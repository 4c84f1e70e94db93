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
from textenv.metrics.preference import cohen_kappa, length_controlled_win_rate, raw_agreement, win_rate

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "cohen_kappa",
    "distinct_metrics",
    "distinct_n",
    "length_controlled_win_rate",
    "length_metrics",
    "negative_log_likelihood",
    "perplexity",
    "raw_agreement",
    "sentiment_metrics",
    "toxicity_metrics",
    "values_by_prompt",
    "win_rate",
]
