"""Which module reads and writes which version; each is imported when first used."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from quantsim_encodings._problems import ProblemCollector
from quantsim_encodings.document import EncodingsDocument, EncodingsVersion
from quantsim_encodings.loss import LossReport


@dataclass(frozen=True)
class VersionCodec:
    """How one version is read and written.

    Args:
        model: Pydantic model of the file.
        decode: Builds the document from the model, noting problems.
        encode: Builds the JSON value from a document, reporting what cannot be held.
    """

    model: type[BaseModel]
    decode: Callable[[Any, ProblemCollector], EncodingsDocument]
    encode: Callable[[EncodingsDocument, LossReport, Collection[str] | None], dict[str, Any]]


@cache
def codec_for(version: EncodingsVersion) -> VersionCodec:
    """The codec of a version."""
    if version is EncodingsVersion.QUANTSIM:
        from quantsim_encodings.versions import quantsim_1 as module
    elif version is EncodingsVersion.AIMET_0_6_1:
        from quantsim_encodings.versions import aimet_0_6_1 as module
    elif version is EncodingsVersion.AIMET_1_0_0:
        from quantsim_encodings.versions import aimet_1_0_0 as module
    elif version is EncodingsVersion.AIMET_TORCH:
        from quantsim_encodings.versions import aimet_torch as module
    else:
        from quantsim_encodings.versions import aimet_2

        model = aimet_2.File20 if version is EncodingsVersion.AIMET_2_0_0 else aimet_2.File21
        return VersionCodec(model, aimet_2.decode, aimet_2.encode)
    return VersionCodec(module.File, module.decode, module.encode)
