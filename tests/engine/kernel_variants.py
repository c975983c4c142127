"""Which versions of a kernel Triton compiles, and the compiling of some for a GPU that is not there.

The interpreter that runs kernels without a GPU has Python's rules for names and types; the compiler's are stricter.
"""

import importlib
import inspect
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

H100 = ("cuda", 90, 32)  # backend, compute capability, threads of a warp
_POINTERS = {
    "torch.bool": "*i1",
    "torch.int32": "*i32",
    "torch.int64": "*i64",
    "torch.bfloat16": "*bf16",
    "torch.float32": "*fp32",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One version.

    Attributes:
        module: of the kernel.
        name: of the kernel.
        arguments: name and kind of each: `constant` and its value; `pointer`, what of, and whether it is known to begin
            at a multiple of 16 bytes; `integer`, and whether it is known to be one, or a multiple of 16; `number`.
        num_warps: of a program.
    """

    module: str
    name: str
    arguments: tuple[tuple[str, tuple[Any, ...]], ...]
    num_warps: int

    @classmethod
    def of(cls, kernel: Any, args: Sequence[object], options: dict[str, object]) -> "Variant":
        """What the compiler would be asked for by a call of this kernel of the interpreter's."""
        integers = kernel.kwargs.get("do_not_specialize") or ()
        places = kernel.kwargs.get("do_not_specialize_on_alignment") or ()
        given = dict(zip(kernel.arg_names, args, strict=False)) | options
        kinds = inspect.signature(kernel.fn).parameters

        def kind(name: str) -> tuple[Any, ...]:
            value = given[name]
            if "constexpr" in str(kinds[name].annotation) or value is None:
                return "constant", value
            if isinstance(value, torch.Tensor):
                return "pointer", str(value.dtype), name not in places and value.data_ptr() % 16 == 0
            if isinstance(value, int):
                return (
                    "integer",
                    name not in integers and value == 1,
                    name not in integers and value % 16 == 0,
                )
            return ("number",)

        arguments = tuple((name, kind(name)) for name in kernel.arg_names)
        return cls(kernel.fn.__module__, kernel.fn.__name__, arguments, int(options.get("num_warps", 4)))

    def compile(self) -> None:
        """Compile it for an H100; Triton must have been imported without its interpreter."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature: dict[str, str] = {}
        constants: dict[str, Any] = {}
        attributes = {}
        for number, (name, (kind, *details)) in enumerate(self.arguments):
            if kind == "constant" or (kind == "integer" and details[0]):
                signature[name], constants[name] = "constexpr", details[0] if kind == "constant" else 1
                continue
            signature[name] = {"integer": "i32", "number": "fp32"}.get(kind) or _POINTERS[details[0]]
            if kind != "number" and details[1]:
                attributes[number,] = [["tt.divisibility", 16]]
        source = ASTSource(
            getattr(importlib.import_module(self.module), self.name), signature, constants, attributes
        )
        triton.compile(source, target=GPUTarget(*H100), options={"num_warps": self.num_warps})


if __name__ == "__main__":
    for variant in pickle.load(sys.stdin.buffer):
        variant.compile()
