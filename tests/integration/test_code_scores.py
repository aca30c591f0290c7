from __future__ import annotations

from pathlib import Path

import pytest

from tunebook_eval import code_scores
from tunebook_eval.code_scores import (
    code_of,
    defines,
    find_cell,
    parses,
    pass_doctests,
    passes_ruff,
    ruff_problem,
)
from tunebook_spec.errors import StageError
from tunebook_spec.metrics import CodeDoctests

QUOTED = 'line-length = 79\n[lint]\nselect = ["Q", "F"]\n[lint.flake8-quotes]\ninline-quotes = "single"\n'
DOUBLE = 'def double(x):\n    """Twice.\n\n    >>> double(2)\n    4\n    """\n    return {}\n'
LIMITS = CodeDoctests(kind="code_doctests", timeout_s=2, memory_mib=256)


def passes(
    code: str, examples: str | None = ">>> True\nTrue\n", limits: CodeDoctests = LIMITS
) -> float | None:
    (found,) = pass_doctests(limits, [code], [examples])
    return found


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("x = 1", True),
        ("Sure:\n```python\nx = 1\n```\nThat is it.", True),
        ("Sure: x = 1", True),
        ("This is how it is done.", False),
        ("def f(:", False),
        ('x = "\\d"', True),
        ("\0", False),
        ("(" * 10_000, False),
        ("-" * 100_000 + "1", False),
    ],
    ids=["plain", "fenced", "annotation", "prose", "broken", "escape", "null", "nested", "deep"],
)
def test_code_parses(text: str, right: bool) -> None:
    assert parses(text) is right


def test_of_several_blocks_the_first_is_the_answer() -> None:
    assert code_of("```py\na\n```\n```\nb\n```") == "a\n"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("def f(a, *, b=1): ...", True),
        ("import os\n\ndef f(a: int, *, b: int = 1) -> int:\n    return a", True),
        ("```python\nasync def f(a, *, b=1): ...\n```", True),
        ("def f(a, b=1): ...", False),
        ("def g(a, *, b=1): ...", False),
        ("class C:\n    def f(a, *, b=1): ...", False),
        ("def f(a, *, b=1):", False),
        ("", False),
        (f"def f(a, *, b=1):\n    return 1{' + 1' * 900}", False),
    ],
    ids=["bare", "annotated", "fenced", "parameters", "name", "method", "broken", "empty", "deep"],
)
def test_an_answer_defines_what_was_asked_for(text: str, right: bool) -> None:
    assert defines(text, "f(a, *, b=1)") is right


def test_ruff_reads_all_answers_by_the_given_rules() -> None:
    texts = [
        "x = 'a'\n",
        'x = "a"\n',
        'x = "a"  # noqa\n',
        "import os\n",
        "def f(:",
        "```python\nx = 'a'\n```",
    ]
    assert passes_ruff(texts, QUOTED) == [True, False, False, False, False, True]
    assert passes_ruff([], QUOTED) == []


def test_an_answer_that_ruff_dies_of_is_not_clean_and_takes_no_other_with_it() -> None:
    deep = "a" + ".b" * 50_000
    assert passes_ruff(["x = 'a'\n", deep, 'x = "a"\n', deep, "x = 'b'\n"], QUOTED) == [
        *(True, False, False, False, True)
    ]


def test_a_configuration_that_ruff_refuses_is_told_before_a_run() -> None:
    assert ruff_problem(QUOTED) is None
    assert "selekt" in str(ruff_problem('[lint]\nselekt = ["Q"]'))
    with pytest.raises(StageError, match="selekt"):
        passes_ruff(["x = 1"], '[lint]\nselekt = ["Q"]')


def test_doctests_pass_or_fail_and_without_any_nothing_is_said() -> None:
    codes = [DOUBLE.format("2 * x"), DOUBLE.format("3 * x"), "def double(x): ...", "def double(x: return 1"]
    assert pass_doctests(LIMITS, codes, [None] * 4) == [1.0, 0.0, None, 0.0]
    assert [passes(code, "") for code in ("import kornia", "def f(:", "x = 1")] == [None] * 3
    assert passes("def triple(x):\n    return 3 * x", ">>> triple(3)\n9\n") == 1.0
    assert passes("def triple(x):\n    return 4 * x", ">>> triple(3)\n9\n") == 0.0
    assert passes(DOUBLE.format("2 * x"), "") is None, "the row has no examples"


