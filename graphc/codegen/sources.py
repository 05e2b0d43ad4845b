"""The hand-written sources under `kernels/`, and generated text with them spliced in."""

from __future__ import annotations

import re
from functools import lru_cache

from graphc.resources import folder

INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)


@lru_cache(maxsize=32)
def read(name: str) -> str:
    """The text of a file of `kernels/`."""
    return (folder("kernels") / name).read_text(encoding="utf-8")


def splice(text: str) -> str:
    """`text` with each file that it includes, directly or not, in place of the first include: one
    text that compiles alone, so that its hash covers all that it is made of."""
    seen: set[str] = set()

    def put_in(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in seen:
            return ""
        seen.add(name)
        return INCLUDE.sub(put_in, read(name))

    return INCLUDE.sub(put_in, text)
