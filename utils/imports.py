"""Faster imports."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import torchvision or timm inside the block without PyTorch's compiler, which takes seconds.

    The two import the compiler for two functions only: one tells whether an operator can be compiled that this project
    does not use, the other keeps a function from being compiled. The compiler can still be imported afterwards; an
    optimiser does so.
    """
    names = ("torch._dynamo", "torch._dynamo.utils")
    if names[0] in sys.modules:
        yield
        return
    stand_in = ModuleType(names[0])
    vars(stand_in).update(is_compile_supported=lambda device: False, disable=lambda function, *_, **__: function)
    sys.modules |= dict.fromkeys(names, stand_in)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
