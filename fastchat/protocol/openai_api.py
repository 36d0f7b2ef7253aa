"""Bodies of the OpenAI API as values: chat, completions, embeddings, tokenize, detokenize.

`parse` turns a JSON object into a checked body, or raises a UsageError whose message and
`param` name the field. What stands here is bounded: a body that passes asks for a finite
amount of work. Unknown fields are tolerated; `ignored_fields` names them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from fastchat.errors import UsageError
from fastchat.message import Slot
from fastchat.protocol.inner_fields import CHAT, COMPLETION, MESSAGES, TOOLS, Shape, unknown_inside
from fastchat.protocol.openai_constraints import GUIDED, Constraint, constraint_of
from fastchat.protocol.openai_messages import MAX_PARTS, ROLES, ChatMessage, slot_after
from fastchat.protocol.openai_tools import Choice, ToolChoice, Tools
from fastchat.protocol.validation import refuse, usage_error

__all__ = [
    "MAX_PARTS",
    "ROLES",
    "Body",
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "EmbeddingRequest",
    "Generation",
    "StreamOptions",
    "TokenizeRequest",
    "ignored_fields",
    "parse",
    "refuse",
    "stop_list",
]

MAX_MESSAGES = 4096
MAX_PROMPTS = 256
MAX_CHOICES = 256
"""Over all prompts of a request."""
MAX_NEW_TOKENS = 1 << 20
MAX_STOPS = 64
MAX_STOP_LENGTH = 1000
MAX_BIASES = 1024
MAX_TEXTS = 2048
DEFAULT_TEMPERATURE = 0.7
"""The published default; OpenAI's own is 1."""
DEFAULT_COMPLETION_TOKENS = 16

_OTHER_SERVERS = {
    "allowed_token_ids": "use `logit_bias`",
    "bad_words": "use `logit_bias`",
    "include_stop_str_in_output": "`stop_reason` of the choice tells the stop string",
    "min_tokens": "use `ignore_eos` with a limit",
    "prompt_logprobs": "use `echo` and `logprobs` of /v1/completions",
    "return_token_ids": "use /tokenize",
    "truncate_prompt_tokens": "shorten the prompt",
    "use_beam_search": "use `best_of` of /v1/completions",
}
"""Fields of other servers that would change the reply, with what to do instead."""

B = TypeVar("B", bound="Body")


def stop_list(value: Any) -> Any:
    """One stop string or several, as a list."""
    if not isinstance(value, str | list):
        raise refuse("must be a text or a list of texts")
    return [value] if isinstance(value, str) else value


