"""Triton kernels. This package imports Triton only when a kernel is launched; until then it knows only whether it may.

A kernel may be launched on a CUDA tensor, or on a CPU tensor when ``TRITON_INTERPRET=1`` was in the environment before
Triton was loaded (its interpreter, used in tests).
"""

from quantsim_kernels.triton.availability import is_installed, is_interpreted, launch_objection

__all__ = ["is_installed", "is_interpreted", "launch_objection"]
