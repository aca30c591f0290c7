"""Tells lines of JSONL that plainly hold a chat of text alone, in one pass over their bytes.

Numba compiles the loops, as it does those of `minhash`. They accept less than JSON has: whoever reads by them
reads any other line by a parser. Letters in names of arrays: B bytes, L lines, K bytes of a key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunebook_data.compiled import compiled, load_word, store_word
from tunebook_data.digest import SEPARATOR

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

_NO = -1
"""In place of where something ends: it is not what was looked for."""
_STOPS, _WIDE = 1, 2
"""Bytes that end a run of text, or begin what has to be looked at once it is whole."""
_ODD, _FILLED = 1, 2
"""Holds of a string: a byte or an escape beyond those that all text has; what is no white space."""
_SYSTEM_ROLE, _USER_ROLE, _ASSISTANT_ROLE = 1, 2, 3
_LINE_FEED, _TAB, _RETURN, _BLANK, _QUOTE, _BACKSLASH = b'\n\t\r "\\'
_OPEN, _CLOSE, _LIST, _END, _COMMA, _COLON = b"{}[],:"
_MINUS, _PLUS, _POINT, _ZERO, _NINE, _E, _T, _F, _U = b"-+.09etfu"
_DELETE = 0x7F
_WORD = 8
"""Bytes that are looked at together, as one number."""
_ONE, _TOP_BYTE = np.uint64(1), np.uint64(56)
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_BLANKS, _QUOTES, _BACKSLASHES = (np.uint64(byte) * _ONES for byte in b' "\\')
_MAX_DEPTH, _MAX_DIGITS, _MAX_MESSAGES = 60, 40, 200


def _bytes(text: str) -> Bytes:
    return np.frombuffer(text.encode(), np.uint8)


def _kinds() -> Bytes:
    """What each byte of a string is; 0: printable ASCII."""
    kinds = np.zeros(256, np.uint8)
    kinds[:_BLANK] = kinds[_QUOTE] = kinds[_BACKSLASH] = _STOPS
    kinds[_DELETE:] = _WIDE
    return kinds


def _escaped() -> Bytes:
    """What stands for each byte after a backslash; 0: it may not stand there, or stands for no text."""
    made = np.zeros(256, np.uint8)
    for name, value in zip('"\\/nrt', '"\\/\n\r\t', strict=True):
        made[ord(name)] = ord(value)
    return made


def _hex_digits() -> npt.NDArray[np.int8]:
    made = np.full(256, _NO, np.int8)
    for digit in "0123456789abcdefABCDEF":
        made[ord(digit)] = int(digit, 16)
    return made


def _lengths() -> Bytes:
    """How many bytes the first one of a character says that it has; 0: it begins none in sound text."""
    made = np.zeros(256, np.uint8)
    made[[*b"\t\n\r"]] = made[0x20:0x7F] = 1
    made[0xC2:0xE0], made[0xE0:0xF0], made[0xF0:0xF5] = 2, 3, 4
    return made


_KINDS, _ESCAPED, _HEX, _LENGTHS = _kinds(), _escaped(), _hex_digits(), _lengths()
_SEPARATOR = _bytes(SEPARATOR)
_MESSAGES, _TOOLS, _FUNCTIONS = _bytes("messages"), _bytes("tools"), _bytes("functions")
_ROLE, _CONTENT = _bytes("role"), _bytes("content")
_SYSTEM, _USER, _ASSISTANT = _bytes("system"), _bytes("user"), _bytes("assistant")
_NULL, _TRUE, _FALSE = _bytes("null"), _bytes("true"), _bytes("false")


@dataclass(frozen=True)
class PlainLines:
    """What was found in some lines."""

    ends_L: Numbers
    """Where the line feed of each stands."""
    num_messages_L: Numbers
    """0: the line is not plain, and the rest of it is void."""
    has_system_L: npt.NDArray[np.bool_]
    """Whether the first message is a system message."""
    is_odd_L: npt.NDArray[np.bool_]
    """Whether any field holds more than printable ASCII, white space, and escapes other than `\\u`."""
    texts: Bytes
    """The contents of a line's messages, joined by `SEPARATOR`, line after line."""
    text_ends_L: Numbers
    """Where those of each line end; where they begin, those of the line before end."""


