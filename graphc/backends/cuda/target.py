"""What fusion is to know of a GPU.

Parameters are updated by one flat kernel, whatever their size: a launch costs more than a pass over
them. Products are the library's, which writes its result and nothing else.
"""

from __future__ import annotations

from graphc.schedule.records import Target

LIKES = Target("cuda", beta=False, epilogue=False, horizontal=1 << 62, alignment=256)
