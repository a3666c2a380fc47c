"""Module forms of functional ops and their quantized classes, under the path that they have in AIMET.

Example:
    >>> from quantsim.nn.modules.custom import Add, QuantizedAdd
    >>> QuantizedAdd()(1.0, 2.0)
    3.0
"""

from __future__ import annotations

from quantsim.nn import functional_modules as _functional_modules
from quantsim.nn import quantized_modules as _quantized_modules
from quantsim.nn.functional_modules import *  # noqa: F403
from quantsim.nn.quantized_modules import *  # noqa: F403

__all__: list[str] = []
__all__ += _functional_modules.__all__
__all__ += _quantized_modules.__all__