def test_examples_of_what_was_imported_are_not_the_answers() -> None:
    assert passes("from collections import Counter", None) is None


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        'x = "a" * 10**9',
        "import os\nos._exit(0)",
        "raise SystemExit",
        "import os\nos.kill(os.getpid(), 9)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    ],
    ids=["loop", "memory", "exit", "SystemExit", "kill", "recursion"],
)
def test_code_that_does_not_end_well_has_failed_and_harms_nothing(code: str) -> None:
    assert passes(code) == 0.0


def test_code_that_is_deaf_to_its_limit_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_scores, "START_S", 2.0)
    deaf = "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    assert passes(deaf) == 0.0


def test_no_process_can_be_started(tmp_path: Path) -> None:
    tries = """
import os, subprocess, threading
started = []
for start in (os.fork, lambda: subprocess.run(["true"]), lambda: threading.Thread(target=print).start()):
    try:
        if start() == 0:
            os._exit(0)
        started.append(start)
    except (OSError, RuntimeError):
        pass
"""
    assert passes(tries, ">>> started\n[]\n") == 1.0
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    assert passes(bomb) == 0.0


@pytest.mark.parametrize(
    "said",
    ["b'5'", "b'[1, 0, 3]'", "b'[' * 100_000", "b'[1, 0][1, 0]'", "b'[1, -1]'", "b'x' * 2**26"],
    ids=["a number", "three", "nested", "twice", "negative", "a flood"],
)
def test_what_is_no_result_is_no_pass(said: str) -> None:
    write = f"""
import os
for number in range(3, 16):
    try:
        os.write(number, {said})
    except OSError:
        pass
os._exit(0)
"""
    assert passes(write) == 0.0


@pytest.mark.parametrize(
    "harm",
    [
        "os.remove(place + '/kept')",
        "open(place + '/kept', 'w').close()",
        "os.close(os.open(place + '/kept', os.O_RDWR | os.O_TRUNC))",
        "os.rename(place + '/kept', place + '/gone')",
        "os.mkdir(place + '/more')",
        "tempfile.mkdtemp(dir=place)",
        "shutil.rmtree(place, ignore_errors=True)",
        "os.kill(-1, 0)",
        "ctypes.CDLL(None).unlink((place + '/kept').encode())",
    ],
    ids=["delete", "empty", "truncate", "rename", "folder", "temporary", "tree", "signal", "ctypes"],
)
def test_code_that_may_write_in_a_folder_deletes_and_makes_nothing(harm: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    kept = tmp_path / "kept"
    kept.write_text("mine")
    kept.chmod(0o666)
    names = "shutil, tempfile, os" + (", ctypes" if "ctypes" in harm else "")
    code = f"import {names}\nplace = {str(tmp_path)!r}\n{harm}\ndone = True"
    assert passes(code, ">>> done\nTrue\n") == 0.0
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("kept", "mine")]


def test_code_reads_folders_and_modules(tmp_path: Path) -> None:
    code = "import decimal, json, os, random, re\nnames = [os.listdir('.'), list(os.walk('.'))[1:]]"
    assert passes(code, ">>> names\n[[], []]\n") == 1.0


def test_nothing_can_be_written_and_no_network_is_there(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    tmp_path.chmod(0o755)
    write = f"""
try:
    with open({str(kept)!r}, "a") as file:
        file.write("x" * 10)
except OSError:
    pass
"""
    passes(write)
    assert kept.read_text() == "mine"
    if find_cell().has_network:
        pytest.skip("this machine gives no network namespace")
    interfaces = "import os, socket\nnames = [name for _, name in socket.if_nameindex()]"
    assert passes(interfaces, ">>> names\n['lo']\n") == 1.0
