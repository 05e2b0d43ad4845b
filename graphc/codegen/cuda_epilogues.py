"""Products whose bias and activation the library can apply before it stores the result.

    c = a @ b;  out = relu(c + bias)   ->   out = a @ b with the epilogue RELU_BIAS

It saves a launch and a pass over c, but the library's kernel may be slower: the runner times both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from graphc.codegen.launches import EPILOGUES, Address, Choice, KernelLaunch, Launch, ProductLaunch
from graphc.ir.layout import contiguous_strides
from graphc.schedule.records import (
    Access,
    Buffer,
    Kernel,
    Load,
    Place,
    Program,
    Region,
    Value,
    buffer_nbytes,
)

DTYPE = "float32"


def find_choices(program: Program, launches: Sequence[Launch]) -> tuple[Choice, ...]:
    """The products of a program that could do what the kernel right after them does."""
    found: list[Choice] = []
    for i, (product, after) in enumerate(pairwise(launches)):
        if not isinstance(product, ProductLaunch) or not isinstance(after, KernelLaunch):
            continue
        alone = sum(x.kernel in (product.kernel, after.kernel) for x in launches) == 2
        if alone and after.kernel == product.kernel + 1:
            instead = _with_epilogue(program, product)
            if instead is not None:
                found.append(Choice(i, instead))
    return tuple(found)


def _with_epilogue(program: Program, launch: ProductLaunch) -> ProductLaunch | None:
    """The product with what follows as its epilogue, where it can be one."""
    kernel, after = program.kernels[launch.kernel], program.kernels[launch.kernel + 1]
    made = kernel.stores[0].access.base
    users = [k for k in program.kernels if any(a.base is made for a in k.reads)]
    whole = program.places[made].region is Region.ARENA and users == [after]
    if not whole or after.form != "elementwise" or len(after.stores) != 1:
        return None
    epilogue, bias = _epilogue(after, made, launch.product.n)
    if epilogue not in EPILOGUES or (bias is not None and launch.product.batch > 1):
        return None
    out = after.stores[0].access.base
    read = [a.base for a in (*kernel.reads, *([bias] if bias else []))]
    if out.dtype.name != DTYPE or any(_overlap(program, out, base) for base in read):
        return None
    if program.places[out].region is Region.PARAM:  # both are tried: nothing of value may be lost
        return None
    at = None if bias is None else Address(bias.base, bias.offset * bias.base.dtype.itemsize)
    product = replace(launch.product, epilogue=epilogue)
    return replace(launch, product=product, c=Address(out), bias=at)


def _epilogue(kernel: Kernel, made: Buffer, columns: int) -> tuple[str, Access | None]:
    """What the statements of a kernel are, one after another, as the name of an epilogue; and the
    bias that is added."""
    bias: Access | None = None
    names: list[str] = []
    before: Load | Value = Load(next(i for i, a in enumerate(kernel.operands) if a.base is made))
    if kernel.operands[before.index].strides != contiguous_strides(kernel.space):
        return "", None
    for i, statement in enumerate(kernel.statements):
        others = [a for a in statement.args if a != before]
        if len(others) != len(statement.args) - 1:
            return "", None
        if statement.node.op.algebra == "sum" and i == 0 and isinstance(others[0], Load):
            bias = kernel.operands[others[0].index]
            names.append("BIAS")
            if not _is_bias(bias, kernel, columns):
                return "", None
        elif not others and statement.node.op.epilogue:
            names.insert(0, statement.node.op.epilogue)
        else:
            return "", None
        before = Value(i)
    return ("_".join(names) if kernel.stores[0].value == before.index else ""), bias


def _is_bias(access: Access, kernel: Kernel, columns: int) -> bool:
    """Whether an operand is one value for each column."""
    steps = (*(0 for _ in kernel.space[:-1]), 1)
    return (
        access.strides == steps and kernel.space[-1] == columns
        and access.base.dtype.name == DTYPE
    )  # fmt: skip


def _overlap(program: Program, a: Buffer, b: Buffer) -> bool:
    """Whether two buffers share bytes."""
    first, second = program.places[a], program.places[b]
    if first.region is not Region.ARENA or second.region is not Region.ARENA:
        return a is b
    return first.offset < _end(second, b) and second.offset < _end(first, a)


def _end(place: Place, buffer: Buffer) -> int:
    return place.offset + buffer_nbytes(buffer)
