import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

import datasets
from contender import compete
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

CORES = len(os.sched_getaffinity(0))
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\ufffd")
MOJIBAKE = re.compile("[\u00c2\u00c3][\u00a0-\u00bf]|\u00e2\u20ac|\u00f0\u0178")
REASONS = {
    ("messages",): "no list of messages",
    ("role",): "role is none of system, user, assistant, tool",
    ("content",): "content is not a string",
}


def fault(reason: str) -> PydanticCustomError:
    return PydanticCustomError("row", reason)  # type: ignore[arg-type]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str


class Chat(BaseModel):
    messages: list[Message]

    @model_validator(mode="after")
    def rules(self) -> Self:
        roles = [message.role for message in self.messages]
        if len(roles) < 2:
            raise fault("fewer than two messages")
        for index, role in enumerate(roles[roles[0] == "system" :]):
            if role != ("user", "assistant")[index % 2]:
                raise fault("roles do not alternate user, assistant after an optional system message")
        if roles[-1] != "assistant":
            raise fault("the last message is not the assistant's")
        for message in self.messages:
            if CONTROL.search(message.content):
                raise fault("control characters")
            if MOJIBAKE.search(message.content):
                raise fault("encoding damage")
        if not all(message.content.strip() for message in self.messages):
            raise fault("empty content")
        if len(self.messages[-1].content) < 10:
            raise fault("answer shorter than min_response_chars 10")
        if len(self.messages[-1].content) > 4000:
            raise fault("answer longer than max_response_chars 4000")
        return self


def judge(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    reasons, hashes = [], []
    for messages in batch["messages"]:
        try:
            chat = Chat.model_validate({"messages": messages})
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False, include_input=False)
            reasons.append(first["msg"] if first["type"] == "row" else REASONS[first["loc"][-1:]])
            hashes.append(b"")
        else:
            reasons.append("")
            hashes.append(hashlib.blake2b(chat.model_dump_json().encode(), digest_size=16).digest())
    return {"reason": reasons, "hash": hashes}


def work(folder: Path) -> tuple[list[str], list[int]]:
    rows = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train")
    judged = rows.map(judge, batched=True, num_proc=CORES, remove_columns=rows.column_names)
    reasons, seen, duplicates = judged["reason"][:], set(), []
    for number, (reason, digest) in enumerate(zip(reasons, judged["hash"][:], strict=True), start=1):
        if reason:
            continue
        if digest in seen:
            duplicates.append(number)
        seen.add(digest)
    return reasons, duplicates


def answer(found: tuple[list[str], list[int]]) -> dict[str, Any]:
    reasons, duplicates = found
    rejects = [f"{number} {reason}" for number, reason in enumerate(reasons, start=1) if reason]
    return {
        "lines": len(reasons),
        "rejects": dict(sorted(Counter(filter(None, reasons)).items())),
        "rejects_sha256": hashlib.sha256("\n".join(sorted(rejects)).encode()).hexdigest()[:16],
        "duplicates": len(duplicates),
        "duplicates_sha256": hashlib.sha256(str(duplicates).encode()).hexdigest()[:16],
    }


if __name__ == "__main__":
    datasets.disable_progress_bars()
    compete(work, answer, "datasets", "pydantic")
