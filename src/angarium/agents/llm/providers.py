"""Models by name, each behind its provider's breaker; their errors as ours."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from pydantic_ai import ModelMessage, ModelResponse, RunContext
from pydantic_ai.exceptions import (
    AgentRunError,
    ContentFilterError,
    FallbackExceptionGroup,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestTimeout,
    ModelServerError,
    ModelUnavailableError,
    UsageLimitExceeded,
    UserError,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, infer_model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers import Provider, infer_provider, infer_provider_class
from pydantic_ai.settings import ModelSettings

from angarium.agents.contract import Host
from angarium.errors import (
    AngariumError,
    BadReply,
    Misconfigured,
    RateLimited,
    Refused,
    TurnOverBudget,
    Unavailable,
)
from angarium.limits import MODEL_CONNECT_S, MODEL_READ_S
from angarium.resilience import Breaker

_log = logging.getLogger(__name__)
_PASSING = (
    ModelRateLimitError,
    ModelUnavailableError,
    ModelServerError,
    ModelConnectionError,
    ModelRequestTimeout,
)


class GuardedModel(WrapperModel):
    """A model that is not asked while its provider does not answer."""

    def __init__(self, wrapped: Model, breaker: Breaker) -> None:
        super().__init__(wrapped)
        self._breaker = breaker

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async with self._admitted():
            return await super().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async with (
            self._admitted(),
            super().request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream,
        ):
            yield stream

    @asynccontextmanager
    async def _admitted(self) -> AsyncGenerator[None]:
        """Raises ModelUnavailableError, on which the next model is asked instead."""
        try:
            admission = await self._breaker.admit()
        except Unavailable as error:
            raise ModelUnavailableError(
                self.model_name, str(error), retry_after=error.after_ms / 1000
            ) from None
        try:
            yield
        except Exception as error:
            admission.settle(failed=isinstance(error, _PASSING))
            raise
        except BaseException:
            admission.release()
            raise
        admission.settle(failed=False)


def make_client() -> httpx2.AsyncClient:
    """For all providers of one agent: no proxies of the environment, no redirects."""
    timeout = httpx2.Timeout(MODEL_READ_S, connect=MODEL_CONNECT_S)
    return httpx2.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)


def make_model(place: str, client: httpx2.AsyncClient) -> Model:
    """The model of a name such as `openai:gpt-5.2`. Raises Misconfigured with what to do."""
    try:
        return infer_model(place, lambda name: _provider(name, client))
    except UserError as error:
        raise Misconfigured(error.message) from None
    except (ImportError, ValueError) as error:
        raise Misconfigured(f"model {place!r}: {error}") from None


def guard(model: Model, host: Host | None) -> Model:
    """The model behind the breaker of its provider, where there is a host."""
    if host is None:
        return model
    return GuardedModel(model, host.breaker(f"provider:{model.system}"))


def in_turn(models: Sequence[Model]) -> Model:
    """The first, and while it fails the others."""
    return models[0] if len(models) == 1 else FallbackModel(models[0], *models[1:])


def _provider(name: str, client: httpx2.AsyncClient) -> Provider[Any]:
    made: Any = infer_provider_class(name)
    try:
        provider: Provider[Any] = made(http_client=client)
    except TypeError:  # Its library brings its own client.
        return infer_provider(name)
    return provider


def as_ours(error: BaseException, agent: str) -> BaseException:
    """The error in our words; what is none of a model's stays as it is. What its sentence says
    is for operators, and never holds a key or what was said."""
    if isinstance(error, FallbackExceptionGroup):
        found = [as_ours(one, agent) for one in error.exceptions]
        return next((one for one in found if isinstance(one, Unavailable)), found[-1])
    if isinstance(error, ModelAPIError):
        return _api_error(error, agent)
    if isinstance(error, UsageLimitExceeded):
        return TurnOverBudget(f"agent {agent!r} asked its model too often in one turn")
    if isinstance(error, UserError):
        return Misconfigured(f"agent {agent!r}: {error.message}")
    if isinstance(error, ContentFilterError):
        return Refused(f"agent {agent!r}: the provider's filter stopped the answer")
    if isinstance(error, AgentRunError):
        return BadReply(f"agent {agent!r}: the model answered with what cannot be used")
    return error


def _api_error(error: ModelAPIError, agent: str) -> AngariumError:
    model, after_ms = error.model_name, round((error.retry_after or 1.0) * 1000)
    if isinstance(error, ModelRateLimitError):
        return RateLimited(f"the provider of {model} takes no more just now", after_ms)
    if isinstance(error, _PASSING):
        return Unavailable(f"the provider of {model} does not answer", after_ms)
    trouble = _lasting(error, agent)
    if isinstance(trouble, Misconfigured):
        _log.error("%s", trouble)
    return trouble


def _lasting(error: ModelAPIError, agent: str) -> AngariumError:
    """What does not pass by itself."""
    which = f"agent {agent!r}, model {error.model_name}"
    if isinstance(error, ModelAuthenticationError):
        return Misconfigured(f"{which}: the provider refused the key; set one that is valid")
    if isinstance(error, ModelNotFoundError):
        return Misconfigured(f"{which}: the provider has no such model; check its name")
    if isinstance(error, ModelQuotaExceededError):
        return Misconfigured(f"{which}: the account's credit is used up; top it up")
    if isinstance(error, ModelContextWindowExceededError):
        return Refused(f"{which}: the conversation is longer than the model can read")
    if not isinstance(error, ModelHTTPError):
        return BadReply(f"{which}: the provider's answer cannot be read")
    return Refused(f"{which}: the provider answered {error.status_code}")