def plain_lines(block: bytes, group_by: str | None, shortest: int, longest: int) -> PlainLines:
    """Look at whole lines.

    A plain one is an object that every JSON parser reads alike: `messages` of known roles in turn, each with
    a role and a content that is neither empty nor damaged, the last of some length; no tools; and a group.

    Args:
        block: lines, each with a line feed.
        group_by: a field that is text, and not empty; none: there need be no such field.
        shortest: characters of the last content at least.
        longest: at most.
    """
    num_lines = block.count(b"\n")
    made = PlainLines(
        np.empty(num_lines, np.int64),
        np.empty(num_lines, np.int64),
        np.empty(num_lines, np.bool_),
        np.empty(num_lines, np.bool_),
        np.empty(len(block), np.uint8),
        np.empty(num_lines, np.int64),
    )
    key = _bytes(group_by or "")
    _put_lines(
        np.frombuffer(block, np.uint8),
        key,
        shortest,
        longest,
        made.ends_L,
        made.num_messages_L,
        made.has_system_L,
        made.is_odd_L,
        made.texts,
        made.text_ends_L,
    )
    return made


@compiled
def _put_lines(
    block: Bytes,
    group_by: Bytes,
    shortest: int,
    longest: int,
    ends_L: Numbers,
    num_messages_L: Numbers,
    has_system_L: npt.NDArray[np.bool_],
    is_odd_L: npt.NDArray[np.bool_],
    texts: Bytes,
    text_ends_L: Numbers,
) -> None:
    at = to = 0
    for line in range(len(ends_L)):
        end, num, has_system, is_odd, text_end = _record(block, at, group_by, shortest, longest, texts, to)
        if end == _NO or block[end] != _LINE_FEED:
            num = 0
            end = at
            while block[end] != _LINE_FEED:
                end += 1
        else:
            to = text_end
        ends_L[line], num_messages_L[line] = end, num
        has_system_L[line], is_odd_L[line] = has_system, is_odd
        text_ends_L[line] = to
        at = end + 1


@compiled
def _record(
    data: Bytes, at: int, group_by: Bytes, shortest: int, longest: int, out: Bytes, to: int
) -> tuple[int, int, bool, bool, int]:
    """Read an object: where it and the blanks after it end, and what `PlainLines` tells of a line."""
    num, has_system, holds = 0, False, 0
    has_group = len(group_by) == 0
    at = _blanks(data, at)
    if data[at] != _OPEN:
        return _NO, 0, False, False, to
    at = _blanks(data, at + 1)
    while True:
        first = at + 1
        at, last, found = _key(data, at, out, to)
        if at == _NO:
            return _NO, 0, False, False, to
        holds |= found
        if _is(data, first, last, _MESSAGES):
            if num:
                return _NO, 0, False, False, to
            at, num, has_system, found, to = _messages(data, at, shortest, longest, out, to)
            holds |= found
        elif _is(data, first, last, _TOOLS) or _is(data, first, last, _FUNCTIONS):
            at = _word(data, at, _NULL)
        else:
            if len(group_by) and _is(data, first, last, group_by):
                if has_group or data[at] != _QUOTE or data[at + 1] == _QUOTE:
                    return _NO, 0, False, False, to
                has_group = True
            at, found = _value(data, at, out, to)
            holds |= found
        if at == _NO:
            return _NO, 0, False, False, to
        at = _blanks(data, at)
        if data[at] != _COMMA:
            break
        at = _blanks(data, at + 1)
    if data[at] != _CLOSE or not num or not has_group:
        return _NO, 0, False, False, to
    return _blanks(data, at + 1), num, has_system, holds & _ODD != 0, to


