"""Tables of plain text."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as lines, two spaces between columns: the first `left` columns are aligned to
    the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
