"""The models that a spec names: the one that is tuned, and those that write or judge."""

from __future__ import annotations

import re
from string import Template
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunebook_spec.fields import Frozen, null_removes

BuiltinModelName = Literal["smollm2-135m-instruct"]


class BaseModelReference(Frozen):
    chat_template_kwargs: Annotated[dict[str, str | bool], null_removes(dict[str, str | bool | None])] = (
        Field({})
    )
    """Fixed arguments of the chat template, e.g. `date_string` where a template would print today's date."""


class BuiltinModel(BaseModelReference):
    kind: Literal["builtin"]
    name: BuiltinModelName
    """A model that set-up puts on the machine."""


class FolderModel(BaseModelReference):
    kind: Literal["folder"]
    path: str
    """A folder in Hugging Face layout: config, tokenizer with chat template, safetensors."""


class GgufModel(BaseModelReference):
    kind: Literal["gguf"]
    path: str
    """A GGUF file; its weights are dequantised."""


class HubModel(BaseModelReference):
    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """`owner/name` on the Hugging Face hub; reached only with TUNEBOOK_HUB_ONLINE=true, or from its cache."""
    revision: str = "main"


AnyBaseModel = Annotated[BuiltinModel | FolderModel | GgufModel | HubModel, Field(discriminator="kind")]


class EndpointModel(Frozen):
    kind: Literal["endpoint"]
    """An endpoint of the OpenAI protocol; where it is, its key, prices and budget are settings of the
    machine: TUNEBOOK_MODELS__<ROLE>__BASE_URL and so on."""
    model: str = Field(min_length=1)
    """The name that the endpoint knows the model by."""


class HostedModel(Frozen):
    """What `method: hosted` tunes, or has made of it; no supporting model, so no part of `models`."""

    kind: Literal["hosted"]
    model: str
    """The name of the model that is tuned; what was made of it is known when it is."""


class ScriptedReply(Frozen):
    pattern: str
    """A regular expression (Python's), looked for in the last message that the model is sent."""
    answers: tuple[str, ...] = Field(min_length=1)
    """What it then answers: the first one, and with several samples one after the other. `$name` stands for
    what the group `(?P<name>...)` of the pattern has found; a dollar sign is written `$$`."""

    @model_validator(mode="after")
    def answers_name_groups_of_the_pattern(self) -> ScriptedReply:
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        for answer in self.answers:
            template = Template(answer)
            if not template.is_valid():
                raise ValueError(f"{answer!r} has a $ that names nothing; write $$ for a dollar sign")
            unknown = sorted(set(template.get_identifiers()) - set(groups))
            if unknown:
                way_out = f"write (?P<{unknown[0]}>...) in it, or $$ for a dollar sign"
                raise ValueError(f"{answer!r}: the pattern has no group {unknown[0]!r}; {way_out}")
        return self


class ScriptedModel(Frozen):
    """No model: it says what it is told to, so that the way of the data can be tried at no cost."""

    kind: Literal["scripted"]
    script: tuple[ScriptedReply, ...] = ()
    """The first whose pattern is found answers; where none is, there is no answer."""
    path: str | None = None
    """The same as lines of JSON in a file, relative to the spec."""

    @model_validator(mode="after")
    def its_script_stands_in_one_place(self) -> ScriptedModel:
        if bool(self.script) == (self.path is not None):
            raise ValueError("a scripted model has either a `script` or the `path` of one")
        return self


AnySupportingModel = Annotated[
    EndpointModel | ScriptedModel | BuiltinModel | FolderModel | GgufModel | HubModel,
    Field(discriminator="kind"),
]
"""All but an endpoint and a script are run on this machine, by vLLM."""


def is_same_model(one: AnySupportingModel | AnyBaseModel, other: AnySupportingModel | AnyBaseModel) -> bool:
    """Whatever arguments their templates are given."""
    left_out = {"chat_template_kwargs"}
    return one.model_dump(exclude=left_out) == other.model_dump(exclude=left_out)