@compiled
def _messages(
    data: Bytes, at: int, shortest: int, longest: int, out: Bytes, to: int
) -> tuple[int, int, bool, int, int]:
    """Read a list of messages.

    Where it ends, how many they are, whether the first is of the system, what they hold, and where their
    contents end.
    """
    num, has_system, holds, num_chars = 0, False, 0, 0
    if data[at] != _LIST:
        return _NO, 0, False, 0, to
    at += 1
    while num < _MAX_MESSAGES:
        at = _blanks(data, at)
        if num:
            out[to], out[to + 1] = _SEPARATOR[0], _SEPARATOR[1]
            to += 2
        at, role, num_chars, found, to = _message(data, at, out, to)
        if at == _NO:
            return _NO, 0, False, 0, to
        holds |= found
        if num == 0 and role == _SYSTEM_ROLE:
            has_system = True
        elif role != (_ASSISTANT_ROLE if (num - has_system) % 2 else _USER_ROLE):
            return _NO, 0, False, 0, to
        num += 1
        at = _blanks(data, at)
        if data[at] != _COMMA:
            break
        at += 1
    if data[at] != _END or num < 2 or (num - has_system) % 2 or not shortest <= num_chars <= longest:
        return _NO, 0, False, 0, to
    return at + 1, num, has_system, holds, to


@compiled
def _message(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int, int, int, int]:
    """Read a role and a content in any order.

    Where they end, the role, how many characters the content has, what it holds, and where it ends.
    """
    role, num_chars, holds = 0, 0, 0
    if data[at] != _OPEN:
        return _NO, 0, 0, 0, to
    at += 1
    for is_last in (False, True):
        at = _blanks(data, at)
        first = at + 1
        at, last, _ = _key(data, at, out, to)
        if at == _NO or data[at] != _QUOTE:
            return _NO, 0, 0, 0, to
        if role == 0 and _is(data, first, last, _ROLE):
            first = at + 1
            at, _, _, _ = _string(data, at, out, to)
            if at == _NO:
                return _NO, 0, 0, 0, to
            role = _role(data, first, at - 1)
        elif num_chars == 0 and _is(data, first, last, _CONTENT):
            at, to, num_chars, holds = _string(data, at, out, to)
        else:
            return _NO, 0, 0, 0, to
        if at == _NO:
            return _NO, 0, 0, 0, to
        at = _blanks(data, at)
        if data[at] != (_CLOSE if is_last else _COMMA):
            return _NO, 0, 0, 0, to
        at += 1
    if role == 0 or not holds & _FILLED:
        return _NO, 0, 0, 0, to
    return at, role, num_chars, holds & _ODD, to


@compiled
def _role(data: Bytes, first: int, last: int) -> int:
    if _is(data, first, last, _SYSTEM):
        return _SYSTEM_ROLE
    if _is(data, first, last, _USER):
        return _USER_ROLE
    if _is(data, first, last, _ASSISTANT):
        return _ASSISTANT_ROLE
    return 0


@compiled
def _value(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int]:
    """Where a value of any kind ends, and what its strings hold."""
    depth, is_object, holds = 0, np.uint64(0), 0
    while True:
        at = _blanks(data, at)
        byte = data[at]
        if byte == _QUOTE:
            at, _, _, found = _string(data, at, out, to)
            holds |= found
        elif byte == _OPEN or byte == _LIST:
            depth += 1
            if depth > _MAX_DEPTH:
                return _NO, 0
            is_object = is_object << np.uint64(1) | np.uint64(byte == _OPEN)
            at = _blanks(data, at + 1)
            if data[at] != byte + 2:
                if byte == _OPEN:
                    at, _, found = _key(data, at, out, to)
                    if at == _NO:
                        return _NO, 0
                    holds |= found
                continue
        elif byte == _MINUS or _ZERO <= byte <= _NINE:
            at = _number(data, at)
        elif byte == _T:
            at = _word(data, at, _TRUE)
        elif byte == _F:
            at = _word(data, at, _FALSE)
        else:
            at = _word(data, at, _NULL)
        if at == _NO:
            return _NO, 0
        while depth:
            at = _blanks(data, at)
            byte = data[at]
            if byte == _COMMA:
                break
            if byte != (_CLOSE if is_object & np.uint64(1) else _END):
                return _NO, 0
            at += 1
            depth -= 1
            is_object >>= np.uint64(1)
        if depth == 0:
            return at, holds
        at = _blanks(data, at + 1)
        if is_object & np.uint64(1):
            at, _, found = _key(data, at, out, to)
            if at == _NO:
                return _NO, 0
            holds |= found