def _whole_tokens(value: Any) -> bool:
    return all(type(item) is int and 0 <= item < 1 << 31 for item in value)


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """One or several texts or lists of token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise refuse("must be a text, token ids, or a list of these")
    if not value:
        raise refuse("must not be empty")
    if _whole_tokens(value):
        return [tuple(value)]
    if len(value) > MAX_TEXTS:
        raise refuse(f"may hold at most {MAX_TEXTS} entries")
    if all(isinstance(item, str) for item in value):
        return list(value)
    if all(isinstance(item, list) and item and _whole_tokens(item) for item in value):
        return [tuple(item) for item in value]
    raise refuse(
        "must be a text, a list of texts, a list of token ids (whole numbers of at least 0), "
        "or a list of lists of token ids",
    )


def _biases(value: Any) -> Any:
    """Token ids are JSON keys, and so arrive as text."""
    if not isinstance(value, dict):
        raise refuse("must be an object from token ids to numbers")
    if len(value) > MAX_BIASES:
        raise refuse(f"may hold at most {MAX_BIASES} entries")
    result: dict[int, float] = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise refuse(f"has {key[:40]!r} as a key, which is not a token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise refuse(f"must map token id {key} to a number from -100 to 100")
        result[int(key)] = float(bias)
    return result


StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Prompts = Annotated[list[Any], BeforeValidator(_prompts)]


class Body(BaseModel):
    """What all bodies share. A field that is null counts as absent."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    not_built: ClassVar[dict[str, str]] = {}
    """Fields that would change the answer and are refused, with what to do instead."""
    harmless: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """What such a field may hold all the same, where that is not what is empty."""
    quiet: ClassVar[frozenset[str]] = frozenset({"user"})
    """Fields that are accepted and have no effect here."""
    renamed: ClassVar[frozenset[str]] = frozenset()
    """Fields that are read under another name."""
    inner: ClassVar[Mapping[str, Shape]] = {}
    """What the fields may hold, where that is objects."""

    model: Annotated[str, Field(min_length=1, max_length=512)]

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None}


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False
    """An event with the usage, and no choice, before the end."""

    @model_validator(mode="before")
    @classmethod
    def _known_options_only(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("continuous_usage_stats"):
            message = "is not supported; `include_usage` gives the usage at the end"
            raise refuse(message, param="stream_options.continuous_usage_stats")
        return value


class Generation(Body):
    """The fields that chat and completions share."""

    renamed = frozenset({"response_format", "structured_outputs", *GUIDED})

    temperature: Annotated[float, Field(ge=0, le=2)] = DEFAULT_TEMPERATURE
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] = -1
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases)] = {}
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Annotated[list[StopText], Field(max_length=MAX_STOPS), BeforeValidator(stop_list)] = []
    stop_token_ids: Annotated[
        list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=MAX_STOPS)
    ] = []
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    constraint: Constraint | None = None
    """What the answer must look like; from whichever field asks for it."""

    @model_validator(mode="before")
    @classmethod
    def _one_constraint(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "constraint": constraint_of(value)}

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise refuse("needs `stream` to be true", param="stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    inner = CHAT

    not_built = {
        **_OTHER_SERVERS,
        "documents": "put them into a message",
        "echo": "use /v1/completions",
        "functions": "use `tools`",
        "function_call": "use `tool_choice`",
        "chat_template": "the template is the operator's choice",
        "audio": "ask for text",
        "prediction": "leave it out",
        "web_search_options": "leave it out",
    }
    harmless: ClassVar = {
        "web_search_options": (None, False),  # {} asks for a search as well
    }
    quiet = frozenset(
        [
            "user",
            "metadata",
            "service_tier",
            "store",
            "safety_identifier",
            "prompt_cache_key",
            "verbosity",
        ]
    )

    messages: Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES)]
    raw_prompt: str | None = None
    """`messages` given as one text: a finished prompt, which no template touches."""
    max_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = None
    """The newer name; it wins."""
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: list[Literal["text"]] = ["text"]
    tools: Tools = []
    tool_choice: Choice = ToolChoice()
    parallel_tool_calls: bool = True
    """False: one call at most."""
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = None
    """For models whose chat template reads it, or `enable_thinking`."""
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] = {}
    """Variables for the model's chat template."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    @model_validator(mode="before")
    @classmethod
    def _messages_or_text(cls, value: dict[str, Any]) -> dict[str, Any]:
        messages = value.get("messages")
        value = {**value, "raw_prompt": None}
        if isinstance(messages, str):
            value |= {"messages": [], "raw_prompt": messages}
        elif messages == []:
            raise refuse("must hold at least one message", param="messages")
        return value

    @model_validator(mode="after")
    def _last_message_can_be_continued(self) -> "ChatRequest":
        slot_of(self)
        return self

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise refuse("needs `logprobs` to be true", param="top_logprobs")
        return self

    @model_validator(mode="after")
    def _chosen_tool_is_there(self) -> "ChatRequest":
        choice: ToolChoice = self.tool_choice
        if choice.mode in ("required", "named") and not self.tools:
            raise refuse("needs `tools`", param="tool_choice")
        names = [tool.name for tool in self.tools]
        if choice.mode == "named" and choice.name not in names:
            known = ", ".join(names[:20])
            message = f"names {(choice.name or '')[:64]!r}, which is not among `tools`: {known}"
            raise refuse(message, param="tool_choice")
        if choice.allowed is not None:
            self._keep_allowed_tools(choice.allowed, names)
        return self

    def _keep_allowed_tools(self, allowed: tuple[str, ...], names: list[str]) -> None:
        """What may not be called is not shown to the model either."""
        if unknown := [name for name in allowed if name not in names]:
            message = f"allows {unknown[0][:64]!r}, which is not among `tools`"
            raise refuse(message, param="tool_choice")
        self.tools = [tool for tool in self.tools if tool.name in allowed]

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Alternatives to report per token; None is no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    inner = COMPLETION

    not_built = {
        **_OTHER_SERVERS,
        "suffix": "put all text before the gap into `prompt`",
    }

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] = DEFAULT_COMPLETION_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None

    @model_validator(mode="after")
    def _choices_are_bounded(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of < self.n:
            raise refuse(f"must be at least `n`, which is {self.n}", param="best_of")
        if self.best_of is not None and self.best_of > self.n and self.stream:
            raise refuse("above `n` cannot be streamed", param="best_of")
        if len(self.prompt) * self.width > MAX_CHOICES:
            message = f"times `n` or `best_of` may ask for at most {MAX_CHOICES} answers"
            raise refuse(message, param="prompt")
        return self

    @property
    def width(self) -> int:
        """Answers generated for each prompt."""
        return max(self.n, self.best_of or 1)


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`."""

    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    """The vectors are cut to this length and normalized again."""

    @model_validator(mode="before")
    @classmethod
    def _engine_names_the_model(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {"model": value.get("engine"), **value} if "engine" in value else value

    @model_validator(mode="after")
    def _no_empty_text(self) -> "EmbeddingRequest":
        if "" in self.input:
            raise refuse("must not hold an empty text", param="input")
        return self


class TokenizeRequest(Body):
    """`POST /tokenize`: of a text, or of a conversation as the model would see it."""

    inner: ClassVar = {"messages": MESSAGES, "tools": TOOLS}

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES)] = []
    add_special_tokens: bool = True
    tools: Tools = []
    """With `messages`: what the model is told of beside them."""
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] = {}
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    @model_validator(mode="after")
    def _last_message_can_be_continued(self) -> "TokenizeRequest":
        slot_of(self)
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "TokenizeRequest":
        if (self.prompt is None) == (not self.messages):
            raise refuse("or `messages` must be given, and not both", param="prompt")
        return self


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    tokens: Annotated[
        list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=MAX_NEW_TOKENS)
    ]


