"""A text for the terminal: the prompt, then each generated token on a background of its credit.

Green is positive, red negative, the stronger the larger. The text comes from a policy and is not trusted: control
characters are shown as escapes, so that a text cannot move the cursor or hide itself. EOS, which has no characters, is ■.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from textenv.episode import Episode

__all__ = ["printable", "render_episode"]

_RESET = "\x1b[0m"
_EOS = "■"


def printable(text: str) -> str:
    r"""The text without characters that steer a terminal.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in text
    )


def render_episode(episode: Episode) -> str:
    """The prompt (dim), the text with a background for each character's credit, ■ for EOS, the score and the credit's sum."""
    credit = _credit_of_characters(episode)
    of_end = float(episode.rewards[-1]) if episode.finish_reason == "stop" else 0.0
    scale = float(np.abs(credit).max(initial=abs(of_end))) or 1.0
    parts = [f"\x1b[2m{printable(episode.prompt.text)}{_RESET}"]
    begin = 0
    for end in [*(i for i in range(1, len(credit)) if credit[i] != credit[i - 1]), len(credit)]:
        if end > begin:
            parts.append(_coloured(printable(episode.text[begin:end]), float(credit[begin]) / scale))
        begin = end
    if episode.finish_reason == "stop":
        parts.append(_coloured(_EOS, of_end / scale))
    score = "" if np.isnan(episode.score) else f"score {episode.score:.3f}, "
    ending = episode.finish_reason or "unfinished"
    return f"{''.join(parts)}\n[{score}credit {episode.rewards.sum():+.3f}, {len(episode)} tokens, {ending}]"


def _credit_of_characters(episode: Episode) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(characters,) the credit of the token that each character is part of (the last one, where several are)."""
    out = np.zeros(len(episode.text), np.float64)
    for (begin, end), reward in zip(episode.offsets, episode.rewards, strict=True):
        out[begin:end] = reward
    return out


def _coloured(text: str, strength: float) -> str:
    """`strength` in [-1, 1]: red … plain … green, in the 216-colour cube."""
    if strength == 0.0:
        return text
    level = 1 + round(min(abs(strength), 1.0) * 3)  # 1..4 of 5
    colour = 16 + (6 * level if strength > 0 else 36 * level)
    return f"\x1b[48;5;{colour}m\x1b[97m{text}{_RESET}"
