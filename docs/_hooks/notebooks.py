"""An executed notebook as a Markdown page: its text, its code, what it printed and its pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def markdown_of(path: Path) -> str:
    """The page of a notebook; pictures stand in it as they are stored, in base64."""
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [text for output in cell["outputs"] if (text := _of_output(output))]
    return "\n\n".join(parts) + "\n"


def _of_output(output: dict[str, Any]) -> str | None:
    """What a cell left: a picture, or text without the colours of a terminal."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})"
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(output.get("text", data.get("text/plain", ""))))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else None
