"""A run ends at its budget as at a SIGTERM, and goes on with a larger one."""

from pathlib import Path

import pytest
from runs import MakeConfig
from whole_runs import check_sound, receipts_of

from cluster.errors import BudgetSpentError
from cluster.storage import open_store
from pipelines.budget import read_spent
from pipelines.run import run


@pytest.mark.slow
def test_a_run_stops_at_its_budget_and_goes_on_with_more(
    local_ray: None, make_config: MakeConfig, tmp_path: Path
) -> None:
    words = [
        "unit_size=2",
        "pools.generator.num_gpus=1",
        "pools.captioner.num_gpus=1",
        "pools.generator.batch_size=2",
        "generator.simulated.call_s=0.6",
        "captioner.simulated.call_s=0.1",
        "limits.grace_s=2",
        "plan.gpu_hour_price=3600",
    ]
    # Two GPUs, and of the 16 GPU-seconds 8 are kept back: 2 s of grace, and one look.
    with pytest.raises(BudgetSpentError, match="the budget is spent") as told:
        run(make_config(*words, "limits.budget.cost=16"))
    assert "earlier attempts" not in str(told.value)
    check_sound(tmp_path / "run")
    done = receipts_of(tmp_path / "run")
    assert 0 < len(done) < 15, "what was under way is committed, the rest is left"
    spent = [one.most_gpu_s for one in read_spent(open_store(str(tmp_path / "run")))]
    assert 8 <= sum(spent) <= 16
    with pytest.raises(BudgetSpentError, match="by 1 earlier attempts"):
        run(make_config(*words, "limits.budget.cost=16"))
    assert receipts_of(tmp_path / "run") == done, "refused before a model is loaded"
    totals = run(make_config(*words, "limits.budget.cost=1000"))
    assert totals.num_pairs == 30
