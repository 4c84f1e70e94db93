"""Prompts as a chat model reads them: rendered with the tokenizer's own template.

    system message (if given)   user message: what the task writes of a prompt   the header of the answer

1. A prompt that is too long loses the left end of the *user's text*: the template stays whole.
2. The template's special tokens are read as such, also by a tokenizer that takes them for text elsewhere.
3. A text ends with the tokenizer's EOS, and with no other id (`generation_config.eos_token_id` may list more). A
   template that closes an answer otherwise is warned of when the environment is made.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from jinja2 import TemplateError

__all__ = ["ChatTemplate"]

_PROBE = "textenv"  # stands for a user's text and an answer while the template is tried


class ChatTemplate:
    r"""A tokenizer's chat template around the user's text.

    >>> from textenv.chat import ChatTemplate
    >>> from textenv.tokenization import byte_tokenizer
    >>> tokenizer = byte_tokenizer()
    >>> tokenizer.chat_template = (
    ...     "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    ...     "{% if add_generation_prompt %}assistant: {% endif %}"
    ... )
    >>> tokenizer.decode(ChatTemplate(tokenizer, "Be brief.").ids("Why?"))
    'system: Be brief.</s>user: Why?</s>assistant: '
    >>> tokenizer.decode(ChatTemplate(tokenizer).shortened("How and why?", 26))
    'user: and why?</s>assistant: '

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        system: the system message.

    Raises:
        ValueError: the tokenizer has no template, or its template has no place for the system message or the user's text.
    """

    def __init__(self, tokenizer: Any, system: str | None = None) -> None:
        self.tokenizer, self.system = tokenizer, system
        self._name = os.path.basename(os.path.normpath(str(tokenizer.name_or_path))) or type(tokenizer).__name__
        self._shortened: dict[tuple[str, int], list[int]] = {}
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"chat=True, but the tokenizer {self._name!r} has no chat template; "
                "name a chat model's tokenizer, set tokenizer.chat_template, or leave chat=False"
            )
        rendered = self._render(_PROBE)
        for what, said in (("the user's text", _PROBE), (f"system={system!r}", (system or "").strip())):
            if said not in rendered:
                raise ValueError(f"the chat template of {self._name!r} leaves out {what}: {rendered!r}")
        self._check_end()

    def ids(self, text: str) -> list[int]:
        """The ids of the whole template around the user's text, up to where the answer begins."""
        special = {"split_special_tokens": False} if getattr(self.tokenizer, "split_special_tokens", False) else None
        encoded = self.tokenizer.apply_chat_template(
            self._messages(text), add_generation_prompt=True, return_dict=True, tokenizer_kwargs=special
        )
        return list(encoded["input_ids"])

    def shortened(self, text: str, limit: int) -> list[int]:
        """The ids of the template around the end of the user's text, as long as `limit` tokens allow.

        Raises:
            ValueError: the template alone takes them all.
        """
        found = self._shortened.get((text, limit))
        if found is None:
            alone = len(self.ids(""))
            if alone >= limit:
                raise ValueError(
                    f"the chat template of {self._name!r} alone takes {alone} tokens of max_prompt_tokens={limit}; raise it"
                )
            low, high = 0, len(text)  # text[high:] fits
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if len(self.ids(text[middle:])) <= limit else (middle + 1, high)
            found = self._shortened[text, limit] = self.ids(text[high:])
        return found

    def _messages(self, text: str) -> list[dict[str, str]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": text}]

    def _render(self, text: str) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(self._messages(text), add_generation_prompt=True, tokenize=False))
        except TemplateError as error:
            way_out = "" if self.system is None else "; leave out system=, or write it into the prompts"
            raise ValueError(f"the chat template of {self._name!r} refuses these messages: {error}{way_out}") from error

    def _check_end(self) -> None:
        """Warn where the template closes an answer with something other than EOS."""
        answered = [*self._messages(_PROBE), {"role": "assistant", "content": (answer := f"{_PROBE} answer")}]
        try:
            rendered = str(self.tokenizer.apply_chat_template(answered, tokenize=False))
        except TemplateError:
            return  # it does not say how an answer ends
        end = rendered.rpartition(answer)[2]
        if end.strip() and self.tokenizer.eos_token not in end:
            warnings.warn(
                f"the chat template of {self._name!r} ends an answer with {end!r}, but a text ends with EOS, "
                f"{self.tokenizer.eos_token!r}; set tokenizer.eos_token to the template's and pass the tokenizer object",
                stacklevel=2,
            )
