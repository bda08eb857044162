"""The one door to a model: chat completions at the address of the policy, nowhere else, within its limits."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic_ai import Agent, NativeOutput, RunContext, Tool, ToolOutput, UsageLimits, capture_run_messages
from pydantic_ai.exceptions import AgentRunError, UsageLimitUnavailableWarning, UserError
from pydantic_ai.messages import ModelMessage, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.usage import RunUsage

from osremed.core.errors import Unavailable
from osremed.opinion.calls import Bill
from osremed.opinion.check import Reply
from osremed.opinion.documents import BYTES_A_TOKEN
from osremed.opinion.inquiry import Inquiry
from osremed.opinion.letter import Letter

_ANSWER = "answer"
_MORE_REQUESTS = 3  #: beside one for each question of the model: the first, the answer, and one that mends its form
_LONGEST_ERROR = 300
warnings.simplefilter("ignore", UsageLimitUnavailableWarning)  # `_settle` counts what no usage was told of


def consult(letter: Letter, bill: Bill) -> Reply:
    """The model's answer in its form. Unavailable if it gives none in time or within its tokens; `bill` is true
    either way."""
    return asyncio.run(_consult(letter, bill))


async def _consult(letter: Letter, bill: Bill) -> Reply:
    limits, usage = letter.policy.limits, RunUsage()
    # Not followed: a redirect would take evidence to an address that nobody has named.
    async with DefaultAsyncHttpxClient(follow_redirects=False, timeout=limits.within) as http:
        agent = _agent(letter, http)
        allowed = UsageLimits(
            request_limit=_MORE_REQUESTS + (limits.tool_calls if letter.inquiry else 0),
            total_tokens_limit=limits.tokens,
        )
        with capture_run_messages() as messages:
            try:
                async with asyncio.timeout(limits.within):
                    result = await agent.run(letter.prompt, usage=usage, usage_limits=allowed)
                return result.output
            except TimeoutError:
                raise _no_answer(f"no answer within {limits.within:g} s", letter) from None
            except (AgentRunError, UserError, OSError) as error:
                raise _no_answer(str(error), letter) from None
            finally:
                _settle(bill, usage, letter, messages)


def _agent(letter: Letter, http: DefaultAsyncHttpxClient) -> Agent[object, Reply]:
    policy = letter.policy
    client = AsyncOpenAI(base_url=policy.endpoint, api_key=letter.key or "none", http_client=http, max_retries=0)
    model = OpenAIChatModel(policy.model, provider=OpenAICompatibleProvider("endpoint", openai_client=client))
    form: Any = NativeOutput(Reply) if policy.structured == "schema" else ToolOutput(Reply, name=_ANSWER)
    return Agent(
        model,
        output_type=form,
        instructions=letter.instructions,
        tools=_tools(letter.inquiry),
        retries=1,
        model_settings={"max_tokens": policy.limits.answer_tokens},
    )


def _no_answer(why: str, letter: Letter) -> Unavailable:
    """An endpoint may quote the key in what it says: it goes no further."""
    said = why.replace(letter.key, "[key]") if letter.key else why
    hint = "osremed opinion check shows the settings; the rules' findings stand without it"
    what = f"{letter.policy.model} gave no opinion: {said[:_LONGEST_ERROR]}"
    return Unavailable(what, where=letter.policy.endpoint, hint=hint, code="unavailable.model")


def _tools(inquiry: Inquiry | None) -> list[Tool[object]]:
    return [_tool(inquiry, name) for name in inquiry.verbs] if inquiry else []


def _tool(inquiry: Inquiry, name: str) -> Tool[object]:
    async def use(ctx: RunContext[object], **given: Any) -> str:
        return await inquiry.answer(name, given, ctx.usage.total_tokens)

    help_text = inquiry.verbs[name].help
    return Tool.from_schema(use, name, help_text, inquiry.schema(name), takes_ctx=True, sequential=True)


def _settle(bill: Bill, usage: RunUsage, letter: Letter, messages: Sequence[ModelMessage]) -> None:
    """What it has cost, and which tools it wanted, those that do not exist too."""
    bill.requests = max(usage.requests, 1)
    unmeasured = usage.unmeasured_requests if usage.total_tokens else bill.requests
    bill.estimated = unmeasured > 0
    guess = len((letter.instructions + letter.prompt).encode()) // BYTES_A_TOKEN + letter.policy.limits.answer_tokens
    bill.tokens = usage.total_tokens + unmeasured * guess
    wanted = [part.tool_name for message in messages for part in message.parts if isinstance(part, ToolCallPart)]
    known = letter.inquiry.verbs if letter.inquiry else {}
    bill.tools = tuple(name[:64] for name in wanted if name != _ANSWER)
    bill.invented = tuple(name for name in bill.tools if name not in known)
