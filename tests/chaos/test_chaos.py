"""Two servers are broken for a minute while people call each other, and every invariant holds."""

import pytest

from tests.chaos.running import run_chaos
from tests.servers import on_daphne


@on_daphne
@pytest.mark.timeout(600)
@pytest.mark.alone
def test_calls_survive_a_minute_of_faults(tmp_path):
    result = run_chaos(tmp_path)
    assert result.violations == 0, "\n".join(
        f"{outcome.name}: {sentence}" for outcome in result.outcomes for sentence in outcome.sentences
    )
    assert sum(outcome.calls for outcome in result.outcomes) > 20
