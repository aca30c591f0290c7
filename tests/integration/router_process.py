"""A server of several engines as it runs, over programs that stand for vLLM.

Arguments: port, a folder with a traffic file or none, and the names of each engine's model, with commas.
"""

from __future__ import annotations

import sys
from pathlib import Path

from model_server.engine import Engine
from model_server.process import run
from model_server.traffic import Traffic, load_traffic
from tunebook_spec.errors import TunebookError

if __name__ == "__main__":
    port, folder, *each = sys.argv[1:]
    engines = []
    for number, names in enumerate(each):
        socket = Path(folder) / f"{number}.sock"
        program = str(Path(__file__).with_name("scripted_engine.py"))
        command = [sys.executable, program, names.split(",")[0], str(socket)]
        engines.append(Engine(tuple(names.split(",")), socket, command))
    names = [name for engine in engines for name in engine.names]
    try:
        file = Path(folder) / "traffic.yaml"
        traffic = load_traffic(file, names) if file.exists() else Traffic()
        run(engines, traffic, Path(folder), host="127.0.0.1", port=int(port))
    except TunebookError as ended:
        sys.exit(f"error: {ended}")
