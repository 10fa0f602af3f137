"""Small random checkpoints that the tests of this folder read."""

from __future__ import annotations

import pytest

from tests.model.random_models import Checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))
