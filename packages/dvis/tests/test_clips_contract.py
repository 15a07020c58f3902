"""The data contract on generated videos, with and without augmentation."""

import pytest

from mlkit_core.testing import checks
from mlkit_core.testing.subject import Subject
from mlkit_core.types import Example
from mlkit_dvis.plugin import mlkit_components

SPEC = next(spec for spec in mlkit_components() if spec.name == "video-clips")


@pytest.mark.parametrize("check", checks.CHECKS["data"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("augment", [True, False])
def test_video_clips_keeps_the_contract(check, augment, tmp_path):
    subject = Subject.of(SPEC, tmp_path)
    options = {**subject.example.options, "augment": augment}
    check(Subject(SPEC, Example(options, subject.example.args)))
