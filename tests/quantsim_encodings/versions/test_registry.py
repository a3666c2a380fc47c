from __future__ import annotations

import pytest

from quantsim_encodings import EncodingsVersion
from quantsim_encodings.versions import codec_for


@pytest.mark.parametrize("version", EncodingsVersion)
def test_each_version_has_its_codec(version: EncodingsVersion) -> None:
    codec = codec_for(version)
    assert codec is codec_for(version)
    assert len({codec_for(other).model for other in EncodingsVersion}) == len(EncodingsVersion)
    declared = codec.model.model_fields["version"].annotation
    assert version is EncodingsVersion.AIMET_TORCH or version.value in str(declared)
