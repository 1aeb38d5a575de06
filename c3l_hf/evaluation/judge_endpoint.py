"""The language model that grades: where it is, and what goes with each request to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from c3l_hf.common.endpoint import Endpoint

__all__ = ["JudgeEndpoint"]


@dataclass(frozen=True)
class JudgeEndpoint:
    """A judge behind an OpenAI-compatible endpoint.

    Args:
        base_url: As for `Endpoint`.
        model: The model's name there.
        api_key_variable: As for `Endpoint`.
        temperature: That of LLaVA-Bench's judge by default; None sends none (some models take only their own).
        max_tokens: Longest reply; None sends none.
        extra_body: Further fields of the request, e.g. {"max_completion_tokens": 4096}. They are saved; no secrets.
        timeout: As for `Endpoint`.
        retries: As for `Endpoint`.
        retry_wait: As for `Endpoint`.

    Raises:
        ValueError: As for `Endpoint`, or if the model has no name.
    """

    base_url: str
    model: str
    api_key_variable: str = "JUDGE_API_KEY"
    temperature: float | None = 0.2
    max_tokens: int | None = 1024
    extra_body: Mapping[str, Any] | None = None
    timeout: float = 120.0
    retries: int = 4
    retry_wait: float = 1.0

    def __post_init__(self) -> None:
        _ = self.endpoint
        if not self.model:
            raise ValueError("the judge's model must have a name")

    @property
    def endpoint(self) -> Endpoint:
        """Where it is."""
        return Endpoint(self.base_url, self.api_key_variable, self.timeout, self.retries, self.retry_wait)
