"""Import PyTorch, torchvision and timm faster."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def pause_garbage_collection() -> None:
    """Stop Python's garbage collector until `resume_garbage_collection`; call it before PyTorch is imported.

    The imports make half a million objects and hardly any garbage. The collector would look through all of them again
    and again.
    """
    gc.disable()


def resume_garbage_collection() -> None:
    """Start the garbage collector again after `pause_garbage_collection`; it ignores all objects made so far."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import torchvision or timm inside the block without PyTorch's compiler, which takes seconds.

    Both import the compiler for two functions only: the first checks whether roi_align, which this project does not
    use, can be compiled; the second excludes a function from compilation. The compiler can still be imported
    afterwards; creating an optimizer imports it.
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