def slot_of(body: ChatRequest | TokenizeRequest) -> Slot:
    """What the prompt of a conversation ends with.

    Raises a refusal where the last message is none that can be gone on with.
    """
    opens, continues = body.add_generation_prompt, body.continue_final_message
    return slot_after(body.messages, opens=opens, continues=continues)


_EMPTY = (None, False, "", [], {}, {"type": "text"}, "none")


def parse(kind: type[B], body: dict[str, Any]) -> B:
    """`body` as a checked value.

    Raises:
        UsageError: with the field at fault as its `param`.
    """
    for name, remedy in kind.not_built.items():
        if body.get(name) not in kind.harmless.get(name, _EMPTY):
            raise UsageError(f"`{name}` is not supported: {remedy}.", param=name)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise usage_error(error.errors(include_url=False)[0]) from None


def ignored_fields(kind: type[Body], body: dict[str, Any]) -> list[str]:
    """Names of fields in `body` that have no meaning here, the quiet ones left out; those inside
    of others by their path, as `messages.content.cache_control`."""
    own = {"constraint", "raw_prompt"}
    known = (kind.model_fields.keys() - own) | kind.quiet | kind.renamed | kind.not_built.keys()
    found = dict.fromkeys(name for name in body if name not in known)
    for name, known_inside in kind.inner.items():
        if name in body:
            found |= dict.fromkeys(unknown_inside(body[name], known_inside, name))
    return list(found)
