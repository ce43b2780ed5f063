"""pipelines/attempt.py: a place that would be lost is refused."""

import pytest

from pipelines.attempt import check_place

IN_A_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


@pytest.mark.parametrize("output", ["out/run", "./run"])
def test_a_relative_folder_inside_a_ray_job_is_refused(output: str) -> None:
    check_place(output, {})
    with pytest.raises(ValueError, match="absolute path"):
        check_place(output, IN_A_JOB)


@pytest.mark.parametrize("output", ["/mnt/run", "~/run", "s3://bucket/run", "file:///mnt/run"])
def test_other_places_are_fine_inside_a_ray_job(output: str) -> None:
    check_place(output, IN_A_JOB)