@compiled
def _key(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int, int]:
    """Where the value of a key begins, where the key ends, and what it holds; no escapes in it."""
    if data[at] != _QUOTE:
        return _NO, at, 0
    first = at + 1
    at, end, _, holds = _string(data, at, out, to)
    if at == _NO or end - to != at - 1 - first:
        return _NO, at, 0
    last = at - 1
    at = _blanks(data, at)
    if data[at] != _COLON:
        return _NO, at, 0
    return _blanks(data, at + 1), last, holds


@compiled
def _string(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int, int, int]:
    """Unescape a string: where it ends, the end of what was put, how many characters, and what it holds."""
    start, is_wide = to, False
    at += 1
    while True:
        while at + _WORD <= len(data):
            word = load_word(data, at)
            store_word(out, to, word)  # nothing is put that was not read: `to` is never ahead of `at`
            stops = _stops(word)
            if stops:
                before = _before(stops)
                is_wide |= _wide(word) & before != 0
                # The lowest bit of each byte up to the one that stops, summed in the highest byte.
                num = int(np.int64((before & _ONES) * _ONES >> _TOP_BYTE)) - 1
                at += num
                to += num
                break
            is_wide |= _wide(word) != 0
            at += _WORD
            to += _WORD
        byte = data[at]
        while not _KINDS[byte] & _STOPS:
            is_wide |= _KINDS[byte] != 0
            out[to] = byte
            at += 1
            to += 1
            byte = data[at]
        if byte == _QUOTE:
            break
        if byte != _BACKSLASH:
            return _NO, to, 0, 0
        at += 1
        if data[at] == _U:
            at, to = _unicode(data, at + 1, out, to)
            if at == _NO:
                return _NO, to, 0, 0
            is_wide = True
            continue
        out[to] = _ESCAPED[data[at]]
        if out[to] == 0:
            return _NO, to, 0, 0
        at += 1
        to += 1
    if is_wide:
        num_chars, is_filled = _sound(out, start, to)
        if num_chars == _NO:
            return _NO, to, 0, 0
        return at + 1, to, num_chars, _ODD | (_FILLED if is_filled else 0)
    for place in range(start, to):
        if out[place] > _BLANK:
            return at + 1, to, to - start, _FILLED
    return at + 1, to, to - start, 0


@compiled
def _stops(word: np.uint64) -> np.uint64:
    """The highest bit of the first byte that ends a run of text, and of some after it; 0: there is none.

    A byte less than another has its highest bit set by subtraction, which borrows from those after it alone.
    """
    quote, backslash = word ^ _QUOTES, word ^ _BACKSLASHES
    return (_controls(word) | ((quote - _ONES) & ~quote) | ((backslash - _ONES) & ~backslash)) & _HIGHS


@compiled
def _controls(word: np.uint64) -> np.uint64:
    """The same of control characters; the other bits are void."""
    return (word - _BLANKS) & ~word


@compiled
def _wide(word: np.uint64) -> np.uint64:
    """The highest bit of each byte that is no ASCII, or DEL, and maybe of some after it."""
    return (word | (word + _ONES)) & _HIGHS


@compiled
def _before(stops: np.uint64) -> np.uint64:
    """All bits below the lowest one."""
    return (stops & (~stops + _ONE)) - _ONE


@compiled
def _unicode(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int]:
    """Put the character of one escape, or of two that make a pair: where they end, and where that ends."""
    code = _hex(data, at)
    at += 4
    if 0xD800 <= code < 0xDC00:
        low = _hex(data, at + 2) if data[at] == _BACKSLASH and data[at + 1] == _U else _NO
        if not 0xDC00 <= low < 0xE000:
            return _NO, to
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        at += 6
    elif code == _NO or 0xDC00 <= code < 0xE000:
        return _NO, to
    if code < 0x80:
        out[to] = code
        return at, to + 1
    if code < 0x800:
        out[to] = 0xC0 | code >> 6
    elif code < 0x10000:
        out[to], out[to + 1] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F
        to += 1
    else:
        out[to], out[to + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
        out[to + 2] = 0x80 | code >> 6 & 0x3F
        to += 2
    out[to + 1] = 0x80 | code & 0x3F
    return at, to + 2


@compiled
def _hex(data: Bytes, at: int) -> int:
    """The number that four hexadecimal digits are."""
    code = 0
    for place in range(at, at + 4):
        digit = _HEX[data[place]]
        if digit == _NO:
            return _NO
        code = code << 4 | digit
    return code


@compiled
def _sound(data: Bytes, at: int, end: int) -> tuple[int, bool]:
    """How many characters a text has, and whether one is plainly no white space.

    None if it is no UTF-8, or holds what `checks.damaged_text` finds, or what nearly looks like it.
    """
    num, is_filled = 0, False
    while at < end:
        if at + _WORD <= end:
            word = load_word(data, at)
            if not (_wide(word) | _controls(word)) & _HIGHS:
                is_filled |= word != _BLANKS
                at += _WORD
                num += _WORD
                continue
        lead = data[at]
        length = _LENGTHS[lead]
        if length == 0 or at + length > end:
            return _NO, False
        for place in range(at + 1, at + length):
            if data[place] & 0xC0 != 0x80:
                return _NO, False
        if length == 1:
            is_filled |= lead > 0x20
        else:
            second = data[at + 1]
            after = data[at + length] if at + length < end else 0
            if (
                (lead == 0xC2 and second < 0xA0)  # C1 controls
                or (lead == 0xC3 and second <= 0x83 and second >= 0x82 and after == 0xC2)  # A with a sign
                or (lead == 0xC3 and second == 0xA2 and after == 0xE2)
                or (lead == 0xC3 and second == 0xB0 and after == 0xC5)
                or (lead == 0xEF and second == 0xBF)  # U+FFFD among them
                or (lead == 0xE0 and second < 0xA0)  # longer than need be, half a pair, or beyond Unicode
                or (lead == 0xED and second >= 0xA0)
                or (lead == 0xF0 and second < 0x90)
                or (lead == 0xF4 and second >= 0x90)
            ):
                return _NO, False
            # White space beyond ASCII begins C2, E1 9A, E2 80, E2 81 or E3 80.
            may_be_blank = second == 0x80 or (lead < 0xE3 and (second == 0x81 or second == 0x9A))
            is_filled |= lead > 0xC2 and not (0xE0 < lead < 0xE4 and may_be_blank)
        at += length
        num += 1
    return num, is_filled


@compiled
def _number(data: Bytes, at: int) -> int:
    """Where a number ends; none if it is so long, or has such an exponent, that it may be too great."""
    first = at
    at += data[at] == _MINUS
    if data[at] == _ZERO:
        at += 1
    else:
        at = _digits(data, at)
    if at != _NO and data[at] == _POINT:
        at = _digits(data, at + 1)
    if at == _NO or at - first > _MAX_DIGITS:
        return _NO
    if data[at] | 0x20 == _E:
        at += 1
        at += data[at] == _PLUS or data[at] == _MINUS
        power = at
        at = _digits(data, at)
        if at - power > 2:
            return _NO
    return at


@compiled
def _digits(data: Bytes, at: int) -> int:
    """Where one or more digits end."""
    first = at
    while _ZERO <= data[at] <= _NINE:
        at += 1
    return at if at > first else _NO


@compiled
def _word(data: Bytes, at: int, word: Bytes) -> int:
    """Where a word ends."""
    for byte in word:
        if data[at] != byte:
            return _NO
        at += 1
    return at


@compiled
def _is(data: Bytes, first: int, last: int, word: Bytes) -> bool:
    if last - first != len(word):
        return False
    for k in range(len(word)):
        if data[first + k] != word[k]:
            return False
    return True


@compiled
def _blanks(data: Bytes, at: int) -> int:
    """Where the blanks that may stand at a place end."""
    while data[at] == _BLANK or data[at] == _TAB or data[at] == _RETURN:
        at += 1
    return at
